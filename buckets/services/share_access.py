"""Using a share: who has its link reads what the key holds now, by the rights that its maker has now.

What is counted is the handing out, and it is counted before anything is handed out:

    the link ── count, if there is one left ──> a signed URL (one chunk), or a ticket (several chunks)
                                                both end soon, and until then any part may be read with them

So a download that is cut off goes on where it was without being counted again, and no part of an object can be had
uncounted by asking for ranges alone. Both are good for the version that was counted, and for no other: what the key
holds later is counted anew, and no two parts are ever of two versions.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.core.signing import BadSignature, TimestampSigner
from django.db.models import F
from django.utils import timezone

from buckets.errors import ShareOver, SharePasswordRefused, ShareUnknown, ShareVersionGone
from buckets.models import Share
from buckets.selectors.objects import Found, find_objects
from buckets.selectors.shares import may_still_share, share_of_token, shares_in
from buckets.services.downloads import sign_needle, url_expiry
from buckets.services.passwords import is_password
from buckets.services.shares import MAX_PASSWORD_CHARS
from keys.actions import Action
from keys.rights import KeyRights
from keys.selectors import rights_of
from keys.services.denials import note_denied
from keys.services.failures import count_failure, require_few_failures

URL_SECONDS: Final = 60
"""How long a signed URL that a share hands out is good; less where `WAREHOUSE_GET_SECONDS` is."""
PASS_SECONDS: Final = 3600
"""How long who gave the password once need not give it again."""
ALL_ADDRESSES: Final = 2
"""All clients together may give so many times the wrong passwords that one may."""

_PASS = "share.pass"  # noqa: S105 - a name
_TICKET = "share.ticket"


@dataclass(frozen=True, slots=True)
class OpenShare:
    """A share that may be used now, and the rights it is used by."""

    share: Share
    reader: KeyRights


@dataclass(frozen=True, slots=True)
class Handout:
    """A counted download: a URL on a volume server, or a ticket that `redeem_ticket` takes. One of them is empty."""

    url: str = ""
    ticket: str = ""


def open_share(*, token: str) -> OpenShare:
    """The share of a link. Raises ShareUnknown for a link that never was one, ShareOver for one that has ended."""
    share = share_of_token(token)
    if share.state != Share.State.LIVE:
        raise ShareOver
    return _opened(share)


def check_share_password(*, share: Share, password: str, address: str) -> None:
    """Raises SharePasswordRefused for a wrong password, and Busy.

    After too many wrong ones it raises TooManyFailures, whatever is given: unlike the secret of a key a password can
    be guessed. ``address`` is the client's.
    """
    limit = settings.WAREHOUSE_FAILED_LOGINS
    counted = {f"share.{share.pk}.{address}": limit, f"share.{share.pk}": limit * ALL_ADDRESSES}
    for what, most in counted.items():
        require_few_failures(what, limit=most)
    if len(password) <= MAX_PASSWORD_CHARS and is_password(password, password_hash=share.password_hash):
        return
    note_denied(Action.SHARE_OPEN, bucket=share.bucket.name, target=share.key, share=share.pk)
    for what, most in counted.items():
        count_failure(what, limit=most)
    raise SharePasswordRefused("The password is wrong.")


def issue_pass(*, share: Share) -> str:
    """A text that stands for the right password, for an hour or until the password is changed."""
    return _signer(_PASS, share).sign("1")


def pass_is_good(*, share: Share, text: str) -> bool:
    return _signed(_PASS, share, text, seconds=PASS_SECONDS) is not None


def find_shared(*, opened: OpenShare) -> Found:
    """The object as it is now. Raises ShareUnknown where there is none."""
    share = opened.share
    found = find_objects(bucket_id=share.bucket_id, keys=[share.key]).get(share.key)
    if found is None or share.bucket.is_deleting:
        raise ShareUnknown
    return found


def hand_out(*, opened: OpenShare, found: Found) -> Handout:
    """Counts a download and hands out what it is made with. Raises ShareOver where none is left, NeedleUnreadable."""
    share, reader = opened.share, opened.reader
    if len(found.chunks) == 1:
        expires_at = url_expiry(URL_SECONDS)
        handout = Handout(url=sign_needle(found, reader=reader, expires_at=expires_at, inline=share.inline))
    else:
        handout = Handout(ticket=_signer(_TICKET, share).sign(found.etag))
    # One conditional UPDATE, committed on its own: of two at once for the last download one finds no row.
    now = timezone.now()
    still_live = Share.objects.filter(shares_in(Share.State.LIVE, now=now), pk=share.pk)
    if not still_live.update(download_count=F("download_count") + 1, last_used_at=now):
        raise ShareOver
    return handout


def redeem_ticket(*, token: str, ticket: str) -> tuple[OpenShare, Found]:
    """The share of a ticket, used up or expired meanwhile or not, and the object that was counted.

    Revoking the share ends its tickets, and so does a maker who may no longer share. Raises ShareUnknown, ShareOver,
    and ShareVersionGone where the key holds another version by now, or none.
    """
    share = share_of_token(token)
    etag = _signed(_TICKET, share, ticket, seconds=settings.WAREHOUSE_GET_SECONDS)
    if etag is None or share.revoked_at is not None:
        raise ShareOver
    opened = _opened(share)
    try:
        found = find_shared(opened=opened)
    except ShareUnknown:
        raise ShareVersionGone from None
    if found.etag != etag:
        raise ShareVersionGone
    return opened, found


def _opened(share: Share) -> OpenShare:
    reader = rights_of(share.api_key)
    if reader is None or not may_still_share(reader, share):
        raise ShareOver
    return OpenShare(share, reader)


def _signer(use: str, share: Share) -> TimestampSigner:
    """One for each use, share and password: what another has signed is worth nothing."""
    password = hashlib.sha256(share.password_hash.encode()).hexdigest()
    return TimestampSigner(salt=f"warehouse.{use}.{share.pk}.{password}")


def _signed(use: str, share: Share, text: str, *, seconds: int) -> str | None:
    """What was signed, up to ``seconds`` ago; None where it was not."""
    try:
        return _signer(use, share).unsign(text, max_age=seconds)
    except BadSignature:
        return None
