"""Copies of volumes: where they are to be, which of them is the truth, and when a volume takes records again.

What is to be done next about a volume is judged from its rows alone (`next_step`), so whoever asks, however often and
with however many others at once, comes to the same; it is carried out under the volume's lock after being judged anew.

    making ──all copies made──> opening ──its primary says: all equal──> whole
                                   ^  \\                                  /  \\ a compaction
              all copies are there │   \\──a copy is lost──> degraded <──/    v
              again, or elsewhere  └────────────────────────────┘         closed ──> opening

An *opening* is an order to one copy, the primary, to bring the others into line under a new epoch. It is safe with any
primary that holds all that was ever acknowledged (`Replica.has_all_of`), which is known since records are acknowledged
only under an epoch that was found open here, and are durable on all of its copies by then:

    master                               primary            peer
      | epoch E+1, opening (committed)      |                 |
      |-- open E+1, peers ----------------->|-- equal? ------>|      no lease is of E+1 yet, and confirms of
      |                                     |-- bytes ------->|      leases of E are refused: nothing is acknowledged
      |<-- open under E+1, all whole -------|                 |
      | opened_epoch := E+1 (committed)     |                 |      from here on leases of E+1 are given out

So whoever falls silent at whatever point, the copies of `opened_epoch` have everything. Locks are taken in the order
of a heartbeat: the replicas' rows, then the volume's. A heartbeat holds its server's row, too, which nobody else waits
for: not even who makes a row that names it, since neither changes its key (`no_key`).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from keys.actions import Action
from keys.services.audit import record
from volumes.errors import IllegalTransition, VolumeDegraded
from volumes.models import JobState, Replica, Server, Volume
from volumes.services import placement
from volumes.services.homes import Homes
from volumes.services.presign import forget_places
from volumes.services.store import current_store

log = logging.getLogger(__name__)

RETRY_AFTER = timedelta(seconds=2)
"""So long a volume stays degraded at least before it is opened again."""
STALE_REPORT = timedelta(seconds=10)
"""After so long a report of an older epoch is no longer one that was on its way when the volume was opened."""
COMPACTION_BEGINS_WITHIN = timedelta(seconds=30)
LISTEN_GAP_S = 15.0
"""More than that between two looks does not count as listening."""
MENDED_AGAIN_AFTER = timedelta(days=1)
"""So long a volume is left open at least before it is opened anew for damage that its last opening could not mend."""
_STEPS = 4
_NO_SOURCE = "No copy that has everything is online."
_PARAMETERS = 500
_NOTE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Mended:
    """What one look at all volumes came to."""

    looked_at: int
    changed: int
    waiting: int
    """Volumes that are not whole, or not as they should be, and can't be helped now."""


@dataclass(frozen=True, slots=True)
class Degrade:
    """It takes no record from here on."""

    why: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Its copies are equal, as its primary has said of the latest opening."""

    members: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Reopen:
    """Its primary is to bring the members into line under a new epoch; by servers."""

    primary: UUID
    members: tuple[UUID, ...]
    added: tuple[UUID, ...]
    removed: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Copies of a volume that was never written are to be made elsewhere; by servers."""

    added: tuple[UUID, ...]
    removed: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now. ``why`` is empty when nothing is to be done."""

    why: str = ""


Step = Degrade | Settle | Reopen | Replace | Wait


def mend_volumes(*, now: datetime | None = None) -> Mended:
    """Brings every volume that is not as it should be one step further."""
    now = now or timezone.now()
    if current_store().behind_of is not None:
        log.warning("no volume is mended: the database is older than what the volume servers have seen")
        return Mended(0, 0, 0)
    note_silence(now=now)
    homes = Homes(now=now)
    volume_ids = _to_look_at(now)
    changed = waiting = 0
    for start in range(0, len(volume_ids), _PARAMETERS):
        for volume, replicas in _load(volume_ids[start : start + _PARAMETERS]):
            step = next_step(volume, replicas, homes=homes, now=now)
            if isinstance(step, Wait):
                waiting += bool(step.why)
                if not _has_news(volume, step):
                    continue
            changed += mend_volume(volume_id=volume.pk, homes=homes, now=now)
    return Mended(looked_at=len(volume_ids), changed=changed, waiting=waiting)


def mend_volume(*, volume_id: int, homes: Homes | None = None, now: datetime | None = None) -> bool:
    """Does what can be done about a volume now; whether anything was."""
    now = now or timezone.now()
    homes = homes or Homes(now=now)
    changed = False
    with transaction.atomic():
        _lock_copies(volume_id)
        volume = Volume.objects.select_for_update(no_key=True).filter(pk=volume_id).first()
        if volume is None:
            return False
        for _ in range(_STEPS):
            # Only now that nobody else can add or remove one.
            replicas = list(Replica.objects.filter(volume=volume).select_related("server").order_by("server"))
            step = next_step(volume, replicas, homes=homes, now=now)
            if isinstance(step, Wait):
                _note(volume, step)
                break
            _apply(step, volume, replicas, now)
            if isinstance(step, Reopen):
                homes.promise(step.added, holders=replicas)
            changed = True
        if changed:
            transaction.on_commit(placement.forget_table)
            transaction.on_commit(forget_places)
    return changed


def _lock_copies(volume_id: int) -> None:
    """The rows of a volume's copies alone: by `server_id`, since the order of servers would join, and lock, theirs."""
    list(Replica.objects.select_for_update().filter(volume=volume_id).order_by("server_id").values_list("pk"))


@transaction.atomic
def close_volume(*, volume_id: int) -> int | None:
    """Has a volume of several copies take no record until its compaction is over; gives the epoch of that.

    None when there is nothing to close: it has a single copy, or is closed already. Raises VolumeDegraded.
    """
    _lock_copies(volume_id)
    volume = Volume.objects.select_for_update(no_key=True).get(pk=volume_id)
    copies = list(Replica.objects.filter(volume=volume).select_related("server"))
    if volume.redundancy == Volume.Redundancy.CLOSED or (
        len(copies) == 1 and volume.redundancy == Volume.Redundancy.WHOLE
    ):
        return None
    if volume.redundancy != Volume.Redundancy.WHOLE or not all(one.server.is_alive() for one in copies):
        raise VolumeDegraded(
            f"Not all copies of volume {volume_id} are there and equal: it is {volume.redundancy}. "
            f"{volume.redundancy_note}".rstrip()
        )
    volume.epoch += 1
    _turn(volume, Volume.Redundancy.CLOSED, timezone.now(), note="")
    transaction.on_commit(placement.forget_table)
    return volume.epoch


@transaction.atomic
def reopen_volume(*, volume_id: int) -> None:
    """Has a volume that was closed for nothing opened again by the next look at it."""
    volume = Volume.objects.select_for_update(no_key=True).get(pk=volume_id)
    if volume.redundancy == Volume.Redundancy.CLOSED:
        _turn(volume, Volume.Redundancy.DEGRADED, timezone.now(), note="It was closed, and is to be opened again.")


@transaction.atomic
def end_epoch(*, volume_id: int) -> None:
    """Makes all leases on a volume of several copies worthless: it is opened anew by the next look at it."""
    volume = Volume.objects.select_for_update(no_key=True).get(pk=volume_id)
    if volume.redundancy == Volume.Redundancy.WHOLE:
        _turn(volume, Volume.Redundancy.DEGRADED, timezone.now(), note="It is to be opened anew.")


@transaction.atomic
def let_go_of_copy(*, volume_id: int, server_id: UUID) -> bool:
    """Takes the copy on a server that is gone for good off the rows, so that it is made anew elsewhere at once.

    False: no other copy is known to have all that was ever acknowledged. Then nothing is changed; the rows of the
    copies and the volume's are locked all the same.
    """
    _lock_copies(volume_id)
    volume = Volume.objects.select_for_update(no_key=True).filter(pk=volume_id).first()
    copies = list(Replica.objects.filter(volume=volume_id).select_related("server").order_by("server"))
    gone = next((one for one in copies if one.server_id == server_id), None)
    if volume is None or gone is None:
        return True  # somebody else has done it
    # Until it was opened for the first time, nothing was written to any of them.
    is_new = volume.redundancy == Volume.Redundancy.MAKING
    heirs = [one for one in copies if one is not gone and (is_new or one.has_all_of(volume))]
    if not heirs:
        return False
    Replica.objects.filter(pk=gone.pk).delete()
    if gone.role == Replica.Role.PRIMARY:
        heir = min(heirs, key=lambda one: (not one.server.is_alive(), one.damaged_count, -one.server.usable_bytes))
        Replica.objects.filter(pk=heir.pk).update(role=Replica.Role.PRIMARY)
    volume.unsettled = True
    if is_new:
        volume.save(update_fields=["unsettled"])
    else:
        _turn(volume, Volume.Redundancy.DEGRADED, timezone.now(), note=f"Server {gone.server} was forgotten.")
    _record_move(volume, (), (server_id,))
    transaction.on_commit(placement.forget_table)
    transaction.on_commit(forget_places)
    return True


def set_replication(*, volume_ids: Iterable[int], replication: int) -> int:
    """How many copies volumes are to have from now on; the rest is done in the background. How many were changed."""
    wanted = sorted(set(volume_ids))
    changed = 0
    for start in range(0, len(wanted), _PARAMETERS):
        changed += (
            Volume.objects.filter(pk__in=wanted[start : start + _PARAMETERS])
            .exclude(replication=replication)
            .update(replication=replication, unsettled=True)
        )
    if changed:
        transaction.on_commit(placement.forget_table)
    return changed


def note_silence(*, now: datetime) -> None:
    """Counts for how long servers have been listened for in vain.

    What counts is time in which somebody listened: with the worker stopped, or with no server heard at all because the
    master itself was down or cut off, none of them gets any nearer to being given up.
    """
    silent = [server for server in Server.objects.all() if not server.is_alive(now=now)]
    hears = Server.objects.count() > len(silent)
    for server in silent:
        since = server.silence_checked_at
        gap_s = (now - since).total_seconds() if since is not None else 0.0
        counted_s = gap_s if hears and 0 < gap_s <= LISTEN_GAP_S else 0.0
        # Conditional, so that of two who count at once one does.
        Server.objects.filter(pk=server.pk, silence_checked_at=since).update(
            silence_checked_at=now, silent_seconds=F("silent_seconds") + counted_s
        )
    heard = Server.objects.exclude(pk__in=[server.pk for server in silent])
    heard.exclude(silence_checked_at=None).update(silence_checked_at=None, silent_seconds=0)


def is_given_up(server: Server, *, now: datetime) -> bool:
    """Whether what was on a server is to be copied from elsewhere: silent for longer than the time of grace, or
    silent and to be emptied anyway. Never while its silence was announced."""
    if server.admin_state == Server.AdminState.MAINTENANCE or server.is_alive(now=now):
        return False
    if server.admin_state == Server.AdminState.DRAINING:
        return True
    return server.silent_seconds >= settings.WAREHOUSE_REREPLICATE_SECONDS


# -- what there is to do -----------------------------------------------------------------------------------------------


def _to_look_at(now: datetime) -> list[int]:
    """Numbers of the volumes that may need something; cheap while all is well, however many volumes there are."""
    servers = list(Server.objects.all())
    leaving = [one.pk for one in servers if one.admin_state == Server.AdminState.DRAINING]
    away = [one.pk for one in servers if not one.is_alive(now=now)]
    found = set(
        Volume.objects.filter(~Q(redundancy=Volume.Redundancy.WHOLE) | Q(unsettled=True)).values_list("pk", flat=True)
    )
    for wanted in (
        Replica.objects.filter(server__in=leaving),
        Replica.objects.filter(server__in=away, volume__replication__gt=1),
        Replica.objects.filter(
            Q(damaged_count__gt=F("tried_damage_count"))
            | Q(volume__redundancy_changed_at__lte=now - MENDED_AGAIN_AFTER),
            damaged_count__gt=0,
            scrubbed_at__gt=F("volume__redundancy_changed_at"),
            volume__replication__gt=1,
        ),
    ):
        found.update(wanted.values_list("volume", flat=True))
    return sorted(found)


def _load(volume_ids: Sequence[int]) -> list[tuple[Volume, list[Replica]]]:
    volumes = {volume.pk: (volume, list[Replica]()) for volume in Volume.objects.filter(pk__in=volume_ids)}
    for replica in Replica.objects.filter(volume__in=volume_ids).select_related("server").order_by("server"):
        if replica.volume_id in volumes:
            volumes[replica.volume_id][1].append(replica)
    return [volumes[volume_id] for volume_id in sorted(volumes)]


@dataclass(slots=True)
class _Case:
    """A volume's copies, sorted by what can be expected of them."""

    volume: Volume
    replicas: Sequence[Replica]
    now: datetime
    alive: list[Replica] = field(init=False)
    lost: list[Replica] = field(init=False)
    """On servers that are given up."""
    gone: list[Replica] = field(init=False)
    """These, and those whose disk has refused to keep what was written, while another copy is sound."""
    waited_for: list[Replica] = field(init=False)
    """On servers that are silent, and may come back."""
    sources: list[Replica] = field(init=False)
    """Those that are there and hold all that was ever acknowledged, of the highest revision."""
    staying: list[Replica] = field(init=False)
    """Those that count towards the copies that it is to have: none of two on one node, none on a server that is to be
    emptied, none whose disk has failed."""

    def __post_init__(self) -> None:
        volume = self.volume
        self.alive = [one for one in self.replicas if one.server.is_alive(now=self.now)]
        silent = [one for one in self.replicas if one not in self.alive]
        self.lost = [one for one in silent if is_given_up(one.server, now=self.now)]
        self.waited_for = [one for one in silent if one not in self.lost]
        complete = [one for one in self.replicas if one.has_all_of(volume) and one not in self.lost]
        newest = max(((one.epoch, one.revision) for one in complete), default=(0, 0))
        self.sources = [one for one in complete if one in self.alive and (one.epoch, one.revision) == newest]
        self.gone = list(self.lost)
        if sound := [one for one in self.sources if one.state == Replica.State.OPEN]:
            self.sources = sound
            if volume.state != Volume.State.SEALED:
                self.gone += [one for one in self.alive if one.state == Replica.State.SEALED]
        self.staying = []
        nodes: set[str] = set()
        for one in sorted(self.replicas, key=lambda one: (one not in self.sources, one.role)):
            if (
                one not in self.gone
                and one.server.admin_state != Server.AdminState.DRAINING
                and one.server.node not in nodes
            ):
                nodes.add(one.server.node)
                self.staying.append(one)

    @property
    def primary(self) -> Replica | None:
        return next((one for one in self.replicas if one.role == Replica.Role.PRIMARY), None)


def next_step(volume: Volume, replicas: Sequence[Replica], *, homes: Homes, now: datetime) -> Step:
    """What is to be done about a volume now, by its rows (``replicas`` with their servers) alone."""
    case = _Case(volume, replicas, now)
    primary = case.primary
    if primary is None:
        return Wait("It has no primary.")
    match volume.redundancy:
        case Volume.Redundancy.MAKING:
            return _while_making(case, homes)
        case Volume.Redundancy.OPENING:
            return _while_opening(case, primary)
        case Volume.Redundancy.CLOSED if (step := _while_closed(case, primary)) is not None:
            return step
        case Volume.Redundancy.WHOLE if (why := _degraded_by(case) or _to_be_mended(case)) is not None:
            return Degrade(why)
    return _place(case, primary, homes)


def _while_making(case: _Case, homes: Homes) -> Step:
    # Nothing was ever written to it: whoever is away, announced or not, is not waited for.
    away = [one for one in case.replicas if one not in case.alive]
    if away:
        added = homes.find(case.volume, size_bytes=0, keep=case.alive, holders=case.replicas, count=len(away))
        if case.alive and len(added) == len(away):
            return Replace(tuple(added), _servers(away))
    if any(one.state != Replica.State.OPEN for one in case.replicas):
        return Wait("Its copies are being made.")
    assert case.primary is not None
    return Reopen(case.primary.server_id, _servers(case.replicas), (), ())


def _while_opening(case: _Case, primary: Replica) -> Step:
    volume = case.volume
    members = [one for one in case.replicas if one.member_epoch == volume.epoch]
    for one in members:
        if one not in case.alive:
            return Degrade(f"Server {one.server} is not heard.")
    told = primary.replication
    if told is None:
        is_open = len(members) == 1 and primary.epoch == volume.epoch and primary.state == Replica.State.OPEN
        return Settle(_servers(members)) if is_open else Wait("It is about to be opened.")
    if told["epoch"] != volume.epoch:
        return Wait("It is about to be opened.")
    if told["state"] in ("degraded", "closed"):
        return Degrade(f"It could not be opened: {told['detail'] or 'its primary does not say why'}")
    whole = {peer["server"] for peer in told["peers"] if peer["state"] == "whole"}
    missing = [one for one in members if one is not primary and str(one.server_id) not in whole]
    if told["state"] == "open" and not missing:
        return Settle(_servers(members))
    return Wait("Its copies are brought into line.")


def _while_closed(case: _Case, primary: Replica) -> Step | None:
    """None when it may be opened again."""
    volume = case.volume
    if primary not in case.alive:
        return Degrade(f"Server {primary.server} is not heard.")
    job = primary.compaction
    if job is not None and job["state"] == JobState.RUNNING:
        return Wait("It is being compacted.")
    closed_ms = volume.redundancy_changed_at.timestamp() * 1000
    is_over = job is not None and job["ended_ms"] is not None and job["ended_ms"] >= closed_ms
    if is_over or case.now - volume.redundancy_changed_at >= COMPACTION_BEGINS_WITHIN:
        return None
    return Wait("It is about to be compacted.")


def _degraded_by(case: _Case) -> str | None:
    """Why a volume that is whole by its row is not; None: it is. A single copy has nothing to be unequal to."""
    if len(case.replicas) < 2:
        return None
    volume = case.volume
    is_old = case.now - volume.redundancy_changed_at >= STALE_REPORT
    for one in case.replicas:
        if one not in case.alive:
            return f"Server {one.server} is not heard."
        if one.state != Replica.State.OPEN and (is_old or _is_newer(one, volume)):
            return f"The copy on server {one.server} is {one.state}."
        told = one.replication
        if told is None or told["state"] == "open":
            continue
        if is_old or (told["epoch"] >= volume.epoch and _is_newer(one, volume)):
            return f"The copy on server {one.server} is {told['state']}: {told['detail'] or 'it was started anew'}"
    return None


def _to_be_mended(case: _Case) -> str | None:
    """Why a volume that is whole is to be opened anew: a scrub has found damage since it was opened.

    An opening takes what is damaged in one copy from another. New damage does not wait: the same record may be the next
    one to rot elsewhere. What no copy has sound an opening leaves, so for that it is not tried again and again.
    """
    volume = case.volume
    if len(case.replicas) < 2:
        return None
    is_long_open = case.now - volume.redundancy_changed_at >= MENDED_AGAIN_AFTER
    for one in case.replicas:
        if (
            (is_long_open or one.damaged_count > one.tried_damage_count)
            and one.damaged_count
            and one.scrubbed_at is not None
            and one.scrubbed_at > volume.redundancy_changed_at
        ):
            return f"{one.damaged_count} records on server {one.server} are damaged, and to be taken from another copy."
    return None


def _is_newer(replica: Replica, volume: Volume) -> bool:
    """Whether a copy's figures changed after the volume was last found whole."""
    return replica.reported_at is not None and replica.reported_at > volume.redundancy_changed_at


def _place(case: _Case, primary: Replica, homes: Homes) -> Step:
    """What is to be done about a volume that stands still: whole, degraded, or closed and compacted."""
    volume, is_whole = case.volume, case.volume.redundancy == Volume.Redundancy.WHOLE
    if case.waited_for:
        # Of a single copy there is nothing to be said: its server's row says it.
        away = ", ".join(str(one.server) for one in case.waited_for)
        return Wait("" if len(case.replicas) == 1 else f"Server {away} is away.")
    if not case.sources:
        return Wait(_why_no_source(case, primary))
    job = primary.compaction
    if job is not None and job["state"] == JobState.RUNNING and primary in case.alive:
        return Wait("It is being compacted.")
    if not is_whole and case.now - volume.redundancy_changed_at < RETRY_AFTER:
        return Wait(volume.redundancy_note)

    short = volume.replication - len(case.staying)
    added: list[UUID] = []
    if short > 0:
        size_bytes = max(one.size_bytes for one in case.sources)
        added = homes.find(volume, size_bytes=size_bytes, keep=case.staying, holders=case.replicas, count=short)
        if len(added) < short and not homes.why_none:
            return Wait("It waits for its turn to be copied.")
    removed = _removable(case, short=short, added=len(added), is_whole=is_whole)
    kept = [one for one in case.replicas if one not in removed]
    members = [one for one in kept if one in case.alive and one not in case.gone]
    must_open = bool(added or removed) or (not is_whole and not _is_open_already(case, members, kept))
    if must_open:
        chosen = _best_source(case, kept, primary)
        if chosen is None:
            return Wait(_NO_SOURCE)
        return Reopen(chosen.server_id, (*_servers(members), *added), tuple(added), _servers(removed))
    if short <= 0 and is_whole and len(case.replicas) > volume.replication:
        return Wait("It has more copies than it needs, for now.")  # until those that stay have reported themselves
    return Wait(homes.why_none if short > 0 else "")


def _why_no_source(case: _Case, primary: Replica) -> str:
    if len(case.replicas) > 1 or case.lost:
        return _NO_SOURCE
    if primary.state == Replica.State.MISSING:
        return f"Server {primary.server} has no file of it any more, and no other copy is known: see its log."
    return ""


def _removable(case: _Case, *, short: int, added: int, is_whole: bool) -> list[Replica]:
    """Copies that are needed no longer.

    One that is gone goes when another takes its place, so that its return is still worth something until then. One
    that is there goes only from a volume that is whole without it.
    """
    volume = case.volume
    removed = case.gone if short - added <= 0 else case.gone[:added]
    enough = [one for one in case.staying if one.has_all_of(volume)]
    if not is_whole or len(enough) < volume.replication:
        return removed
    needless = [one for one in case.replicas if one not in case.staying]
    surplus = len(enough) - volume.replication
    if surplus > 0:
        by_worth = sorted(enough, key=lambda one: (one.role == Replica.Role.PRIMARY, one.server.usable_bytes))
        needless += by_worth[:surplus]
    return needless


def _is_open_already(case: _Case, members: Sequence[Replica], kept: Sequence[Replica]) -> bool:
    """Whether a degraded volume is as good as it can be: those that are there are equal, and one is lost for good."""
    volume = case.volume
    primary = case.primary
    return (
        volume.opened_epoch == volume.epoch
        and len(members) < len(kept)
        and all(one.whole_epoch == volume.epoch and one.state == Replica.State.OPEN for one in members)
        and primary in members
        and primary is not None
        and (primary.replication is None or primary.replication["state"] == "open")
        and all(one.replication is None or one.replication["state"] == "open" for one in members)
    )


def _best_source(case: _Case, kept: Sequence[Replica], primary: Replica) -> Replica | None:
    fit = [one for one in case.sources if one in kept]
    if not fit:
        return None
    return min(
        fit,
        key=lambda one: (
            one not in case.staying, one.damaged_count, one is not primary, -one.server.usable_bytes,
        ),
    )  # fmt: skip


def _servers(replicas: Iterable[Replica]) -> tuple[UUID, ...]:
    return tuple(one.server_id for one in replicas)


# -- doing it ----------------------------------------------------------------------------------------------------------


def _apply(step: Step, volume: Volume, replicas: Sequence[Replica], now: datetime) -> None:
    """Carries a step out on a volume that the caller has locked, and that it was judged for."""
    match step:
        case Degrade(why):
            _turn(volume, Volume.Redundancy.DEGRADED, now, note=why)
            log.warning("volume %d takes no record: %s", volume.pk, why)
        case Settle(members):
            Replica.objects.filter(volume=volume, server__in=members).update(whole_epoch=volume.epoch)
            volume.opened_epoch = volume.epoch
            is_whole = len(members) == len(replicas)
            to = Volume.Redundancy.WHOLE if is_whole else Volume.Redundancy.DEGRADED
            volume.unsettled = True
            _turn(volume, to, now, note="" if is_whole else "A copy is lost.")
            log.info("volume %d is %s under epoch %d", volume.pk, to, volume.epoch)
        case Reopen():
            _reopen(step, volume, replicas, now)
        case Replace(added, removed):
            Replica.objects.filter(volume=volume, server__in=removed).delete()
            Replica.objects.bulk_create(
                [Replica(volume=volume, server_id=one, role=Replica.Role.SECONDARY) for one in added]
            )
            if not Replica.objects.filter(volume=volume, role=Replica.Role.PRIMARY).exists():
                first = Replica.objects.filter(volume=volume).order_by("server").values("pk")[:1]
                Replica.objects.filter(pk__in=list(first.values_list("pk", flat=True))).update(
                    role=Replica.Role.PRIMARY
                )
            _record_move(volume, added, removed)


def _reopen(step: Reopen, volume: Volume, replicas: Sequence[Replica], now: datetime) -> None:
    if volume.redundancy == Volume.Redundancy.MAKING:
        # Made alike, and never written to.
        Replica.objects.filter(volume=volume).update(whole_epoch=volume.opened_epoch)
    # Above all that any of its servers has seen, also under a newer database that was lost.
    volume.epoch = max(volume.epoch, *(one.epoch for one in replicas)) + 1
    if step.removed:
        Replica.objects.filter(volume=volume, server__in=step.removed).delete()
    if step.added:
        Replica.objects.bulk_create(
            [Replica(volume=volume, server_id=one, role=Replica.Role.SECONDARY) for one in step.added]
        )
    rows = Replica.objects.filter(volume=volume)
    rows.exclude(server=step.primary).filter(role=Replica.Role.PRIMARY).update(role=Replica.Role.SECONDARY)
    rows.filter(server=step.primary).update(role=Replica.Role.PRIMARY)
    rows.filter(server__in=step.members).update(member_epoch=volume.epoch, tried_damage_count=F("damaged_count"))
    volume.unsettled = True
    _turn(volume, Volume.Redundancy.OPENING, now, note="")
    if step.added or step.removed:
        _record_move(volume, step.added, step.removed)
    log.info(
        "volume %d is to be opened under epoch %d by server %s with copies on %s",
        volume.pk,
        volume.epoch,
        step.primary,
        ", ".join(map(str, step.members)),
    )


def _turn(volume: Volume, to: Volume.Redundancy, now: datetime, *, note: str) -> None:
    if to not in Volume.REDUNDANCY_TRANSITIONS[Volume.Redundancy(volume.redundancy)]:
        raise IllegalTransition(f"Volume {volume.pk} is {volume.redundancy}, from which none becomes {to}.")
    volume.redundancy = to
    volume.redundancy_changed_at = now
    volume.redundancy_note = note[:_NOTE_CHARACTERS]
    volume.save(
        update_fields=[
            "redundancy", "redundancy_changed_at", "redundancy_note", "epoch", "opened_epoch", "unsettled",
        ]
    )  # fmt: skip


def _note(volume: Volume, step: Wait) -> None:
    if not _has_news(volume, step):
        return
    volume.redundancy_note = step.why[:_NOTE_CHARACTERS]
    volume.unsettled = bool(step.why)
    volume.save(update_fields=["redundancy_note", "unsettled"])


def _has_news(volume: Volume, step: Wait) -> bool:
    return volume.redundancy_note != step.why[:_NOTE_CHARACTERS] or volume.unsettled != bool(step.why)


def _record_move(volume: Volume, added: Iterable[UUID], removed: Iterable[UUID]) -> None:
    record(Action.VOLUME_PLACE, target=str(volume.pk), added=list(map(str, added)), removed=list(map(str, removed)))
