"""Servers that died for good are taken off the books.

    refused while it is heard, or alone has what objects name
      │
      v
    shut out: it is let in no more (committed) ── volume by volume ── its row goes
                                                    │
             another copy has everything: this one is struck off, and is made anew elsewhere
             none has, and nothing in it is named: the volume goes

Each step may be the last one before a crash: what is done is right by itself, and the next call does the rest. Locks
are taken volume by volume, in the order of `redundancy`.
"""

import logging
from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from keys.actions import Action
from keys.services.audit import record
from volumes import client
from volumes.errors import ServerAlive, ServerForgotten, ServerNeeded, ServerNotFound
from volumes.models import OFFLINE_AFTER, ForgottenServer, Replica, Server, Volume
from volumes.owners import Holdings, holdings_in, release_volume
from volumes.selectors import volumes_only_on
from volumes.services import placement
from volumes.services.presign import forget_places
from volumes.services.redundancy import let_go_of_copy
from volumes.services.store import require_not_behind

log = logging.getLogger(__name__)

_NO_INSTANCE = "forgotten"
"""No process has this one: theirs are random."""
_TRIES = 3
"""To remove a volume: a row that names it, of a deletion that was under way, may come up meanwhile."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What it comes to if a server is forgotten."""

    copies: int
    """Of volumes that have another whole copy: they are made anew."""
    volumes: int
    """Of which no other copy has everything."""
    holdings: Holdings
    """What lies in these; as long as it is anything, the server is not forgotten."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was done; what a call before that was interrupted had done is not counted."""

    copies: int
    volumes: int


def losses_of(*, server_id: UUID) -> Losses:
    """Changes nothing. Raises ServerNotFound, ServerAlive."""
    require_gone(server_id=server_id)
    lost = volumes_only_on(server_id)
    volumes = lost.count()
    held = Replica.objects.filter(server=server_id).count()
    return Losses(copies=held - volumes, volumes=volumes, holdings=holdings_in(lost))


def forget_server(*, server_id: UUID) -> Forgotten:
    """Takes a server off the books for good. Raises ServerNotFound, ServerAlive, ServerNeeded, LeasesHalted."""
    require_not_behind()
    losses = losses_of(server_id=server_id)
    refuse_losses(losses.holdings)
    _shut_out(server_id)
    copies = volumes = 0
    for volume_id in Replica.objects.filter(server=server_id).order_by("volume").values_list("volume", flat=True):
        try:
            is_kept = _forget_copy(volume_id, server_id)
        except ServerNeeded:
            # Only if what was whole elsewhere is not any more. Then this one is needed, and may come back.
            ForgottenServer.objects.filter(pk=server_id).delete()
            raise
        copies += is_kept
        volumes += not is_kept
    with transaction.atomic():
        deleted, _ = Server.objects.filter(pk=server_id).delete()
        if deleted:  # and not by another call at the same time
            record(Action.SERVER_FORGET, target=str(server_id), copies=copies, volumes=volumes)
        transaction.on_commit(placement.forget_table)
        transaction.on_commit(forget_places)
    log.info("server %s is forgotten: %d copies are to be made anew, %d volumes are gone", server_id, copies, volumes)
    return Forgotten(copies=copies, volumes=volumes)


def require_gone(*, server_id: UUID) -> None:
    """Raises ServerNotFound, and ServerAlive for a server that was heard lately, here or at its address."""
    server = Server.objects.filter(pk=server_id).first()
    if server is None:
        raise ServerNotFound(f"There is no server {server_id}.")
    _refuse_heard(server)
    health = client.probe(server.internal_url)
    if health is not None and health.server == server_id:
        raise ServerAlive(
            f"Server {server} answers at {server.internal_url}. It is emptied by `manage.py drain`; stop it first if "
            "it is to be forgotten."
        )


def refuse_losses(held: Holdings) -> None:
    """Raises ServerNeeded where anything would be lost."""
    if not held:
        return
    objects, uploads = held.objects.total(), held.uploads.total()
    buckets = len(held.objects.keys() | held.uploads.keys())
    raise ServerNeeded(
        f"No other copy has all of {objects:,} objects and {uploads:,} open uploads in {buckets:,} buckets. Bring the "
        "server or its data directory back, or delete these first: `manage.py forget SERVER --list` names them."
    )


def refuse_forgotten(server_id: UUID) -> None:
    """Raises ServerForgotten."""
    forgotten = ForgottenServer.objects.filter(pk=server_id).first()
    if forgotten is not None:
        raise ServerForgotten(
            f"Server {forgotten} was forgotten at {forgotten.forgotten_at:%Y-%m-%d %H:%M:%S %Z}, and what it holds is "
            "of no use any more. Its data directory is left as it is; to join anew, start with an empty one."
        )


def _refuse_heard(server: Server) -> None:
    now = timezone.now()
    if server.last_seen_at is not None and server.last_seen_at > now - OFFLINE_AFTER:
        seconds = (now - server.last_seen_at).total_seconds()
        raise ServerAlive(
            f"Server {server} was heard {max(0.0, seconds):.0f} s ago. Only one that is silent for more than "
            f"{OFFLINE_AFTER.total_seconds():.0f} s is forgotten; one that is there is emptied by `manage.py drain`."
        )


@transaction.atomic
def _shut_out(server_id: UUID) -> None:
    """From here on it is not let in, and a process of it that still runs is not heard."""
    server = Server.objects.select_for_update(no_key=True).filter(pk=server_id).first()
    if server is None:
        raise ServerNotFound(f"There is no server {server_id}.")
    _refuse_heard(server)
    ForgottenServer.objects.get_or_create(pk=server_id, defaults={"node": server.node, "traffic": server.traffic})
    server.instance = _NO_INSTANCE
    server.stopped_at = server.stopped_at or timezone.now()
    server.save(update_fields=["instance", "stopped_at"])


def _forget_copy(volume_id: int, server_id: UUID) -> bool:
    """Whether the volume goes on in other copies; else it is gone. Raises ServerNeeded."""
    for tries_left in reversed(range(_TRIES)):
        try:
            with transaction.atomic():
                if let_go_of_copy(volume_id=volume_id, server_id=server_id):
                    return True
                _remove_volume(volume_id)
        except (ProtectedError, IntegrityError):
            if not tries_left:
                raise
        else:
            break
    return False


def _remove_volume(volume_id: int) -> None:
    """Its number is never given again. The caller has locked it."""
    volume = Volume.objects.filter(pk=volume_id)
    refuse_losses(holdings_in(volume))
    release_volume(volume_id)
    Replica.objects.filter(volume=volume_id).delete()
    volume.delete()
    transaction.on_commit(placement.forget_table)
    transaction.on_commit(forget_places)
