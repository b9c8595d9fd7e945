"""What is asked about objects: where they are moved to, and what they say of themselves."""

import json
import unicodedata
from typing import Any

from django import forms

from buckets.names import MAX_METADATA_BYTES
from keys.printable import is_unseen
from keys.web.forms import UiForm


class PathField(forms.CharField):
    """A part of a key, taken as it is typed, blanks and all.

    A line break can't be typed into it, nor shown there. What comes back as it was but for these was not changed.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strip=False, **kwargs)
        self.widget.attrs |= {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}

    def as_it_was(self, typed: str, before: str) -> str:
        return before if typed == before.replace("\r", "").replace("\n", "") else typed


class MoveForm(UiForm):
    """A folder to move to; for one object or one folder alone its new name as well."""

    folder = PathField(
        label="Folder",
        required=False,
        max_length=1024,
        help_text="From the bucket’s top, such as photos/2026/. Empty: the top. It need not exist yet.",
    )
    name = PathField(label="Name", max_length=1024)
    overwrite = forms.BooleanField(label="Overwrite objects that are there already", required=False)
    renames = {"to": "folder", "to_prefix": "folder", "from": "name"}

    def __init__(self, *args: Any, with_name: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not with_name:
            del self.fields["name"]

    def clean_folder(self) -> str:
        folder = self._taken("folder")
        return folder if not folder or folder.endswith("/") else f"{folder}/"

    def clean_name(self) -> str:
        return self._taken("name")

    def _taken(self, name: str) -> str:
        field = self.fields[name]
        assert isinstance(field, PathField)
        return field.as_it_was(str(self.cleaned_data[name]), str(self.initial.get(name, "")))


class MetadataField(forms.CharField):
    """Metadata in lines of ``name: value``; a value that no line shows as it is stands there as a JSON string."""

    widget = forms.Textarea(attrs={"rows": 5, "spellcheck": "false", "autocapitalize": "off"})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return written_metadata(value) if isinstance(value, dict) else value

    def clean(self, value: Any) -> dict[str, str]:
        try:
            return parse_metadata(super().clean(value))
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


def written_metadata(metadata: dict[str, str]) -> str:
    """Lines that `parse_metadata` makes the same metadata of."""
    return "\n".join(f"{name}: {_written(value)}" for name, value in sorted(metadata.items()))


def parse_metadata(text: str) -> dict[str, str]:
    """Of what somebody typed; whether names and values are allowed is for the service to say. Raises ValueError."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise ValueError(f"Line {number} has no colon. Write one name and value a line: author: Ada")
        if name in found:
            raise ValueError(f"Line {number} names {name[:64]} a second time.")
        if value.startswith('"'):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError(
                    f"Line {number}: a value that begins with a quotation mark is a JSON string, "
                    r'such as "two\nlines" or "\"quoted\"".'
                ) from None
        found[name] = value
    return found


def _written(value: str) -> str:
    if all(map(_is_seen, value)) and value == value.strip() and not value.startswith('"'):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if _is_seen(char) else json.dumps(char)[1:-1] for char in text)


def _is_seen(char: str) -> bool:
    """Whether a line shows it as what it is: no blank but the one, and nothing invisible."""
    return char.isprintable() or (unicodedata.category(char) == "Cf" and not is_unseen(char))


class DetailsForm(UiForm):
    """What can be changed of an object without sending its bytes again."""

    content_type = forms.CharField(
        label="Type",
        max_length=255,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}),
        help_text="A media type such as text/plain or image/png: how browsers take it, and how it is previewed.",
    )
    metadata = MetadataField(
        label="Metadata",
        help_text="One name and value a line, such as author: Ada. Names are of a–z, 0–9 and hyphens. "
        f"At most {MAX_METADATA_BYTES:,} bytes in all.",
    )
    etag = forms.CharField(required=False, widget=forms.HiddenInput, max_length=100)
