"""Where objects are moved to."""

from typing import Any

from django import forms

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
