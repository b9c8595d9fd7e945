"""The audit trail, as the web UI shows it."""

import json
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode

from keys.actions import WORDS, Action, Outcome, Through
from keys.errors import Invalid
from keys.models import MAX_ACTION_CHARS, MAX_BUCKET_CHARS, MAX_TARGET_CHARS, AuditEntry
from keys.permissions import Permission
from keys.selectors import AuditPage, AuditPlace, list_audit, list_keys
from keys.services.denials import write_denials
from keys.web.forms import UiForm
from keys.web.pages import Page

PAGE_SIZE = 50
OFFERED_KEYS = 200
_MAX_KEY: Final = (1 << 63) - 1
_NUMBERED: Final = ("key", "server", "volume")
"""What has a page of its own, by its id; the URL names of these pages."""
_LAST_DEEDS: Final = ("delete", "forget")
_TONES: Final = {Outcome.DONE: "ok", Outcome.DENIED: "warn", Outcome.FAILED: "bad"}


class _Moment(forms.DateTimeField):
    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")


class ActivityForm(UiForm):
    """What to look for; what is left empty lets everything through."""

    key = forms.IntegerField(
        label="Key",
        required=False,
        min_value=1,
        max_value=_MAX_KEY,
        widget=forms.TextInput(attrs={"list": "keys", "inputmode": "numeric", "autocomplete": "off"}),
    )
    action = forms.CharField(
        label="Action",
        required=False,
        max_length=MAX_ACTION_CHARS,
        widget=forms.TextInput(attrs={"list": "actions", "autocomplete": "off", "autocapitalize": "none"}),
    )
    bucket = forms.CharField(
        label="Bucket",
        required=False,
        max_length=MAX_BUCKET_CHARS,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    target = forms.CharField(
        label="Target begins with",
        required=False,
        strip=False,
        max_length=MAX_TARGET_CHARS,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    outcome = forms.ChoiceField(label="Outcome", required=False, choices=[("", "Any"), *Outcome.choices])
    through = forms.ChoiceField(label="Through", required=False, choices=[("", "Any"), *Through.choices])
    since = _Moment(label="Since (UTC)", required=False)
    until = _Moment(label="Until (UTC)", required=False)

    @property
    def filters(self) -> dict[str, Any]:
        """What `list_audit` is given."""
        given = {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
        if "key" in given:
            given["key_id"] = given.pop("key")
        return given


@dataclass(frozen=True, slots=True)
class Told:
    """An entry as a row."""

    entry: AuditEntry
    tone: str
    detail: list[tuple[str, str]]
    target: str
    """With what it is, where that is an id."""
    url: str
    """The page of the target; empty: it has none, or is gone."""


def told(entry: AuditEntry) -> Told:
    kind, _, deed = entry.action.partition(".")
    target, url = entry.target, ""
    if kind in _NUMBERED and target:
        target = f"{kind} {target}"
        url = "" if deed in _LAST_DEEDS else _page_of(kind, entry.target)
    return Told(
        entry,
        tone=_TONES.get(Outcome(entry.outcome), "soft"),
        detail=[
            (name.replace("_", " "), _text(value)) for name, value in sorted(entry.detail.items()) if value is not None
        ],
        target=target,
        url=url,
    )


class Activity(Page):
    """Every change and every denied try, newest first, for ADMIN keys as in the API."""

    template_name = "activity/list.html"
    section = "activity"
    needs = Permission.ADMIN
    parts = ("activity-list",)

    def show(self) -> dict[str, object]:
        query = self.request.GET
        form = ActivityForm(query, auto_id="filter-%s")
        after = query.get("after", "")
        try:
            place = AuditPlace.parse(after) if after else None
        except ValueError:
            raise Invalid("This is not the address of a page of this list.") from None
        page = AuditPage([], None)
        if form.is_valid():
            write_denials(at_once=True)  # what this process has counted is in the list, too
            page = list_audit(limit=PAGE_SIZE, after=place, **form.filters)
        asked = {name: query[name] for name in form.fields if query.get(name)}
        return {
            "form": form,
            "rows": [told(entry) for entry in page.entries],
            "next_after": page.next_after,
            "after": after,
            "is_filtered": bool(asked),
            "is_live": query.get("live") == "1" and not after,
            "actions": [(str(action), WORDS[action]) for action in Action],
            "keys": list_keys(limit=OFFERED_KEYS) if self.wanted_part is None else (),
            "api_url": f"{reverse('api:audit')}?{urlencode(asked)}",
        }


def _page_of(kind: str, number: str) -> str:
    """Of a denied try the number may be any text."""
    try:
        return reverse(kind, args=[number])
    except NoReverseMatch:
        return ""


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
