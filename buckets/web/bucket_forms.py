"""Forms of a bucket: what it is called, and its settings."""

from typing import Any

from django import forms

from buckets.models import Bucket
from buckets.services.buckets import MAX_QUOTA, BucketSettings
from buckets.sizes import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from buckets.web.sizes import parse_size, written_size
from keys.web.forms import TypedName, UiForm
from volumes.models import MAX_REPLICATION
from volumes.selectors import count_nodes

_VISIBILITY = [
    (Bucket.Visibility.PRIVATE.value, "Private: only keys with the right, and share links"),
    (Bucket.Visibility.PUBLIC_READ.value, "Public: anybody who has an object’s address may read it"),
]


class _ValueField(forms.CharField):
    """A text that stands for something else, by which it is told whether it was changed."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.clean(data) != (self.clean(initial) if isinstance(initial, str) else initial))
        except forms.ValidationError:
            return True


class SizeField(_ValueField):
    """A number of bytes with its unit; empty: None."""

    def __init__(self, *, least: int = 0, most: int | None = None, **kwargs: Any) -> None:
        super().__init__(max_length=40, required=False, **kwargs)
        self.least, self.most = least, most

    def prepare_value(self, value: Any) -> Any:
        return written_size(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            size_bytes = parse_size(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        if self.most is not None and not self.least <= size_bytes <= self.most:
            raise forms.ValidationError(f"From {written_size(self.least)} to {written_size(self.most)}.")
        if size_bytes > MAX_QUOTA:
            raise forms.ValidationError("No store holds so much. Leave it empty for no limit.")
        return size_bytes


class LinesField(_ValueField):
    """Texts, one a line."""

    widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        return str(super().clean(value)).split()


class BucketForm(UiForm):
    """The settings of a bucket."""

    visibility = forms.ChoiceField(
        label="Who may read",
        choices=_VISIBILITY,
        widget=forms.RadioSelect,
        initial=Bucket.Visibility.PRIVATE.value,
    )
    replication = forms.IntegerField(
        label="Copies",
        min_value=1,
        max_value=MAX_REPLICATION,
        initial=1,
    )
    quota_bytes = SizeField(label="Most bytes", help_text="Such as 500 MB or 2 TiB. Empty: no limit.")
    quota_objects = forms.IntegerField(label="Most objects", required=False, min_value=0, help_text="Empty: no limit.")
    chunk_size = SizeField(
        label="Chunk size",
        least=MIN_CHUNK_BYTES,
        most=MAX_CHUNK_BYTES,
        help_text="Large objects are stored in chunks of this size. Empty: the store’s own.",
    )
    cors_origins = LinesField(
        label="Web pages that may read and write",
        required=False,
        max_length=40_000,
        help_text="Origins such as https://app.example, one a line, or *. They hold for the whole store.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nodes = count_nodes()
        self.fields["replication"].help_text = (
            f"Of each object, on different nodes: the store has {nodes} {'node' if nodes == 1 else 'nodes'} now. "
            "With two copies, one server can be lost without losing anything."
        )

    def settings(self) -> BucketSettings:
        """What was filled in, as the services take it."""
        given = {name: value for name, value in self.cleaned_data.items() if name in BucketForm.base_fields}
        return BucketSettings(**given)


class BucketChangeForm(BucketForm):
    """The settings of a bucket that there is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.show_hidden_initial = True

    def changes(self) -> BucketSettings:
        """Only what differs from what the form showed: what others changed since then stays."""
        return BucketSettings(**{name: self.cleaned_data[name] for name in self.changed_data})


class NewBucketForm(BucketForm):
    name = forms.CharField(
        label="Name",
        max_length=63,
        help_text="1 to 32 of a–z, 0–9, dot and underscore; or 3 to 63 with hyphens too, as in S3.",
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "off", "spellcheck": "false"}),
    )
    field_order = ("name",)


class BucketDeletionForm(TypedName):
    """Of an empty bucket only, but for ``force``: it says that the page told of objects in it."""

    force = forms.BooleanField(required=False, widget=forms.HiddenInput)
