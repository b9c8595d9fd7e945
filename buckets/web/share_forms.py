"""The terms of a share, as a form asks for them: choices that are made most, and any others."""

from datetime import datetime, timedelta
from typing import Any, Final

from django import forms
from django.utils import timezone

from buckets.models import MAX_DESCRIPTION_CHARS, Share
from buckets.services.shares import MAX_DOWNLOADS, MAX_PASSWORD_CHARS
from keys.web.forms import OnceForm

_LIFETIMES: Final = {
    "hour": ("In an hour", timedelta(hours=1)),
    "day": ("In a day", timedelta(days=1)),
    "week": ("In a week", timedelta(weeks=1)),
    "month": ("In 30 days", timedelta(days=30)),
}
_ENDS: Final = [*((name, label) for name, (label, _) in _LIFETIMES.items()), ("never", "Never"), ("at", "At a time…")]
_DOWNLOADS: Final = [("any", "Any number"), ("one", "Once"), ("some", "So many times…")]


class ShareForm(OnceForm):
    """The terms of a new share. The exact time and number count where they are chosen alone."""

    ends = forms.ChoiceField(label="The link ends", choices=_ENDS, initial="week")
    expires_at = forms.DateTimeField(
        label="It ends at",
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text="In UTC, which is the store's time.",
    )
    downloads = forms.ChoiceField(label="It can be downloaded", choices=_DOWNLOADS, initial="any")
    max_downloads = forms.IntegerField(
        label="So many times", required=False, min_value=1, max_value=MAX_DOWNLOADS, widget=forms.NumberInput
    )
    password = forms.CharField(
        label="Password",
        required=False,
        strip=False,
        max_length=MAX_PASSWORD_CHARS,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}),
        help_text="Left empty, the link alone is enough. Tell it by another way than the link.",
    )
    inline = forms.BooleanField(
        label="Open in the browser", required=False, help_text="Instead of being saved to a file."
    )
    description = forms.CharField(
        label="Note", required=False, max_length=MAX_DESCRIPTION_CHARS, help_text="For you; the link does not show it."
    )

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        for choice, exact, name in (("ends", "at", "expires_at"), ("downloads", "some", "max_downloads")):
            if given.get(choice) == exact and given.get(name) is None and name not in self.errors:
                self.add_error(name, "Fill this in, or choose another one above.")
            elif given.get(choice) != exact and name in self.errors:
                del self.errors[name]  # it does not count, and may not even be shown
                given[name] = None
        return given

    @property
    def terms(self) -> dict[str, Any]:
        """What `create_share` is given."""
        given = self.cleaned_data
        return {
            "expires_at": self._expires_at(),
            "max_downloads": self._max_downloads(),
            "password": given["password"] or None,
            "inline": given["inline"],
            "description": given["description"],
        }

    def _expires_at(self) -> datetime | None:
        ends = self.cleaned_data["ends"]
        if ends in _LIFETIMES:
            return timezone.now() + _LIFETIMES[ends][1]
        exact: datetime | None = self.cleaned_data["expires_at"]
        return exact if ends == "at" else None

    def _max_downloads(self) -> int | None:
        if self.cleaned_data["downloads"] == "one":
            return 1
        number: int | None = self.cleaned_data["max_downloads"]
        return number if self.cleaned_data["downloads"] == "some" else None


class ShareTermsForm(ShareForm):
    """The terms of a share that there is: only what differs from what the form showed is changed."""

    once = None  # type: ignore[assignment]  # the same change twice is one
    inline = None  # type: ignore[assignment]  # it was said with the link, and stays so
    remove_password = forms.BooleanField(label="Ask for no password any more", required=False)

    def __init__(self, share: Share, data: Any = None) -> None:
        self.share = share
        limit = share.max_downloads
        initial = {
            "ends": "keep",
            "expires_at": share.expires_at,
            "downloads": {None: "any", 1: "one"}.get(limit, "some"),
            "max_downloads": limit,
            "description": share.description,
        }
        super().__init__(data, initial=initial)
        for name in ("downloads", "max_downloads", "description"):
            self.fields[name].show_hidden_initial = True
        until = "it never does" if share.expires_at is None else f"{share.expires_at:%-d %B %Y, %H:%M} UTC"
        ends = self.fields["ends"]
        assert isinstance(ends, forms.ChoiceField)
        ends.choices = [("keep", f"As it is: {until}"), *_ENDS]
        password = self.fields["password"]
        if share.has_password:
            password.label = "Another password"
            password.help_text = "Left empty, it stays as it is. Another one ends what was opened with the old one."
        else:
            del self.fields["remove_password"]

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if given.get("remove_password") and given.get("password"):
            self.add_error("password", "Another password, or none: not both.")
        return given

    @property
    def changes(self) -> dict[str, Any]:
        """What `update_share` is given; empty: nothing is changed."""
        given = self.cleaned_data
        changes: dict[str, Any] = {}
        if given["ends"] != "keep" and (given["ends"] != "never" or self.share.expires_at is not None):
            changes["expires_at"] = self._expires_at()
        is_new_limit = "downloads" in self.changed_data or (
            given["downloads"] == "some" and "max_downloads" in self.changed_data
        )
        if is_new_limit and self._max_downloads() != self.share.max_downloads:
            changes["max_downloads"] = self._max_downloads()
        if given["password"]:
            changes["password"] = given["password"]
        elif given.get("remove_password"):
            changes["password"] = None
        if "description" in self.changed_data and given["description"] != self.share.description:
            changes["description"] = given["description"]
        return changes
