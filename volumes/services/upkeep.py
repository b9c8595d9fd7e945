"""Compaction and scrub of single volumes: started here, carried out by the servers, watched through their figures."""

from collections.abc import Mapping
from datetime import timedelta
from typing import NoReturn
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keys.actions import Action, Outcome
from keys.errors import WarehouseError
from keys.services.audit import record
from volumes import client
from volumes.errors import (
    CompactionNeedsSpace,
    ServerAnswerInvalid,
    ServerOffline,
    ServerRefused,
    VolumeBusy,
    VolumeNotFound,
    VolumeSealed,
    VolumeServerError,
)
from volumes.models import Replica, Server
from volumes.reports import DamageReport, Figures
from volumes.services.figures import record_volume
from volumes.services.redundancy import close_volume, reopen_volume
from volumes.services.store import require_not_behind

_REFUSALS: Mapping[str, type[WarehouseError]] = {
    kind.code: kind for kind in (CompactionNeedsSpace, VolumeBusy, VolumeSealed)
}
"""Refusals of a server that are an answer to the caller as well; others are this store's own trouble."""


def start_compaction(*, volume_id: int, rate_bytes: int = 0, drop_damage: bool = False) -> Figures:
    """Has the server of a volume write its live needles to a new file and swap it in, while all goes on.

    ``rate_bytes``: bytes/s, 0 for as fast as it goes. ``drop_damage``: damage that holds no needle which the index
    knows is left behind; without it all damage is copied as it is. One that runs already is left running, as it was
    asked for. Gives the volume's figures, and records them. Raises VolumeNotFound, ServerOffline, VolumeServerError,
    LeasesHalted (an old database is no reason to let anything go), and what the server refuses with:
    CompactionNeedsSpace, VolumeSealed, VolumeBusy; and VolumeDegraded for a volume of several copies that are not all
    there and equal. Such a volume takes no record from here on until its other copies have fetched the new file.
    """
    replica = _primary(volume_id)
    require_not_behind()
    # Of copies of before the compaction none is ever a source again, so none brings the needle back.
    drop_before_ms = int((timezone.now() - tombstones_kept_for()).timestamp() * 1000)
    _close_copies(replica)
    try:
        figures = client.compact(
            replica.server, volume_id, rate_bytes=rate_bytes, drop_before_ms=drop_before_ms, drop_damage=drop_damage
        )
    except VolumeServerError as error:
        reopen_volume(volume_id=volume_id)
        _fail(Action.VOLUME_COMPACT, volume_id, error)
    with transaction.atomic():
        record_volume(server_id=replica.server_id, figures=figures, now=timezone.now())
        record(Action.VOLUME_COMPACT, target=str(volume_id), rate_bytes=rate_bytes, drop_damage=drop_damage)
    return figures


def _close_copies(primary: Replica) -> None:
    """Ends the epoch of a volume of several copies, so that they lie still while one of them is compacted.

    The row comes first: whatever becomes of the calls, no lease is given out any more, and after a while the volume is
    opened again. A volume that is being compacted stays as it is. Raises VolumeDegraded, VolumeServerError.
    """
    epoch = close_volume(volume_id=primary.volume_id)
    if epoch is None:
        return
    try:
        for copy in Replica.objects.filter(volume=primary.volume_id).select_related("server"):
            client.close(copy.server, primary.volume_id, epoch=epoch)
    except VolumeServerError as error:
        reopen_volume(volume_id=primary.volume_id)
        _fail(Action.VOLUME_COMPACT, primary.volume_id, error)


def start_scrub(*, volume_id: int, server_id: UUID | None = None) -> Figures:
    """Has the server of a volume check every record of it now, or as soon as another scrub there has ended.

    ``server_id``: whose copy; None: the primary one. Gives the volume's figures, and records them. Raises
    VolumeNotFound, ServerOffline, VolumeServerError, VolumeBusy.
    """
    replica = _primary(volume_id) if server_id is None else _copy(volume_id, server=server_id)
    try:
        figures = client.scrub(replica.server, volume_id)
    except VolumeServerError as error:
        _fail(Action.VOLUME_SCRUB, volume_id, error)
    with transaction.atomic():
        record_volume(server_id=replica.server_id, figures=figures, now=timezone.now())
        record(Action.VOLUME_SCRUB, target=str(volume_id))
    return figures


def scrub_copies(*, volume_id: int) -> None:
    """Has each copy of a volume checked by its server, as `start_scrub` does it: any of them may have rotted.

    All are asked before what one of them could not do is raised.
    """
    copies = Replica.objects.filter(volume=volume_id).order_by("role", "server")
    server_ids = list(copies.values_list("server", flat=True))
    failures: list[WarehouseError] = []
    for server_id in server_ids:
        try:
            start_scrub(volume_id=volume_id, server_id=server_id)
        except WarehouseError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    if not server_ids:
        raise VolumeNotFound(f"There is no volume {volume_id}.")


def list_damage(*, volume_id: int, server_id: UUID | None = None) -> DamageReport:
    """The damaged records of a volume's copy, as its server knows them now. ``server_id``: whose; None: the primary's.

    Raises VolumeNotFound, ServerOffline, VolumeServerError.
    """
    replica = _primary(volume_id) if server_id is None else _copy(volume_id, server=server_id)
    return client.damaged(replica.server, volume_id)


def ask_figures(*, server: Server, timeout_s: float = client.ANSWER_TIMEOUT_S) -> dict[int, Figures]:
    """The figures of all volumes on a server as they are now, by volume; nothing is recorded.

    Leaves the database alone, so that many servers can be asked at once, each by a thread; ``timeout_s`` is how long
    the server may be silent. Raises VolumeServerError, also when another process than the registered server answers.
    """
    usage = client.usage(server, timeout_s=timeout_s)
    if usage.server != server.pk:
        raise ServerAnswerInvalid(f"Server {usage.server} answers at {server.internal_url} instead of {server.pk}.")
    return {figures.volume: figures for figures in usage.volumes}


def tombstones_kept_for() -> timedelta:
    """How long after it was written a tombstone can still be needed.

    A tombstone stops two things: that its needle is read, and that it is put again. The compaction that drops it
    drops the needle's bytes with it, so there is nothing left to read; GET URLs are counted all the same, so that
    they meet "deleted" to their end, not "unknown".
    To be put again a needle needs a lease that has not expired. The needle was put before its tombstone was written,
    so its lease had been given out by then, and ends at most one lease's life later. Small puts have
    ``WAREHOUSE_LEASE_SECONDS``, chunks ``WAREHOUSE_CHUNK_URL_SECONDS``; an upload lives longer, but a resumed one
    gets new needles, so its own life does not count. The master may be asked to confirm the needle again for
    ``WAREHOUSE_CONFIRM_GRACE_SECONDS`` more.
    These may have been larger when the lease was made. A day more, the most that either may ever be, covers that,
    and clocks that differ.
    """
    lease_s = max(settings.WAREHOUSE_LEASE_SECONDS, settings.WAREHOUSE_CHUNK_URL_SECONDS)
    return timedelta(
        seconds=lease_s
        + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS
        + settings.WAREHOUSE_GET_SECONDS
        + settings.DAY_SECONDS
    )


def _primary(volume_id: int) -> Replica:
    """The copy that takes the writes. Raises VolumeNotFound, ServerOffline."""
    return _copy(volume_id, role=Replica.Role.PRIMARY)


def _copy(volume_id: int, **which: object) -> Replica:
    """Raises VolumeNotFound, ServerOffline."""
    replica = Replica.objects.select_related("server").filter(volume=volume_id, **which).first()
    if replica is None:
        raise VolumeNotFound(f"There is no volume {volume_id}.")
    if not replica.server.is_alive():
        raise ServerOffline(
            f"Volume {volume_id} is on server {replica.server}, which is offline. Start that server and try again."
        )
    return replica


def _fail(action: Action, volume_id: int, error: VolumeServerError) -> NoReturn:
    """Notes that the server of a volume did not do what it was asked, and raises that."""
    code = error.refusal if isinstance(error, ServerRefused) else error.code
    record(action, target=str(volume_id), outcome=Outcome.FAILED, code=code)
    if isinstance(error, ServerRefused):
        _pass_on(error)
    raise error


def _pass_on(error: ServerRefused) -> NoReturn:
    """Raises the refusal in this store's own words where it has them."""
    known = _REFUSALS.get(error.refusal)
    if known is None:
        raise error
    raise known(error.reason) from error
