"""Forms of the web UI: Django's own, with the house's templates and what a service refuses beside its field."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms

from keys.errors import Invalid


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
