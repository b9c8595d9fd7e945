"""Forms of the web UI: Django's own, with the house's templates and what a service refuses beside its field."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from django import forms
from django.core.cache import cache

from keys.errors import Conflict, Invalid
from keys.printable import BLANK, shown

SENT_AGAIN_S: Final = 12 * 3600
"""How long a form is known that made something."""


_MAX_DIGITS: Final = 18
"""Of a number that any database holds, and that Python reads."""


def number_of(text: str) -> int | None:
    """A number out of an address or a form; None where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


class UiForm(forms.Form):
    """Rendered by ``ui/field.html``, field for field."""

    required_css_class = "required"
    renames: ClassVar[dict[str, str]] = {}
    """What a service calls a field, where the form calls it something else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)

    def add_refusal(self, error: Invalid) -> None:
        """Puts what a service found beside the fields that it names, and the rest above the form."""
        found = error.extra.get("errors")
        if not isinstance(found, dict):
            self.add_error(None, error.detail)
            return
        for field, texts in found.items():
            name = self.renames.get(field, field)
            known = name in self.fields
            told: Sequence[str] = texts if isinstance(texts, list) else [str(texts)]
            self.add_error(name if known else None, list(told) if known else [f"{field}: {text}" for text in told])


class OnceForm(UiForm):
    """A form that makes something whose secret is shown in the answer alone: sent again, it makes no second one.

    Its page holds ``form.once``, a name of this very form, and makes what it makes within `making_once`.
    """

    once = forms.UUIDField(required=False, widget=forms.HiddenInput, initial=uuid.uuid4)

    @contextmanager
    def making_once(self, *, said: str) -> Iterator[None]:
        """Raises Conflict with what is to be ``said`` where this form has made it or is just making it."""
        once = self.cleaned_data["once"]
        if once is None:
            yield
            return
        name = f"form-sent:{once}"
        if not cache.add(name, value=True, timeout=SENT_AGAIN_S):
            raise Conflict(said)
        try:
            yield
        except BaseException:
            cache.delete(name)  # it has made nothing
            raise


class TypedName(UiForm):
    """Asks for the name of what goes for good: whoever types it means it."""

    name = forms.CharField(
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "off", "spellcheck": "false"})
    )

    def __init__(self, *args: Any, asked: str, label: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked = asked
        self.fields["name"].label = label

    def clean_name(self) -> str:
        typed = str(self.cleaned_data["name"])
        if _words(typed) != _words(self.asked):
            raise forms.ValidationError("This is not its name.")
        return typed


def _words(name: str) -> list[str]:
    """A name as one can type it from a page: what pages do not show plays no part."""
    return shown(name).replace(BLANK, " ").split()
