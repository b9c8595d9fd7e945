"""The store's own row, its servers, its volumes and where their copies are."""

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

MAX_VOLUME = (1 << 32) - 1
"""Volume numbers are u32 on disk."""
MAX_LEASE = (1 << 47) - 1
"""Lease numbers use 47 of their 48 bits, so that a needle id fits a signed 64-bit column."""
SALT_BYTES = 16
OFFLINE_AFTER = timedelta(seconds=10)
"""A server that has not been heard for this long is offline; it speaks every 2 s."""
RESERVE_MAX_BYTES = 1 << 30
MAX_REPLICATION = 8
"""More copies than that make no store safer, and every write waits for all of them."""


class Store(models.Model):
    """The one row that says which store this database is, and holds the numbers that are never given twice."""

    ONLY_ID: ClassVar[int] = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY_ID, editable=False)
    uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    sequence = models.BigIntegerField(default=0, help_text="Number of the latest commit.")
    lease_high = models.BigIntegerField(default=0, help_text="The highest lease number that was set aside.")
    volume_high = models.BigIntegerField(default=0, help_text="The highest volume number that was given.")
    behind_of = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="A commit that a server has seen and this database has not. While set, no lease is handed out "
        "and nothing is deleted.",
    )
    cors_origins = models.JSONField(
        default=list, blank=True, help_text="Origins that volume servers answer, besides the master's own."
    )
    intent_secret_id = models.PositiveSmallIntegerField(
        default=1, editable=False, help_text="Which secret signs leases; raised when this database is put in place."
    )
    replications = models.JSONField(
        default=list, blank=True, help_text="Copies that buckets ask for, besides 1: volumes are made for each."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name_plural = "store"
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="store_is_single"),
            models.CheckConstraint(condition=Q(sequence__gte=0), name="store_sequence_not_negative"),
            models.CheckConstraint(condition=Q(lease_high__gte=0, lease_high__lte=MAX_LEASE), name="store_lease_range"),
            models.CheckConstraint(
                condition=Q(volume_high__gte=0, volume_high__lte=MAX_VOLUME), name="store_volume_range"
            ),
        ]

    def __str__(self) -> str:
        return str(self.uuid)


class Server(models.Model):
    """One volume server: a process with a data directory."""

    class AdminState(models.TextChoices):
        """What the operator wants of it; whether it is alive is another matter."""

        ACTIVE = "active"
        DRAINING = "draining"
        MAINTENANCE = "maintenance"

    id = models.UUIDField(primary_key=True, editable=False)
    node = models.CharField(max_length=64, help_text="Failure domain: servers of one node fail together.")
    public_url = models.CharField(max_length=200, help_text="Where clients reach it.")
    internal_url = models.CharField(max_length=200, help_text="Where the master reaches it.")
    version = models.CharField(max_length=32, blank=True)
    instance = models.CharField(max_length=64, help_text="Made anew at each start of the process.")
    kid = models.PositiveIntegerField(default=1, help_text="Which of its secrets is in force.")
    proven = models.BooleanField(default=False, help_text="It has signed with its secret; the join token is spent.")
    admin_state = models.CharField(max_length=16, choices=AdminState.choices, default=AdminState.ACTIVE)
    capacity_bytes = models.BigIntegerField(default=0)
    free_bytes = models.BigIntegerField(default=0)
    used_bytes = models.BigIntegerField(default=0, help_text="Held by its volume files.")
    disk = models.CharField(
        max_length=64,
        blank=True,
        editable=False,
        help_text="Servers with the same one share its capacity and free space.",
    )
    stray_volumes = models.JSONField(
        default=list, blank=True, help_text="Volumes found on it that are not assigned to it; never used."
    )
    registered_at = models.DateTimeField(default=timezone.now, editable=False)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True, help_text="It said good-bye then.")
    last_checked_at = models.DateTimeField(null=True, blank=True)
    check_error = models.CharField(max_length=300, blank=True, help_text="What the last health check met.")
    traffic = models.JSONField(
        default=dict,
        blank=True,
        editable=False,
        help_text="What it has served in all its lives, and what its process last told.",
    )
    compaction_asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When the worker last asked for a compaction: one at a time."
    )
    silent_seconds = models.FloatField(
        default=0,
        help_text="How long it has been listened for in vain; a time in which nobody listened is not counted.",
    )
    silence_checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["node", "registered_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(admin_state__in=["active", "draining", "maintenance"]), name="server_admin_state_known"
            ),
            models.CheckConstraint(
                condition=Q(free_bytes__gte=0, capacity_bytes__gte=models.F("free_bytes")),
                name="server_free_in_capacity",
            ),
            models.CheckConstraint(condition=Q(used_bytes__gte=0), name="server_used_not_negative"),
            models.CheckConstraint(condition=Q(kid__gte=1), name="server_kid_positive"),
            models.CheckConstraint(condition=Q(silent_seconds__gte=0), name="server_silence_not_negative"),
            models.CheckConstraint(
                condition=~Q(node="") & ~Q(public_url="") & ~Q(internal_url="") & ~Q(instance=""),
                name="server_is_described",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.node} {str(self.id)[:8]}"

    def is_alive(self, *, now: datetime | None = None) -> bool:
        """Heard lately and not stopped. From the row alone, so it is right with no worker running."""
        if self.last_seen_at is None or self.stopped_at is not None:
            return False
        return self.last_seen_at > (now or timezone.now()) - OFFLINE_AFTER

    @property
    def holds_files(self) -> bool:
        """Whether it has files of volumes, by its own last report; of one that is gone for good, nobody will tell."""
        return bool(self.stray_volumes) or (self.is_alive() and self.used_bytes > 0)

    @property
    def status(self) -> str:
        """``online``, ``offline``, ``draining`` or ``maintenance``.

        Maintenance is announced, so its silence is no news; a draining server that falls silent is.
        """
        if self.admin_state == self.AdminState.MAINTENANCE:
            return "maintenance"
        if not self.is_alive():
            return "offline"
        return "draining" if self.admin_state == self.AdminState.DRAINING else "online"

    @property
    def usable_bytes(self) -> int:
        """Free space less the disk reserve: min(1 %, 1 GiB) of the disk stays free."""
        return usable_bytes(capacity_bytes=self.capacity_bytes, free_bytes=self.free_bytes)


class ForgottenServer(models.Model):
    """A server that died for good, and was taken off the books: it is never let in again under its id."""

    id = models.UUIDField(primary_key=True, editable=False)
    node = models.CharField(max_length=64)
    forgotten_at = models.DateTimeField(default=timezone.now, editable=False)
    traffic = models.JSONField(
        default=dict, blank=True, editable=False, help_text="What it had served in all its lives."
    )

    class Meta:
        ordering = ["forgotten_at", "id"]

    def __str__(self) -> str:
        return f"{self.node} ({self.id})"


def usable_bytes(*, capacity_bytes: int, free_bytes: int) -> int:
    """What may still be written to a disk of this size; never negative."""
    return max(0, free_bytes - min(capacity_bytes // 100, RESERVE_MAX_BYTES))


class Volume(models.Model):
    """A logical append-only log of needles; its copies are `Replica` rows."""

    class State(models.TextChoices):
        CREATING = "creating"
        WRITABLE = "writable"
        FULL = "full"
        SEALED = "sealed"

    TRANSITIONS: ClassVar[dict[str, frozenset[str]]] = {
        State.CREATING: frozenset({State.WRITABLE, State.FULL, State.SEALED}),
        State.WRITABLE: frozenset({State.FULL, State.SEALED}),
        State.FULL: frozenset({State.WRITABLE, State.SEALED}),
        State.SEALED: frozenset(),
    }
    """From where to where a volume may go. Full is a matter of size and may pass; sealed (by an operator,
    or by the server after a failed fsync) takes no record again."""

    class Redundancy(models.TextChoices):
        """Whether its copies are all there and equal: only then does it take records, tombstones included."""

        MAKING = "making"
        OPENING = "opening"
        WHOLE = "whole"
        DEGRADED = "degraded"
        CLOSED = "closed"

    REDUNDANCY_TRANSITIONS: ClassVar[dict[str, frozenset[str]]] = {
        Redundancy.MAKING: frozenset({Redundancy.OPENING, Redundancy.DEGRADED}),
        Redundancy.OPENING: frozenset({Redundancy.OPENING, Redundancy.WHOLE, Redundancy.DEGRADED}),
        Redundancy.WHOLE: frozenset({Redundancy.OPENING, Redundancy.DEGRADED, Redundancy.CLOSED}),
        Redundancy.DEGRADED: frozenset({Redundancy.OPENING, Redundancy.DEGRADED}),
        Redundancy.CLOSED: frozenset({Redundancy.OPENING, Redundancy.DEGRADED}),
    }
    """Making: its first copies are not all there yet. Opening: its primary was told to bring the copies into line under
    a new epoch. Whole: it has said that they are. Degraded: a copy is away. Closed: for a compaction."""

    id = models.PositiveBigIntegerField(primary_key=True, editable=False)
    salt = models.BinaryField(max_length=SALT_BYTES, editable=False)
    created_ms = models.BigIntegerField(editable=False)
    epoch = models.PositiveBigIntegerField(default=1, help_text="The last one that was given out.")
    opened_epoch = models.PositiveBigIntegerField(
        default=1, help_text="The last one under which all copies were whole, and records could be acknowledged."
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.CREATING)
    state_changed_at = models.DateTimeField(default=timezone.now)
    replication = models.PositiveSmallIntegerField(default=1, help_text="How many copies it is to have.")
    redundancy = models.CharField(max_length=16, choices=Redundancy.choices, default=Redundancy.WHOLE)
    redundancy_changed_at = models.DateTimeField(default=timezone.now)
    redundancy_note = models.CharField(max_length=300, blank=True, help_text="What it waits for.")
    unsettled = models.BooleanField(default=False, help_text="Its copies are to be looked at, although it is whole.")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(id__gte=1, id__lte=MAX_VOLUME), name="volume_id_is_u32"),
            models.CheckConstraint(condition=Q(epoch__gte=1, epoch__lte=MAX_VOLUME), name="volume_epoch_is_u32"),
            models.CheckConstraint(condition=Exact(Length("salt"), SALT_BYTES), name="volume_salt_length"),
            models.CheckConstraint(
                condition=Q(state__in=["creating", "writable", "full", "sealed"]), name="volume_state_known"
            ),
            models.CheckConstraint(
                condition=Q(redundancy__in=["making", "opening", "whole", "degraded", "closed"]),
                name="volume_redundancy_known",
            ),
            models.CheckConstraint(
                condition=Q(replication__gte=1, replication__lte=MAX_REPLICATION), name="volume_replication_in_bounds"
            ),
            models.CheckConstraint(
                condition=Q(opened_epoch__lte=models.F("epoch"))
                & (~Q(redundancy="whole") | Q(opened_epoch=models.F("epoch"))),
                name="volume_whole_under_its_epoch",
            ),
        ]
        indexes = [
            models.Index(fields=["id"], condition=~Q(redundancy="whole") | Q(unsettled=True), name="volume_to_mend"),
            models.Index(fields=["id"], condition=Q(state__in=["creating", "writable"]), name="volume_open"),
        ]

    def __str__(self) -> str:
        return f"volume {self.pk}"

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(self.created_ms / 1000, tz=timezone.get_current_timezone())


class JobState(models.TextChoices):
    """How a compaction or a scrub stands; one that waits its turn is running."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Replica(models.Model):
    """One physical copy of a volume on one server, with the figures that the server last told."""

    class Role(models.TextChoices):
        PRIMARY = "primary"
        SECONDARY = "secondary"

    class State(models.TextChoices):
        EXPECTED = "expected"
        OPEN = "open"
        SEALED = "sealed"
        MISSING = "missing"

    volume = models.ForeignKey(Volume, on_delete=models.PROTECT, related_name="replicas")
    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="replicas")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.PRIMARY)
    state = models.CharField(
        max_length=16,
        choices=State.choices,
        default=State.EXPECTED,
        help_text="Expected: not made yet. Missing: the server had it and no longer lists it.",
    )
    detail = models.CharField(max_length=500, blank=True, help_text="Why its server has sealed it.")
    epoch = models.PositiveBigIntegerField(default=0)
    whole_epoch = models.PositiveBigIntegerField(
        default=0, help_text="The last one under which it was known to be equal to the others."
    )
    member_epoch = models.PositiveBigIntegerField(default=0, help_text="The last opening that it was part of.")
    replication = models.JSONField(
        null=True, blank=True, help_text="What its server tells of its part in the replication; null: none."
    )
    revision = models.PositiveBigIntegerField(default=0, help_text="Goes up by one at each compaction.")
    size_bytes = models.BigIntegerField(default=0)
    garbage_bytes = models.BigIntegerField(default=0)
    live_count = models.BigIntegerField(default=0)
    tombstone_count = models.BigIntegerField(default=0)
    damaged_count = models.BigIntegerField(default=0, help_text="Damaged records that are known of now.")
    tried_damage_count = models.BigIntegerField(
        default=0,
        editable=False,
        help_text="Damage that the last opening knew of, less what scrubs have missed since: not tried again at once.",
    )
    scrubbed_at = models.DateTimeField(null=True, blank=True, help_text="When the last full scrub pass ended.")
    compaction = models.JSONField(
        null=True, blank=True, help_text="How far a compaction is, or how the last one since the server's start ended."
    )
    scrub = models.JSONField(
        null=True, blank=True, help_text="How far a scrub is, or how the last one since the server's start ended."
    )
    compacted_at = models.DateTimeField(
        null=True, blank=True, help_text="When the last compaction was seen to be over."
    )
    kept_garbage_bytes = models.BigIntegerField(
        default=0, help_text="Garbage that the last compaction left, tombstones above all: the next one would as well."
    )
    compact_refused_at = models.DateTimeField(
        null=True, blank=True, help_text="When the server refused a compaction that the worker asked for."
    )
    reported_at = models.DateTimeField(null=True, blank=True, help_text="When these figures last changed.")

    class Meta:
        ordering = ["volume", "role", "server"]
        constraints = [
            models.UniqueConstraint(fields=["volume", "server"], name="replica_once_per_server"),
            models.UniqueConstraint(fields=["volume"], condition=Q(role="primary"), name="replica_one_primary"),
            models.CheckConstraint(condition=Q(role__in=["primary", "secondary"]), name="replica_role_known"),
            models.CheckConstraint(
                condition=Q(state__in=["expected", "open", "sealed", "missing"]), name="replica_state_known"
            ),
            models.CheckConstraint(
                condition=Q(garbage_bytes__gte=0, size_bytes__gte=models.F("garbage_bytes")),
                name="replica_garbage_in_size",
            ),
            models.CheckConstraint(
                condition=Q(live_count__gte=0, tombstone_count__gte=0, damaged_count__gte=0),
                name="replica_counts_not_negative",
            ),
            models.CheckConstraint(condition=Q(kept_garbage_bytes__gte=0), name="replica_kept_garbage_not_negative"),
            models.CheckConstraint(
                condition=Q(state="expected") | Q(reported_at__isnull=False), name="replica_seen_has_report"
            ),
        ]
        indexes = [
            models.Index(fields=["volume"], condition=Q(damaged_count__gt=0), name="replica_damaged"),
        ]

    def __str__(self) -> str:
        return f"volume {self.volume_id} on {self.server_id}"

    def has_all_of(self, volume: Volume) -> bool:
        """Whether it is known to hold every record of the volume that was ever acknowledged.

        Records are acknowledged only under an epoch that was found open, and are then durable on all copies of it.
        What the server reports must fit: a data directory that was put back from a backup knows older epochs.
        """
        return (
            self.whole_epoch == volume.opened_epoch
            and self.epoch >= volume.opened_epoch
            and self.state in {self.State.OPEN, self.State.SEALED}
        )

    @property
    def garbage_ratio(self) -> float:
        """Share of the file that compaction would give back, 0 to 1."""
        return self.garbage_bytes / self.size_bytes if self.size_bytes else 0.0


LOST_WORKER_AFTER = timedelta(seconds=60)
"""A worker that has not been heard for this long is silent; it speaks every 20 s."""


class BackgroundTask(models.Model):
    """One kind of background work and how its last run went: one row for each task, whoever runs it.

    A run is known by the broker's id. Runs of one task may overlap; the row shows the one that was begun last.
    """

    class State(models.TextChoices):
        """What is known of the last run. That it is lost is a matter of time, so it is no state of the row."""

        WAITING = "waiting"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    LOST: ClassVar[str] = "lost"
    """What `status` says of a run whose time limit is over and that never said how it ended."""

    name = models.CharField(primary_key=True, max_length=100, editable=False)
    state = models.CharField(max_length=16, choices=State.choices, default=State.WAITING)
    run_id = models.CharField(max_length=64, blank=True, help_text="Of the last run; its log lines carry it.")
    started_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(
        null=True, blank=True, help_text="A run that has not ended by then is lost: its worker was killed, or hangs."
    )
    scheduled_at = models.DateTimeField(null=True, blank=True, help_text="The last start that the schedule asked for.")
    ended_at = models.DateTimeField(null=True, blank=True, help_text="When a run ended last, however.")
    duration_ms = models.BigIntegerField(null=True, blank=True, help_text="Of the run that ended last.")
    result = models.JSONField(null=True, blank=True, help_text="The figures of the last run that was done.")
    error = models.TextField(blank=True, help_text="Why the run that ended last failed; empty: it did not.")
    runs = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    losses = models.BigIntegerField(default=0, help_text="Runs that never said how they ended.")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "running", "done", "failed"]), name="task_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state="waiting") | Q(started_at__isnull=False, deadline_at__isnull=False),
                name="task_run_has_times",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["done", "failed"]) | Q(ended_at__isnull=False, duration_ms__isnull=False),
                name="task_ended_has_times",
            ),
            models.CheckConstraint(
                condition=Q(failures__gte=0, losses__gte=0, runs__gte=models.F("failures") + models.F("losses")),
                name="task_counts_fit",
            ),
            models.CheckConstraint(condition=Q(duration_ms__gte=0), name="task_duration_not_negative"),
        ]

    def __str__(self) -> str:
        return self.name

    def status_at(self, now: datetime) -> str:
        """``waiting`` (it never ran), ``running``, ``done``, ``failed`` or ``lost``."""
        if self.state == self.State.RUNNING and self.deadline_at is not None and self.deadline_at < now:
            return self.LOST
        return str(self.state)

    @property
    def status(self) -> str:
        return self.status_at(timezone.now())


class Worker(models.Model):
    """A process that runs background tasks, as long as it runs; of one that was killed the row stays for a day."""

    name = models.CharField(primary_key=True, max_length=200, editable=False, help_text="Its host and process id.")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_alive(self) -> bool:
        return self.seen_at > timezone.now() - LOST_WORKER_AFTER
