"""Servers join, report and leave."""

import hmac
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keys.actions import Action
from keys.errors import Invalid
from keys.secrets import secret
from keys.selectors import revoked_generations
from keys.services.audit import record
from volumes import client
from volumes.derived_secrets import server_secret
from volumes.errors import (
    AdminStateConflict,
    JoinRefused,
    MasterBehind,
    ServerKnown,
    ServerNotFound,
    ServerRunning,
    Superseded,
    WrongStore,
)
from volumes.models import Server, Store, Volume
from volumes.reports import Registration, ServerReport
from volumes.services import placement
from volumes.services.figures import Recorded, record_figures
from volumes.services.forgetting import refuse_forgotten
from volumes.services.instructions import Instruction, instructions_for, is_unfinished
from volumes.services.making import make_volumes
from volumes.services.redundancy import mend_volume
from volumes.services.store import current_store, note_behind
from volumes.traffic import add_traffic

log = logging.getLogger(__name__)

MENDED_A_REPORT = 20
"""So many volumes are seen to in answer to a report; the others wait for the worker."""
REVOKED_MARGIN = timedelta(minutes=5)
"""How much longer than any URL lives the revoked keys are told."""

_OTHER: dict[str, str] = {
    Server.AdminState.DRAINING: Server.AdminState.MAINTENANCE,
    Server.AdminState.MAINTENANCE: Server.AdminState.DRAINING,
}
_END_FIRST: dict[str, str] = {
    Server.AdminState.DRAINING: "is being emptied; `manage.py drain {} --cancel` keeps it, nothing else was changed.",
    Server.AdminState.MAINTENANCE: "is in maintenance; `manage.py maintenance {} off` ends that, nothing was changed.",
}

_REPORTED = ("capacity_bytes", "free_bytes", "used_bytes", "disk", "last_seen_at", "proven", "stray_volumes", "traffic")
"""What a report changes in a server's row; an operator may change the rest at the same time."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the master tells a server in return for a report.

    ``revoked``: API key id to the first generation that is still good.
    """

    store: str
    sequence: int
    now_ms: int
    cors_origins: tuple[str, ...]
    revoked: dict[int, int]
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a server gets when it joins: the secret it signs with from now on, and its first orders."""

    kid: int
    secret: bytes
    orders: Orders


def register_server(*, registration: Registration, is_proven: bool) -> Welcome:
    """Lets a server join, new or back again; ``is_proven``: the request was signed with the server's secret.

    The join token admits ids that are new, or that never got to use their secret (the answer was lost).
    Raises JoinRefused, ServerKnown, ServerForgotten, ServerRunning, WrongStore, MasterBehind.
    """
    report = registration.report
    known = Server.objects.filter(pk=report.server).first()
    refuse_forgotten(report.server)  # after its row was looked for, which goes when it is forgotten
    if not is_proven:
        if known is not None and known.proven:
            raise ServerKnown(f"Server {report.server} has proved its secret before; the token alone is not enough.")
        _require_token(registration.token)
    store = _require_same_store(report)
    if known is not None:
        _refuse_clone(known, report)

    now = timezone.now()
    described = {
        "node": registration.node,
        "public_url": registration.public_url,
        "internal_url": registration.internal_url,
        "version": registration.version,
        "instance": report.instance,
        "capacity_bytes": report.capacity_bytes,
        "free_bytes": report.free_bytes,
        "used_bytes": _used_bytes(report),
        "disk": report.disk,
        "last_seen_at": now,
        "stopped_at": None,
        "check_error": "",
    }
    with transaction.atomic():
        if known is None:
            server, is_new = Server.objects.get_or_create(pk=report.server, defaults={**described, "proven": is_proven})
            if not is_new and server.instance != report.instance:
                raise ServerRunning(f"Another process has just registered as server {report.server}.")
        else:
            # Conditional on the instance that was asked for above: of two newcomers at once one is refused. A process
            # that was not answered in time asks again while its first try may still be under way: it is no other one.
            taken = Server.objects.filter(pk=report.server, instance__in={known.instance, report.instance}).update(
                **described, proven=is_proven or known.proven
            )
            if taken != 1:
                raise ServerRunning(f"Another process has just registered as server {report.server}.")
            server = Server.objects.get(pk=report.server)
        recorded, has_work = _take_report(server=server, report=report, store=store, now=now)
        server.save(update_fields=_REPORTED)
        if known is not None and known.node != server.node:
            # Copies that were on different nodes may not be any more.
            Volume.objects.filter(replicas__server=server).update(unsettled=True)
        record(
            Action.SERVER_REGISTER, target=str(server.pk), node=server.node, url=server.public_url, new=known is None
        )
        transaction.on_commit(placement.forget_table)
    log.info("server %s has joined from %s (node %s)", server.pk, server.internal_url, server.node)
    orders = _orders(server=server, recorded=recorded, has_work=has_work, store=store, now=now)
    return Welcome(kid=server.kid, secret=server_secret(server.pk, server.kid), orders=orders)


def record_heartbeat(*, report: ServerReport) -> Orders:
    """Takes over a server's figures and tells it what to do. Raises Superseded, WrongStore, MasterBehind."""
    store = _require_same_store(report)
    now = timezone.now()
    with transaction.atomic():
        # Locked, so that two reports of one server are taken one after the other.
        server = (
            Server.objects.select_for_update(no_key=True)
            .filter(pk=report.server, instance=report.instance, stopped_at=None)
            .first()
        )
        if server is None:
            raise Superseded(f"Instance {report.instance} of server {report.server} is not the registered one.")
        was_alive = server.is_alive(now=now)
        server.capacity_bytes = report.capacity_bytes
        server.free_bytes = report.free_bytes
        server.used_bytes = _used_bytes(report)
        server.disk = report.disk
        server.last_seen_at = now
        server.proven = True
        recorded, has_work = _take_report(server=server, report=report, store=store, now=now)
        server.save(update_fields=_REPORTED)
        if not was_alive:
            transaction.on_commit(placement.forget_table)
    return _orders(server=server, recorded=recorded, has_work=has_work, store=store, now=now)


def deregister_server(*, server_id: UUID, instance: str) -> None:
    """A clean stop: offline at once. An instance that is not the current one changes nothing."""
    with transaction.atomic():
        running = Server.objects.filter(pk=server_id, instance=instance, stopped_at=None)
        if not running.update(stopped_at=timezone.now()):
            return
        record(Action.SERVER_DEREGISTER, target=str(server_id))
        transaction.on_commit(placement.forget_table)
    log.info("server %s has said good-bye", server_id)


@transaction.atomic
def set_admin_state(*, server_id: UUID, admin_state: str, ends: str | None = None) -> None:
    """What the operator wants of a server; ``ends`` is what alone may end by its being active, None: whatever it is.

    Raises Invalid, ServerNotFound, AdminStateConflict: a drain and a maintenance never take each other's place.
    """
    if admin_state not in Server.AdminState:
        raise Invalid(errors={"admin_state": [f"One of {', '.join(Server.AdminState.values)}."]})
    in_the_way = _OTHER.get(ends or admin_state)
    # This column alone: a heartbeat may write the rest at the same time.
    if not Server.objects.filter(pk=server_id).exclude(admin_state=in_the_way).update(admin_state=admin_state):
        server = Server.objects.filter(pk=server_id).first()
        if server is None:
            raise ServerNotFound(f"There is no server {server_id}.")
        raise AdminStateConflict(f"Server {server} {_END_FIRST[server.admin_state].format(str(server.pk)[:8])}")
    record(Action.SERVER_UPDATE, target=str(server_id), admin_state=admin_state)
    log.info("server %s is to be %s", server_id, admin_state)
    transaction.on_commit(placement.forget_table)


def _take_report(*, server: Server, report: ServerReport, store: Store, now: datetime) -> tuple[Recorded, bool]:
    """Records the volumes and makes new ones; ``server`` is changed and left to the caller to save.

    Also says whether there can be something for the server to do with its own volumes.
    """
    recorded = record_figures(server=server, volumes=report.volumes, now=now)
    if report.traffic is not None:
        server.traffic = add_traffic(server.traffic, instance=report.instance, told=report.traffic)
    strays = [figures.volume for figures in recorded.strays]
    if strays and strays != server.stray_volumes:
        log.warning("server %s holds volumes that are not assigned to it, they are not used: %s", server.pk, strays)
    server.stray_volumes = strays
    made = make_volumes(server=server, replicas=recorded.replicas, replications=store.replications, now=now)
    return recorded, made > 0 or any(map(is_unfinished, recorded.replicas))


def _orders(*, server: Server, recorded: Recorded, has_work: bool, store: Store, now: datetime) -> Orders:
    """What a server is told after its report was committed: what it said may have brought volumes a step further."""
    if store.behind_of is None:
        for volume_id in recorded.to_mend[:MENDED_A_REPORT]:
            mend_volume(volume_id=volume_id, now=now)
    return Orders(
        store=str(store.uuid),
        sequence=store.sequence,
        now_ms=int(time.time() * 1000),
        cors_origins=_cors_origins(store),
        revoked=revoked_generations(now - _longest_url_life()),
        instructions=instructions_for(server=server, has_work=has_work, strays=recorded.strays),
    )


def _require_token(token: str | None) -> None:
    if token is None or not hmac.compare_digest(token.encode(), secret("join.token")):
        raise JoinRefused("The join token is missing or not this store's.")


def _require_same_store(report: ServerReport) -> Store:
    """The fail-safe: a database that is another one, or an old copy, gives this server no orders."""
    store = current_store()
    if report.store is not None and report.store != store.uuid:
        raise WrongStore(f"The server belongs to store {report.store}, this is {store.uuid}.")
    if report.sequence > store.sequence:
        note_behind(seen_sequence=report.sequence)
        raise MasterBehind(f"The server has seen commit {report.sequence}, this database has {store.sequence}.")
    return store


def _refuse_clone(known: Server, report: ServerReport) -> None:
    """Asks at the old address whether another process of this id is alive; before any lock is held."""
    if known.instance == report.instance or known.stopped_at is not None:
        return
    health = client.probe(known.internal_url)
    if health is not None and health.server == report.server and health.instance == known.instance:
        raise ServerRunning(f"Server {report.server} still runs at {known.internal_url}.")


def _used_bytes(report: ServerReport) -> int:
    return sum(figures.size_bytes for figures in report.volumes)


def _cors_origins(store: Store) -> tuple[str, ...]:
    parts = urlsplit(settings.WAREHOUSE_PUBLIC_URL)
    own = f"{parts.scheme}://{parts.netloc}"
    return (own, *(origin for origin in store.cors_origins if origin != own))


def _longest_url_life() -> timedelta:
    longest_s = max(
        settings.WAREHOUSE_LEASE_SECONDS, settings.WAREHOUSE_CHUNK_URL_SECONDS, settings.WAREHOUSE_GET_SECONDS
    )
    return timedelta(seconds=longest_s) + REVOKED_MARGIN
