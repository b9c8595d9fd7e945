"""Reading shares, and whether their makers may still share."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from buckets.errors import ShareUnknown
from buckets.models import Share
from buckets.selectors.objects import TO_SHARE
from buckets.selectors.pages import MAX_LOOKED_AT, MAX_PAGE
from keys import secret_text
from keys.errors import PermissionDenied
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.selectors import rights_now


def find_share(share_id: int, *, api_key: int | None = None) -> Share | None:
    """One share; of one maker, where that is given."""
    shares = Share.objects.select_related("bucket").filter(pk=share_id)
    return (shares if api_key is None else shares.filter(api_key=api_key)).first()


def require_share(share_id: int, *, actor: KeyRights) -> Share:
    """One share, of the actor's own or with ADMIN any. Its `state` tells whether its maker may still share.

    Raises PermissionDenied for any number that is none of the actor's own, so that a no tells nothing; ShareUnknown.
    """
    is_all_seeing = actor.allows(Permission.ADMIN)
    share = find_share(share_id, api_key=None if is_all_seeing else actor.id)
    if share is None and not is_all_seeing:
        raise PermissionDenied(f"This key made no share {share_id}.")
    if share is None:
        raise ShareUnknown(f"There is no share {share_id}.")
    return ask_makers([share])[0]


def require_sharer(actor: KeyRights) -> None:
    """Raises PermissionDenied for a key that may share nowhere."""
    if actor.buckets(Permission.SHARE) == frozenset():
        actor.require(Permission.SHARE)


def share_of_token(token: str) -> Share:
    """The share of what stands in a link. Raises ShareUnknown."""
    found = Share.objects.select_related("bucket").filter(token_hash=secret_text.secret_hash(token)).first()
    if found is None:
        raise ShareUnknown
    return found


def list_shares(
    *, api_key: int | None = None, bucket: str = "", after: int = 0, limit: int = MAX_PAGE
) -> QuerySet[Share]:
    """Up to ``limit`` shares behind the id ``after``, by id; of one maker, or of one bucket, where these are given."""
    shares = Share.objects.select_related("bucket").filter(pk__gt=after).order_by("pk")
    if api_key is not None:
        shares = shares.filter(api_key=api_key)
    if bucket:
        shares = shares.filter(bucket__name=bucket)
    return shares[:limit]


@dataclass(frozen=True, slots=True)
class SharePage:
    """Shares, newest first. ``next_before``: where the next page begins; None: there is no more."""

    shares: list[Share]
    next_before: int | None


def newest_shares(
    *,
    api_key: int | None = None,
    bucket: str = "",
    key: str = "",
    state: str = "",
    before: int | None = None,
    limit: int = MAX_PAGE,
) -> SharePage:
    """A page of shares below the id ``before``, each asked whether its maker may still share.

    ``state`` is one of `STATES_BY_TERMS`, ``key`` that of an object, whole. A page looks at `MAX_LOOKED_AT` shares:
    with these two it may be short, even empty, and yet not the last. Three queries at the most.
    """
    shares = Share.objects.order_by("-pk")
    if api_key is not None:
        shares = shares.filter(api_key=api_key)
    if bucket:
        shares = shares.filter(bucket__name=bucket)
    if before is not None:
        shares = shares.filter(pk__lt=before)
    window_end = None
    if state or key:
        window_end = next(iter(shares.values_list("pk", flat=True)[MAX_LOOKED_AT - 1 : MAX_LOOKED_AT]), None)
        if window_end is not None:
            shares = shares.filter(pk__gte=window_end)
        if state:
            shares = shares.filter(shares_in(state, now=timezone.now()))
        if key:
            shares = shares.filter(key=key)
    found = list(shares.select_related("bucket")[: limit + 1])
    shown = ask_makers(found[:limit])
    return SharePage(shown, shown[-1].pk if len(found) > limit else window_end)


def may_still_share(maker: KeyRights | None, share: Share) -> bool:
    """Whether the API key that made a share (None: it was deleted) has the rights that each use of it asks for."""
    return maker is not None and maker.allows(TO_SHARE, bucket=share.bucket.name, key=share.key)


def ask_makers(shares: Iterable[Share]) -> list[Share]:
    """The shares, each with a `state` that tells as well whether its maker may still share. One query."""
    rows = list(shares)
    makers = rights_now(share.api_key for share in rows)
    for share in rows:
        share.may_be_shared = may_still_share(makers.get(share.api_key), share)
    return rows


STATES_BY_TERMS = (Share.State.LIVE, Share.State.EXPIRED, Share.State.USED_UP, Share.State.REVOKED)
"""What the database can tell of a share: the rights of its maker are asked row by row."""


def shares_in(state: str, *, now: datetime) -> Q:
    """The shares that are in such a state by their own terms (`STATES_BY_TERMS`)."""
    unrevoked = Q(revoked_at__isnull=True)
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    unused = Q(max_downloads__isnull=True) | Q(download_count__lt=F("max_downloads"))
    return {
        Share.State.LIVE: unrevoked & unexpired & unused,
        Share.State.EXPIRED: unrevoked & ~unexpired,
        Share.State.USED_UP: unrevoked & unexpired & ~unused,
        Share.State.REVOKED: ~unrevoked,
    }[Share.State(state)]
