"""The form that makes and changes a key: rights everywhere, grants in single buckets, and when it ends."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, cast

from django import forms
from django.forms.utils import ErrorDict
from django.http import QueryDict
from django.utils import timezone
from django.utils.formats import date_format

from keys.models import MAX_BUCKET_CHARS, MAX_NAME_CHARS, MAX_PREFIX_BYTES, ApiKey
from keys.permissions import DESCRIPTIONS, GRANTABLE, Permission
from keys.printable import is_storable, printable
from keys.rights import GrantRow, KeyRights
from keys.selectors import edition_of, rights_of_row
from keys.services.keys import MAX_GRANTS
from keys.web.forms import OnceForm, UiForm, number_of

MAX_DESCRIPTION_CHARS: Final = 10_000

GROUPS: Final = (
    ("Objects", Permission.OBJECTS_READ | Permission.OBJECTS_WRITE | Permission.OBJECTS_DELETE),
    ("Buckets", Permission.BUCKETS_READ | Permission.BUCKETS_WRITE | Permission.BUCKETS_DELETE),
    ("Links", Permission.SHARE),
    ("Volumes", Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE),
    ("Keys", Permission.KEYS_READ | Permission.KEYS_MANAGE),
    ("System", Permission.ADMIN),
)

SHORT: Final[dict[Permission, str]] = {
    Permission.OBJECTS_READ: "read",
    Permission.OBJECTS_WRITE: "write",
    Permission.OBJECTS_DELETE: "delete",
    Permission.BUCKETS_READ: "see bucket",
    Permission.BUCKETS_WRITE: "settings",
    Permission.BUCKETS_DELETE: "delete bucket",
    Permission.SHARE: "share",
}
"""The rights of a grant, as they stand beside each other in its row."""

_READ: Final = Permission.OBJECTS_READ | Permission.BUCKETS_READ


@dataclass(frozen=True, slots=True)
class Preset:
    """A choice of rights that many keys have."""

    name: str
    title: str
    permissions: Permission


PRESETS: Final = (
    Preset("reader", "Read only", _READ),
    Preset("uploader", "Upload only", Permission.OBJECTS_WRITE | Permission.BUCKETS_READ),
    Preset("editor", "Read and write", _READ | Permission.OBJECTS_WRITE | Permission.OBJECTS_DELETE | Permission.SHARE),
    Preset("operator", "Operator", Permission.BUCKETS_READ | Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE),
    Preset("admin", "Administrator", Permission.ADMIN),
    Preset("none", "Nothing", Permission(0)),
)

_LIFETIMES: Final = {
    "day": ("One day", timedelta(days=1)),
    "week": ("One week", timedelta(days=7)),
    "month": ("30 days", timedelta(days=30)),
    "quarter": ("90 days", timedelta(days=90)),
    "year": ("One year", timedelta(days=365)),
}
KEEP, NEVER, UNTIL, NOW, MINE = "keep", "never", "until", "now", "mine"


@dataclass(frozen=True, slots=True)
class Box:
    """One right of a fieldset of checkboxes."""

    bit: int
    name: str
    text: str
    is_checked: bool


def offered_in_grants(actor: KeyRights) -> Permission:
    """The rights that this key can pass on in some bucket at least."""
    held = actor.everywhere
    for grant in actor.grants:
        held |= grant.permissions
    return GRANTABLE & Permission(held)


def bits_in(permissions: int) -> list[int]:
    return [int(bit) for bit in Permission if bit & permissions]


class BitsField(forms.TypedMultipleChoiceField):
    """Checkboxes, one for each right that may be given; as a value, their sum."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(coerce=int, required=False, **kwargs)
        self.offered = Permission(0)

    def offer(self, offered: Permission) -> None:
        self.offered = offered
        self.choices = [(bit, str(bit)) for bit in bits_in(offered)]

    def clean(self, value: Any) -> int:
        return sum(set(super().clean(value)))


class BitsForm(UiForm):
    """What the form of a key and a row of its grants have in common: rights as checkboxes."""

    permissions = BitsField()
    texts: ClassVar[Mapping[Permission, str]]

    def __init__(self, *args: Any, offered: Permission, is_judged: bool = True, **kwargs: Any) -> None:
        """Not ``is_judged``: shown as it was filled in so far, and nothing said about what is wrong."""
        super().__init__(*args, **kwargs)
        self.is_judged = is_judged
        field = self.fields["permissions"]
        assert isinstance(field, BitsField)
        field.offer(offered)
        self.offered = offered

    def full_clean(self) -> None:
        if self.is_judged:
            super().full_clean()
        else:
            self._errors = ErrorDict()

    @property
    def boxes(self) -> list[Box]:
        """The rights that are offered, each as it was chosen last."""
        chosen = {str(bit) for bit in self["permissions"].value() or ()}
        return [
            Box(int(bit), bit.name or "", self.texts[bit], str(int(bit)) in chosen)
            for bit in Permission
            if bit & self.offered
        ]

    @property
    def bits(self) -> int:
        """The sum of what is chosen."""
        return sum(box.bit for box in self.boxes if box.is_checked)


class GrantForm(BitsForm):
    """One row: rights on the keys of a bucket that start with a prefix. A row without anything in it is no grant."""

    bucket = forms.CharField(max_length=MAX_BUCKET_CHARS, required=False)
    start = forms.CharField(required=False, strip=False)
    # The prefix as JSON where it has line breaks in it, which a browser takes out of what is typed.
    exact = forms.CharField(required=False, strip=False)
    texts = SHORT

    @property
    def exact_prefix(self) -> str:
        """The prefix where it cannot be typed, else empty."""
        exact = self["exact"].value() or ""
        if not exact.startswith('"'):  # nor is anything nested read
            return ""
        try:
            text: str = json.loads(exact)
        except ValueError:
            return ""
        return text if is_storable(text) else ""

    @property
    def exact_shown(self) -> str:
        return printable(self.exact_prefix)

    @property
    def is_blank(self) -> bool:
        return not (self["bucket"].value() or self["start"].value() or self["exact"].value() or self.bits)

    @property
    def typed(self) -> GrantRow:
        """The row as it stands there, whether it could be saved or not."""
        return GrantRow(
            (self["bucket"].value() or "").strip(), self.exact_prefix or self["start"].value() or "", self.bits
        )

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given.get("exact") and not self.exact_prefix:
            self.add_error("start", "This is no prefix.")
        if len(self.typed.prefix.encode("utf-8")) > MAX_PREFIX_BYTES:
            self.add_error("start", f"A prefix has at most {MAX_PREFIX_BYTES} bytes.")
        if not given.get("bucket") and "bucket" not in self.errors:
            self.add_error("bucket", "Name the bucket, or remove the grant.")
        if not given.get("permissions") and "permissions" not in self.errors:
            self.add_error("permissions", "Choose at least one right, or remove the grant.")
        return given


def _initial_of(row: GrantRow) -> dict[str, Any]:
    breaks = "\n" in row.prefix or "\r" in row.prefix
    return {
        "bucket": row.bucket,
        "start": "" if breaks else row.prefix,
        "exact": json.dumps(row.prefix) if breaks else "",
        "permissions": bits_in(row.permissions),
    }


class KeyForm(BitsForm, OnceForm):
    """A key, new or changed. Only what the key that fills it in has itself is offered."""

    name = forms.CharField(
        max_length=MAX_NAME_CHARS, help_text="Who or what uses it, such as “backup of the web shop”."
    )
    description = forms.CharField(
        required=False, max_length=MAX_DESCRIPTION_CHARS, widget=forms.Textarea(attrs={"rows": 2})
    )
    lasts = forms.ChoiceField(label="Ends")
    until = forms.DateTimeField(
        required=False,
        label="Date and time (UTC)",
        input_formats=("%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"),
        widget=forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"}),
    )
    edition = forms.CharField(required=False, widget=forms.HiddenInput)
    texts = DESCRIPTIONS
    renames = {"expires_at": "lasts"}

    def __init__(
        self,
        data: QueryDict | None = None,
        *,
        actor: KeyRights,
        key: ApiKey | None = None,
        is_judged: bool = True,
    ) -> None:
        """``key``: the one to be changed."""
        initial: dict[str, Any] = {"lasts": NEVER if actor.expires_at is None else MINE}
        rows: list[dict[str, Any]] = [{}]
        if key is not None:
            rows = [_initial_of(row) for row in rights_of_row(key).grants]
            initial = {
                "name": key.name,
                "description": key.description,
                "permissions": bits_in(key.permissions),
                "lasts": KEEP,
                "edition": edition_of(key),
            }
        super().__init__(data, initial=initial, offered=Permission(actor.everywhere), is_judged=is_judged)
        self.actor = actor
        lasts = self.fields["lasts"]
        assert isinstance(lasts, forms.ChoiceField)
        lasts.choices = _endings(actor, key)
        self.grants = [
            GrantForm(
                data, prefix=f"grant-{index}", initial=first, offered=offered_in_grants(actor), is_judged=is_judged
            )
            for index, first in enumerate(rows if data is None else [{}] * _row_count(data))
        ]

    @property
    def groups(self) -> list[tuple[str, list[Box]]]:
        """The rights that are offered, by what they are about."""
        found = [(title, [box for box in self.boxes if box.bit & bits]) for title, bits in GROUPS]
        return [(title, some) for title, some in found if some]

    @property
    def body(self) -> str:
        """What a program would send to make the same key."""
        grants = [row.typed for row in self.grants if not row.is_blank]
        body = {
            "name": self["name"].value() or "",
            "permissions": self.bits,
            "grants": [{"bucket": row.bucket, "prefix": row.prefix, "permissions": row.permissions} for row in grants],
        }
        return json.dumps(body, indent=2, ensure_ascii=False)

    def is_valid(self) -> bool:
        return all([super().is_valid(), *(row.is_valid() for row in self.grants if not row.is_blank)])

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        until = given.get("until")
        if given.get("lasts") == UNTIL and "until" not in self.errors and (until is None or until <= timezone.now()):
            self.add_error("until", "Give a time to come.")
        return given

    def values(self) -> dict[str, Any]:
        """What was filled in, as keyword arguments of the services."""
        given = self.cleaned_data
        values = {
            "name": given["name"],
            "description": given["description"].replace("\r\n", "\n"),
            "permissions": given["permissions"],
            "grants": [row.typed for row in self.grants if not row.is_blank],
        }
        if given["lasts"] != KEEP:
            values["expires_at"] = self._end()
        return values

    def _end(self) -> datetime | None:
        lasts, now = self.cleaned_data["lasts"], timezone.now()
        match lasts:
            case "never":
                return None
            case "until":
                return cast("datetime", self.cleaned_data["until"])
            case "now":
                return now
            case "mine":
                return self.actor.expires_at
            case _:
                return now + _LIFETIMES[lasts][1]


def _endings(actor: KeyRights, key: ApiKey | None) -> list[tuple[str, str]]:
    """When a key may end: not after the one that makes it."""
    choices = []
    if key is not None:
        choices.append((KEEP, f"As it is: {_ending_of(key.expires_at)}"))
    if actor.expires_at is None:
        choices.append((NEVER, "Never"))
    else:
        choices.append((MINE, f"With the key you are signed in with: {_ending_of(actor.expires_at)}"))
    last = actor.expires_at or datetime.max.replace(tzinfo=UTC)
    choices += [(name, f"In {text}") for name, (text, span) in _LIFETIMES.items() if timezone.now() + span <= last]
    choices.append((UNTIL, "At a date and time"))
    if key is not None:
        choices.append((NOW, "Now: it is refused from here on, but still listed"))
    return choices


def _ending_of(moment: datetime | None) -> str:
    return "never" if moment is None else f"{date_format(moment, 'j F Y, H:i')} UTC"


def _row_count(data: QueryDict) -> int:
    """How many grants the browser says that it shows."""
    return min(number_of(data.get("rows", "")) or 0, MAX_GRANTS)


def rearranged(data: QueryDict) -> QueryDict | None:
    """The form as it looks after a button that only changes what there is to fill in; None: it was another one."""
    changed = data.copy()
    rows = _row_count(data)
    if "more" in data:
        changed["rows"] = str(min(rows + 1, MAX_GRANTS))
    elif "remove" in data:
        gone = data["remove"]
        kept = [index for index in range(rows) if str(index) != gone]
        for index in range(rows):
            for name in GrantForm.base_fields:
                changed.pop(f"grant-{index}-{name}", None)
        for place, index in enumerate(kept):
            for name in GrantForm.base_fields:
                changed.setlist(f"grant-{place}-{name}", data.getlist(f"grant-{index}-{name}"))
        changed["rows"] = str(len(kept))
    elif "preset" in data:
        chosen = next((preset for preset in PRESETS if preset.name == data["preset"]), None)
        changed.setlist("permissions", [] if chosen is None else [str(bit) for bit in bits_in(chosen.permissions)])
    else:
        return None
    return changed
