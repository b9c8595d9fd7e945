"""Making, changing and ending shares. Who may is asked by the caller; what a share may then do, at each use."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from buckets.errors import ShareRevoked, ShareUnknown
from buckets.models import MAX_DESCRIPTION_CHARS, Share
from buckets.names import key_error
from buckets.selectors.objects import get_object
from buckets.services.locks import lock_bucket
from buckets.services.passwords import hash_password
from keys import secret_text
from keys.actions import Action
from keys.errors import Invalid
from keys.printable import is_storable
from keys.rights import KeyRights
from keys.services.audit import record
from keys.services.keys import UNSET, Unset
from volumes.services.store import require_not_behind

MAX_DOWNLOADS: Final = 1_000_000_000
MAX_PASSWORD_CHARS: Final = 256
FORGOTTEN_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class NewShare:
    """A share that was just made; ``token`` is the only copy of what stands in its link."""

    share: Share
    token: str


def create_share(
    *,
    maker: KeyRights,
    maker_name: str,
    bucket: str,
    key: str,
    expires_at: datetime | None = None,
    max_downloads: int | None = None,
    password: str | None = None,
    inline: bool = False,
    description: str = "",
) -> NewShare:
    """Makes a share of an object that there is. None: it never expires, has no limit, asks for no password.

    Raises Invalid, BucketUnknown, ObjectUnknown, Busy, LeasesHalted.
    """
    require_not_behind()
    _require_valid(
        expires_at=expires_at, max_downloads=max_downloads, password=password, description=description, key=key
    )
    token = secret_text.new_secret()
    share = Share(
        key=key,
        token_hash=secret_text.secret_hash(token),
        password_hash=_password_hash(password),  # slow on purpose, so before the lock
        inline=inline,
        description=description,
        api_key=maker.id,
        api_key_name=maker_name,
        expires_at=expires_at,
        max_downloads=max_downloads,
    )
    with transaction.atomic():
        share.bucket = lock_bucket(bucket)
        get_object(bucket=bucket, key=key)
        share.save(force_insert=True)
        record(
            Action.SHARE_CREATE,
            by=(maker.id, maker_name),
            bucket=bucket,
            target=key,
            share=share.pk,
            expires_at=None if expires_at is None else expires_at.isoformat(),
            max_downloads=max_downloads,
            has_password=password is not None,
        )
    return NewShare(share, token)


def update_share(
    *,
    share_id: int,
    expires_at: datetime | Unset | None = UNSET,
    max_downloads: int | Unset | None = UNSET,
    password: str | Unset | None = UNSET,
    description: str | Unset = UNSET,
) -> Share:
    """Changes what is given and leaves the rest; one that has expired or is used up may live again by that.

    Another password, or none, ends what was opened with the old one. Raises ShareUnknown, ShareRevoked, Invalid, Busy,
    LeasesHalted.
    """
    require_not_behind()
    given: dict[str, Any] = {
        "expires_at": expires_at, "max_downloads": max_downloads, "password": password, "description": description,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if not isinstance(value, Unset)}
    _require_valid(**changes)
    if "password" in changes:
        changes["password_hash"] = _password_hash(changes.pop("password"))
    with transaction.atomic():
        share = _locked(share_id)
        if share.revoked_at is not None:
            raise ShareRevoked("A revoked share stays so; make another one.")
        for name, value in changes.items():
            setattr(share, name, value)
        if share.max_downloads is not None and share.max_downloads < share.download_count:
            raise Invalid(errors={"max_downloads": [f"There were {share.download_count} downloads already."]})
        share.save(update_fields=tuple(changes))
        record(Action.SHARE_UPDATE, bucket=share.bucket.name, target=share.key, share=share.pk, changed=sorted(changes))
    return share


@transaction.atomic
def revoke_share(*, share_id: int) -> Share:
    """Ends a share for good, at once; done already is done. Its row stays, with its count.

    Raises ShareUnknown, LeasesHalted.
    """
    require_not_behind()
    share = _locked(share_id)
    if share.revoked_at is None:
        share.revoked_at = timezone.now()
        share.save(update_fields=("revoked_at",))
        record(Action.SHARE_REVOKE, bucket=share.bucket.name, target=share.key, share=share.pk)
    return share


def forget_ended_shares(*, now: datetime | None = None) -> int:
    """Deletes shares that have been over for WAREHOUSE_SHARE_DAYS; how many went.

    Their links are unknown from then on. In small commits, each of which judges the rows anew: a share that was given
    a later end meanwhile stays. May run twice or be cut off.
    """
    before = (now or timezone.now()) - timedelta(days=settings.WAREHOUSE_SHARE_DAYS)
    used_up = Q(max_downloads__isnull=False, download_count__gte=F("max_downloads"), last_used_at__lt=before)
    over = Share.objects.filter(Q(revoked_at__lt=before) | Q(expires_at__lt=before) | used_up)
    forgotten = 0
    while ids := list(over.order_by("pk").values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]):
        with transaction.atomic():
            deleted, _ = over.filter(pk__in=ids).delete()
            if deleted:
                record(Action.SHARE_FORGET, shares=deleted)
        forgotten += deleted
    return forgotten


def _locked(share_id: int) -> Share:
    share = Share.objects.select_related("bucket").select_for_update(of=("self",)).filter(pk=share_id).first()
    if share is None:
        raise ShareUnknown(f"There is no share {share_id}.")
    return share


def _password_hash(password: str | None) -> str:
    return "" if password is None else hash_password(password)


def _require_valid(
    *,
    expires_at: datetime | None = None,
    max_downloads: int | None = None,
    password: str | None = None,
    description: str = "",
    key: str | None = None,
) -> None:
    errors: dict[str, list[str]] = {}
    if key is not None and (problem := key_error(key)) is not None:
        errors["key"] = [problem]
    if expires_at is not None and expires_at <= timezone.now():
        errors["expires_at"] = ["This time has passed."]
    if max_downloads is not None and not 1 <= max_downloads <= MAX_DOWNLOADS:
        errors["max_downloads"] = [f"A number from 1 to {MAX_DOWNLOADS}, or null for no limit."]
    if password is not None and not (1 <= len(password) <= MAX_PASSWORD_CHARS and is_storable(password)):
        errors["password"] = [f"A password has 1 to {MAX_PASSWORD_CHARS} characters; null: there is none."]
    if len(description) > MAX_DESCRIPTION_CHARS or not is_storable(description):
        errors["description"] = [f"A description has at most {MAX_DESCRIPTION_CHARS} characters, and no NUL."]
    if errors:
        raise Invalid(errors=errors)
