"""Signed URLs: leases to write, and GETs to read.

Absolute URLs on a volume server's public address; formats in `volume_server.signing` and `volume_server.intent`.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from keys.errors import Invalid
from volume_server.intent import Intent, IntentInvalid, pack, to_text
from volume_server.signing import presign_get, presign_put
from volumes.derived_secrets import intent_secret, server_secret
from volumes.models import OFFLINE_AFTER, Replica
from volumes.services.placement import Target
from volumes.services.store import intent_secret_id

__all__ = ["GetItem", "intent_secret", "put_url", "sign_gets"]

_PLACES_LIVE_S = 1.0
_PLACES_KEPT = 100_000
_PARAMETERS = 500


class GetItem(NamedTuple):
    """One needle to be read, and what its answer's headers shall say; ``etag`` unquoted."""

    volume_id: int
    needle: int
    etag: str
    content_type: str | None = None
    inline: bool = False
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a replica can be read."""

    public_url: str
    kid: int
    secret: bytes = field(repr=False)
    good_until: float
    """Unix seconds; 0 when it is not to be expected there."""
    is_whole: bool = True
    """Whether it is known to have everything; one that was away may lack what came meanwhile."""


_lock = threading.Lock()
_places: dict[int, tuple[float, tuple[_Place, ...]]] = {}
"""By volume: when it was read (monotonic seconds), and its replicas, the primary first."""


def put_url(*, target: Target, intent: Intent) -> str:
    """A lease's absolute URL with the literal ``{needle}``; the intent says all that the lease allows.

    Raises Invalid when the intent does not fit into a URL (key, metadata and preconditions are too long together).
    """
    secret_id = intent_secret_id()
    if intent.secret_id != secret_id:
        intent = replace(intent, secret_id=secret_id)
    try:
        packed = to_text(pack(intent, intent_secret(secret_id)))
    except IntentInvalid as error:
        raise Invalid(f"This cannot be put into a signed URL: {error}.") from error
    return target.public_url + presign_put(
        target.secret, kid=target.kid, volume=target.volume_id, expires_at=intent.expires_at, intent=packed
    )


def sign_gets(
    items: Iterable[GetItem], *, api_key: int, generation: int, expires_at: int, only_online: bool = False
) -> list[list[str]]:
    """For each item the absolute URLs of all its replicas, those that are online first; in the items' order.

    ``only_online``: for who would have to wait for each of the others in turn.
    ``expires_at`` in Unix seconds; ``api_key`` 0 for what anybody may read. At most one query for all items
    (but for the database's parameter limit), none while the cached table of the volumes is fresh.
    """
    wanted = list(items)
    places = _places_of({item.volume_id for item in wanted})
    now = time.time()
    return [
        [
            place.public_url
            + presign_get(
                place.secret,
                kid=place.kid,
                volume=item.volume_id,
                needle=item.needle,
                expires_at=expires_at,
                etag=item.etag,
                api_key=api_key,
                generation=generation,
                content_type=item.content_type,
                inline=item.inline,
                filename=item.filename,
            )
            for place in _in_order(places.get(item.volume_id, ()), item.needle, now)
            if now < place.good_until or not only_online
        ]
        for item in wanted
    ]


def _in_order(places: Sequence[_Place], needle: int, now: float) -> list[_Place]:
    """Online ones first, of these the whole ones, beginning with another one for each needle, so that replicas share
    the reads."""
    if len(places) < 2:
        return list(places)
    turn = (needle ^ (needle >> 16)) % len(places)
    turned = [*places[turn:], *places[:turn]]
    return sorted(turned, key=lambda place: (now >= place.good_until, not place.is_whole))


def _places_of(volume_ids: Iterable[int]) -> dict[int, tuple[_Place, ...]]:
    now = time.monotonic()
    found: dict[int, tuple[_Place, ...]] = {}
    unknown: list[int] = []
    with _lock:
        for volume_id in volume_ids:
            kept = _places.get(volume_id)
            if kept is not None and now - kept[0] <= _PLACES_LIVE_S:
                found[volume_id] = kept[1]
            else:
                unknown.append(volume_id)
    if unknown:
        read = _read_places(unknown)
        with _lock:
            if len(_places) > _PLACES_KEPT:
                _places.clear()
            _places.update((volume_id, (now, places)) for volume_id, places in read.items())
        found.update(read)
    return found


def _read_places(volume_ids: Sequence[int]) -> dict[int, tuple[_Place, ...]]:
    """Plain values instead of model instances: a batch may touch a thousand volumes."""
    places: dict[int, list[tuple[int, _Place]]] = {volume_id: [] for volume_id in volume_ids}
    secrets: dict[UUID, bytes] = {}
    for start in range(0, len(volume_ids), _PARAMETERS):
        rows = (
            Replica.objects.filter(volume__in=volume_ids[start : start + _PARAMETERS])
            .exclude(state=Replica.State.EXPECTED)
            .order_by("volume", "role", "server")
            .values_list(
                "volume_id",
                "volume__opened_epoch",
                "state",
                "epoch",
                "whole_epoch",
                "revision",
                "server_id",
                "server__public_url",
                "server__kid",
                "server__last_seen_at",
                "server__stopped_at",
            )
        )
        for row in rows:
            volume_id, opened_epoch, state, epoch, whole_epoch, revision = row[:6]
            server_id, public_url, kid, last_seen_at, stopped_at = row[6:]
            if server_id not in secrets:
                secrets[server_id] = server_secret(server_id, kid)
            good_until = 0.0
            if last_seen_at is not None and stopped_at is None and state != Replica.State.MISSING:
                good_until = (last_seen_at + OFFLINE_AFTER).timestamp()
            place = _Place(
                public_url=public_url,
                kid=kid,
                secret=secrets[server_id],
                good_until=good_until,
                is_whole=whole_epoch == opened_epoch <= epoch,
            )
            places[volume_id].append((revision, place))
    return {volume_id: tuple(_of_highest_revision(found)) for volume_id, found in places.items()}


def _of_highest_revision(found: Sequence[tuple[int, _Place]]) -> list[_Place]:
    """A copy of before a compaction is about to be replaced; it is asked only while no other is there."""
    highest = max((revision for revision, _ in found), default=0)
    newest = [place for revision, place in found if revision == highest]
    if any(place.good_until > 0 for place in newest):
        return newest
    return [place for _, place in found]


def forget_places() -> None:
    """Lets the next signature look at the database."""
    with _lock:
        _places.clear()
