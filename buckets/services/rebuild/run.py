"""The whole of a rebuild: from data directories to rows, in one transaction."""

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from django.core.management.color import no_style
from django.db import connection, transaction
from django.db.models import Count, Max, Sum
from django.utils import timezone

from buckets.errors import NotEmpty, NothingToRebuildFrom
from buckets.journal_format import TAIL_NAME, PartInvalid, read_header, read_part, split_tail
from buckets.models import Bucket, Chunk, JournalNeedle, Object, Outbox, Removed, Share, Upload
from buckets.services.bulk import run_in
from buckets.services.chunks import Owner, take_chunks_of_objects
from buckets.services.outbox import bury
from buckets.services.rebuild.history import History, PartAt, choose
from buckets.services.rebuild.late import Candidate, World, take_late
from buckets.services.rebuild.loading import Loader
from buckets.services.rebuild.report import Report
from keys.actions import Action
from keys.models import ApiKey, Grant
from keys.selectors import rights_of_row
from keys.services.audit import record
from volume_server.salvage import (
    Contents,
    Copy,
    DataDirectory,
    DirectoryBusy,
    copies_in,
    find_directories,
    held,
    read_contents,
)
from volumes.derived_secrets import journal_secret
from volumes.models import MAX_LEASE, MAX_REPLICATION, MAX_VOLUME, ForgottenServer, Replica, Server, Store, Volume
from volumes.services.store import LEASE_JUMP, VOLUME_JUMP, current_store

log = logging.getLogger(__name__)

ID_JUMP = 1_000_000
"""Ids that the lost time may have given out to buckets, keys and shares are not given out again: leases name them."""
_SLOT_BITS = 16
NOWHERE = "http://unknown.invalid"
"""The address of a server that only its data directory tells of, until it registers."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class _Volumes:
    """What lies in the directories, by volume: the copy that counts, and where others are."""

    contents: dict[int, Contents] = field(default_factory=dict)
    copies: dict[int, list[Copy]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[DataDirectory]]:
    """The data directories in these folders, kept from being used meanwhile. Raises NothingToRebuildFrom."""
    try:
        directories = find_directories(list(paths))
    except OSError as error:
        raise NothingToRebuildFrom(str(error)) from error
    if not directories:
        raise NothingToRebuildFrom("There is no volume server's data directory in these folders.")
    stores = sorted({directory.store for directory in directories if directory.store is not None})
    if len(stores) > 1:
        raise NothingToRebuildFrom(f"These directories belong to different stores: {', '.join(stores)}.")
    try:
        with held(directories):
            yield directories
    except DirectoryBusy as error:
        raise NothingToRebuildFrom(f"{error}.") from error


def require_empty() -> None:
    """Raises NotEmpty."""
    for model in (Store, ApiKey, Server, Volume, Bucket, Object, Outbox):
        if model._default_manager.exists():
            raise NotEmpty(
                f"The database holds {model._meta.verbose_name_plural} already. A rebuild makes a database and never "
                "changes one: move this one away, or name an empty one."
            )


def rebuild(
    directories: Sequence[DataDirectory], *, check_macs: bool = True, keep: bool = True, progress: Progress = log.info
) -> Report:
    """Fills the empty database. Not ``keep``: all is done, and taken back at the end.

    ``check_macs`` False: the signing key is lost, so that what lies in the directories is believed as it is.
    Raises NotEmpty, NothingToRebuildFrom.
    """
    with transaction.atomic(), ExitStack() as stack:
        require_empty()
        found = _read_volumes(directories, stack, progress)
        report = _Rebuild(directories, found, check_macs=check_macs, progress=progress).run()
        transaction.set_rollback(not keep)
    return report


def _read_volumes(directories: Sequence[DataDirectory], stack: ExitStack, progress: Progress) -> _Volumes:
    volumes = _Volumes()
    for directory in directories:
        copies, problems = copies_in(directory)
        volumes.problems += problems
        if directory.server is None:
            volumes.problems.append(
                f"{directory.path / 'server.json'} cannot be read: whose copies these are is unknown"
            )
        for copy in copies:
            volumes.copies.setdefault(copy.superblock.volume, []).append(copy)
    for number, copies in sorted(volumes.copies.items()):
        copies.sort(key=lambda copy: copy.rank, reverse=True)
        progress(f"Reading volume {number}, {copies[0].size_bytes:,} bytes, from {copies[0].path}.")
        volumes.contents[number] = stack.enter_context(read_contents(copies[0]))
    return volumes


class _Rebuild:
    def __init__(
        self, directories: Sequence[DataDirectory], volumes: _Volumes, *, check_macs: bool, progress: Progress
    ) -> None:
        self.directories = directories
        self.volumes = volumes
        self.check_macs = check_macs
        self.progress = progress
        self.loader = Loader()
        self.report = Report(problems=volumes.problems)
        self.now = timezone.now()

    def run(self) -> Report:
        parts = list(self._parts())
        history = choose(parts)
        self.report.problems += history.problems
        self.report.journal_commit = history.commit
        self.report.seen_commit = max((directory.sequence for directory in self.directories), default=0)
        if history.snapshot:
            read_at = datetime.fromtimestamp(history.read_us / 1_000_000, UTC)
            self.report.journal_read_at = read_at.isoformat()
            self.progress(f"The journal leads to commit {history.commit}, of {read_at:%Y-%m-%d %H:%M:%S} UTC.")
        self._load(history)
        self.sequence = max(self.report.seen_commit, history.commit, self._highest_sequence()) + 1
        self._write_places()
        uploads = {row.pk: row for row in self.loader.rows_of(Upload) if isinstance(row, Upload)}
        self.loader.write_tables(without=(Store, Server, Volume, Replica, Upload))
        self._let_in_again()
        self._drop_strangers()
        self._take_late(history, uploads)
        Upload.objects.bulk_create(uploads.values(), batch_size=500)
        self.loader.write_upload_chunks(uploads.values())
        self._keep_removed()
        self._require_volume_rows()
        self._compare_with_volumes()
        self._write_counts()
        self._keep_journal_needles(parts)
        self._write_store(history)
        self._jump_ids()
        self.report.counts = {
            "objects": Object.objects.count(),
            "buckets": Bucket.objects.count(),
            "keys": ApiKey.objects.count(),
            "shares": Share.objects.count(),
            "uploads": len(uploads),
            "servers": Server.objects.count(),
            "volumes": Volume.objects.count(),
        }
        record(Action.STORE_REBUILD, target=self.report.store, rows=self.report.counts)
        return self.report

    # --- the journal ---

    def _secret(self) -> bytes | None:
        return journal_secret() if self.check_macs else None

    def _parts(self) -> Iterator[PartAt]:
        for number, contents in self.volumes.contents.items():
            for needle in contents.system:
                data = contents.data(needle)
                where = f"needle {needle:016x} of volume {number}, a part of the journal,"
                if data is None:
                    self.report.problems.append(f"{where} is not as it was written")
                    continue
                try:
                    header = read_header(data, self._secret())
                except PartInvalid as error:
                    self.report.problems.append(f"{where} is not used: {error}")
                    continue
                yield PartAt(header, number, needle, len(data), zlib.crc32(data))
        for directory in self.directories:
            yield from self._tail_parts(directory.path / TAIL_NAME)

    def _tail_parts(self, path: Path) -> Iterator[PartAt]:
        """What a clean stop left beside the volumes."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.report.problems.append(f"{path} cannot be read: {error.strerror}")
            return
        for data in split_tail(raw):
            try:
                yield PartAt(read_header(data, self._secret()), data=data)
            except PartInvalid as error:
                self.report.problems.append(f"{path} is not used: {error}")
                return

    def _load(self, history: History) -> None:
        for parts, is_snapshot in ((history.snapshot, True), *((entry, False) for entry in history.entries)):
            for part in parts:
                data = part.data or self.volumes.contents[part.volume].data(part.needle)
                assert data is not None  # it was read just now, and nobody else may write here
                header, lines = read_part(data, self._secret())
                self.loader.take(lines, read_us=header.read_us, is_snapshot=is_snapshot)
        if history.snapshot:
            self.progress(f"{Object.objects.count():,} objects by the journal.")

    def _highest_sequence(self) -> int:
        return Object.objects.aggregate(highest=Max("sequence"))["highest"] or 0

    def _drop_strangers(self) -> None:
        """What belongs to buckets that are gone: a snapshot may have met it on the way."""
        known = Bucket.objects.values("pk")
        Chunk.objects.filter(object__in=Object.objects.exclude(bucket__in=known)).delete()
        Object.objects.exclude(bucket__in=known).delete()
        # A needle that a row names is alive, whatever an older stretch told of it.
        Outbox.objects.filter(needle__in=Chunk.objects.values("needle")).delete()

    # --- servers and volumes ---

    def _let_in_again(self) -> None:
        """Whoever has a directory read whose server was forgotten means to have it back."""
        given = [UUID(directory.server) for directory in self.directories if directory.server is not None]
        ForgottenServer.objects.filter(pk__in=given).delete()

    def _write_places(self) -> None:
        servers = {row.pk: row for row in self.loader.rows_of(Server) if isinstance(row, Server)}
        volumes = {row.pk: row for row in self.loader.rows_of(Volume) if isinstance(row, Volume)}
        replicas = [row for row in self.loader.rows_of(Replica) if isinstance(row, Replica)]
        for directory in self.directories:
            if directory.server is None:
                continue
            pk = UUID(directory.server)
            if pk not in servers:
                servers[pk] = Server(
                    pk=pk, node=f"unknown-{pk.hex[:8]}", public_url=NOWHERE, internal_url=NOWHERE, instance="unknown"
                )
            # It proves itself with the secret it has.
            servers[pk].kid = max(1, directory.kid)
            servers[pk].proven = self.check_macs
        held_by: dict[int, list[Replica]] = {}
        for replica in replicas:
            replica.state, replica.reported_at = Replica.State.MISSING, self.now  # until its server says otherwise
            held_by.setdefault(replica.volume_id, []).append(replica)
        for number, copies in self.volumes.copies.items():
            best = copies[0]
            volume = volumes.setdefault(
                number,
                Volume(
                    pk=number,
                    salt=best.superblock.salt,
                    created_ms=best.superblock.created_ms,
                    epoch=1,
                    state=Volume.State.WRITABLE,
                ),
            )
            volume.epoch = max(volume.epoch, *(copy.fence for copy in copies))
            if volume.state == Volume.State.CREATING:
                volume.state = Volume.State.WRITABLE
            self._place(number, copies, held_by.setdefault(number, []))
            _judge_copies(volume, held_by[number], copies, now=self.now)
        Server.objects.bulk_create(servers.values())
        Volume.objects.bulk_create(volumes.values(), batch_size=500)
        known = {id(replica) for replica in replicas}
        rows = [replica for some in held_by.values() for replica in some]
        Replica.objects.bulk_create([replica for replica in rows if id(replica) in known], batch_size=500)
        self._reset_ids((Replica,))
        Replica.objects.bulk_create([replica for replica in rows if id(replica) not in known], batch_size=500)
        missing = sorted(volumes.keys() - self.volumes.copies.keys() - _being_made(volumes))
        if missing:
            self.report.problems.append(
                f"no copy of {len(missing)} volumes is in these directories, so what lies in them is not checked: "
                + ", ".join(map(str, missing[:20]))
            )

    def _place(self, number: int, copies: Sequence[Copy], replicas: list[Replica]) -> None:
        """The copies that count belong to who has them; the best one is primary where no primary is as good."""
        by_server = {replica.server_id: replica for replica in replicas}
        best = copies[0].rank[:2]
        for copy in copies:
            if copy.directory.server is None or copy.rank[:2] != best:
                continue
            pk = UUID(copy.directory.server)
            if pk not in by_server:
                by_server[pk] = Replica(
                    volume_id=number,
                    server_id=pk,
                    role=Replica.Role.SECONDARY,
                    state=Replica.State.MISSING,
                    reported_at=self.now,
                )
                replicas.append(by_server[pk])
            by_server[pk].epoch, by_server[pk].revision = best
        have = {UUID(copy.directory.server) for copy in copies if copy.directory.server and copy.rank[:2] == best}
        primaries = [replica for replica in replicas if replica.role == Replica.Role.PRIMARY]
        if have and not any(replica.server_id in have for replica in primaries):
            for replica in primaries:
                replica.role = Replica.Role.SECONDARY
            first = next(replica for replica in replicas if replica.server_id in have)
            first.role = Replica.Role.PRIMARY

    def _require_volume_rows(self) -> None:
        """Volumes that rows name and nobody tells of: a row for each, so that what is missing can be seen."""
        known = set(Volume.objects.values_list("pk", flat=True))
        named = set(Chunk.objects.values_list("volume_id", flat=True).distinct())
        named |= set(Outbox.objects.values_list("volume_id", flat=True).distinct())
        for number in sorted(named - known):
            self.report.problems.append(f"volume {number} is named by objects, and nothing else is known of it")
            Volume.objects.create(pk=number, salt=bytes(16), created_ms=0, state=Volume.State.SEALED)

    # --- needles ---

    def _take_late(self, history: History, uploads: dict[UUID, Upload]) -> None:
        rights = {key.pk: rights_of_row(key) for key in ApiKey.objects.prefetch_related("grants")}
        keys = set(rights)
        buckets = Bucket.objects.in_bulk()
        world = World(
            buckets=buckets,
            highest_bucket=max(self.loader.highest_bucket, *buckets, 0),
            api_keys=keys,
            rights=rights,
            highest_api_key=max(self.loader.highest_key, *keys, 0),
            uploads=uploads,
            removed=self.loader.removed,
            journal_read_at=datetime.fromtimestamp(history.read_us / 1_000_000, UTC) if history.snapshot else None,
            sequence=self.sequence,
            appended_ms=self._appended_ms,
            check_macs=self.check_macs,
        )
        take_late(self._unnamed(), world=world, loader=self.loader, report=self.report)
        for bucket in world.made_buckets:
            self.report.problems.append(
                f"bucket {bucket.name!r} was made after the journal's end: it is private again, and without settings"
            )

    def _appended_ms(self, volume: int, needle: int) -> int | None:
        contents = self.volumes.contents.get(volume)
        return None if contents is None else contents.appended_ms(needle)

    def _unnamed(self) -> Iterator[Candidate]:
        in_uploads = {held[1] for held in self.loader.upload_chunks.values()}
        for number, contents in self.volumes.contents.items():
            named = {
                *Chunk.objects.filter(volume=number).values_list("needle", flat=True),
                *Outbox.objects.filter(volume=number).values_list("needle", flat=True),
                *contents.system,
                *in_uploads,
            }
            for needle in contents.live_needles():
                if needle in named:
                    continue
                found = contents.find(needle)
                if found is None:
                    self.report.problems.append(f"needle {needle:016x} of volume {number} says nothing of itself")
                else:
                    yield Candidate(number, found)

    def _keep_removed(self) -> None:
        Removed.objects.bulk_create(
            [
                Removed(bucket=bucket_id, key=key, sequence=self.sequence, removed_at=at)
                for (bucket_id, key), at in self.loader.removed.items()
            ],
            batch_size=2000,
        )

    def _compare_with_volumes(self) -> None:
        """Objects whose needles are dead were deleted after the journal's end; those that can't be read are told."""
        dead: dict[int, Owner] = {}
        bucket_of: dict[int, int] = {}
        for number, contents in self.volumes.contents.items():
            chunks = Chunk.objects.filter(volume=number, object__isnull=False).values_list(
                "needle", "object_id", "object__bucket_id", "object__bucket__name", "object__key", "object__size"
            )
            for needle, object_id, bucket_id, bucket, key, size in chunks.iterator(10_000):
                is_live = contents.is_live(needle)
                if is_live is False:
                    dead[object_id] = Owner(bucket, key, size)
                    bucket_of[object_id] = bucket_id
                elif is_live is None:
                    how = "is damaged" if needle in contents.damaged else "is not there"
                    self.report.unreadable.append(f"{bucket}/{key}: needle {needle:016x} of volume {number} {how}")
        if dead:
            buried = take_chunks_of_objects(dead, reason=Outbox.Reason.DELETED)
            run_in("DELETE FROM buckets_object WHERE id IN {in}", dead)
            bury(buried, now=self.now, sequence=self.sequence)
            self.report.dropped += sorted(f"{owner.bucket}/{owner.key}" for owner in dead.values())

    # --- numbers ---

    def _write_counts(self) -> None:
        sums = Object.objects.order_by().values_list("bucket").annotate(count=Count("pk"), size=Sum("size"))
        for bucket_id, count, size in sums:
            Bucket.objects.filter(pk=bucket_id).update(object_count=count, total_bytes=size)
        reserved = Upload.objects.order_by().values_list("bucket").annotate(
            count=Sum("reserved_objects"), size=Sum("reserved_bytes")
        )  # fmt: skip
        for bucket_id, objects, size in reserved:
            Bucket.objects.filter(pk=bucket_id).update(reserved_objects=objects, reserved_bytes=size)

    def _keep_journal_needles(self, parts: Sequence[PartAt]) -> None:
        """The journal of before stays until the first new snapshot is whole, also what was given up and still lives."""
        JournalNeedle.objects.bulk_create(
            [
                JournalNeedle(
                    needle=part.needle,
                    volume_id=part.volume,
                    kind=part.header.kind,
                    entry=part.header.entry,
                    part=part.header.part,
                    to_sequence=part.header.to,
                    size=part.size_bytes,
                    crc32=part.crc32,
                    created_at=self.now,
                    is_durable=True,
                )
                for part in parts
                if part.needle
            ],
            batch_size=500,
        )
        Outbox.objects.filter(needle__in=JournalNeedle.objects.values("needle")).delete()

    def _write_store(self, history: History) -> None:
        known = [row for row in self.loader.rows_of(Store) if isinstance(row, Store)]
        store = known[0] if known else Store()
        ids = [directory.store for directory in self.directories if directory.store is not None]
        if not known and ids:
            store.uuid = UUID(ids[0])
        store.pk = Store.ONLY_ID
        highest_needle = max((contents.highest_needle for contents in self.volumes.contents.values()), default=0)
        volume_high = max(store.volume_high, *self.volumes.copies, *Volume.objects.values_list("pk", flat=True), 0)
        store.sequence = self.sequence
        # As when an older database is taken as the truth (`volumes.services.store.accept_store`).
        store.lease_high = min(max(store.lease_high, highest_needle >> _SLOT_BITS) + LEASE_JUMP, MAX_LEASE)
        store.volume_high = min(volume_high + VOLUME_JUMP, MAX_VOLUME)
        store.replications = sorted(set(Bucket.objects.values_list("replication", flat=True)) - {1})
        store.intent_secret_id += 1
        store.behind_of = None
        store.save(force_insert=True)
        self.report.store = str(current_store().uuid)

    def _reset_ids(self, models: Sequence[type]) -> None:
        with connection.cursor() as cursor:
            for statement in connection.ops.sequence_reset_sql(no_style(), list(models)):
                cursor.execute(statement)

    def _jump_ids(self) -> None:
        tables = {
            Bucket._meta.db_table: self.loader.highest_bucket,
            ApiKey._meta.db_table: self.loader.highest_key,
            Share._meta.db_table: 0,
        }
        self._reset_ids((Bucket, ApiKey, Grant, Share, Object, Chunk, Outbox, Replica, JournalNeedle, Removed))
        with connection.cursor() as cursor:
            for table, seen in tables.items():
                cursor.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}")  # noqa: S608 - our own names
                high = max(cursor.fetchone()[0], seen) + ID_JUMP
                if connection.vendor == "postgresql":
                    cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, high])
                else:
                    cursor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [table])
                    cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, high])


def _being_made(volumes: dict[int, Volume]) -> set[int]:
    return {number for number, volume in volumes.items() if volume.state == Volume.State.CREATING}


def _judge_copies(volume: Volume, replicas: Sequence[Replica], copies: Sequence[Copy], *, now: datetime) -> None:
    """Which copies hold all that was acknowledged: those of the highest epoch and revision that was found.

    A single one goes on as it is. Several are compared by an opening under a new epoch, before they take a record.
    """
    epoch, revision = copies[0].rank[:2]
    found = 0
    for replica in replicas:
        is_best = (replica.epoch, replica.revision) == (epoch, revision)
        replica.whole_epoch = epoch if is_best else 0
        replica.member_epoch, replica.replication = 0, None
        found += is_best
    volume.opened_epoch = epoch
    is_alone = len(replicas) == 1 and volume.epoch == epoch
    volume.redundancy = Volume.Redundancy.WHOLE if is_alone else Volume.Redundancy.DEGRADED
    volume.redundancy_changed_at, volume.redundancy_note = now, ""
    volume.replication = max(volume.replication, min(found, MAX_REPLICATION))
