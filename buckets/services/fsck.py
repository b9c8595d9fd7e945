"""Is every chunk row's needle where it should be, and does a row name every needle? Asked both ways; nothing changes.

    listing of each copy (by id) ──┐
                                   ├─ compared, a stretch of ids at a time ─> suspects ─ asked again ─> findings
    chunk rows of the volume ──────┘

Puts, deletes and copies go on meanwhile, and the two sides are not read at one moment, so what differs is a suspect
only. Of suspects the rows are read, then each server is asked what it has now, then the rows are read again:

- a row that stood before and after the question stood all the time, and its needle had to be there;
- a needle that no row named before, and that is older than every lease and its grace, can be named by none later.

Unknown is never absent: a server that is silent, or a listing that is not whole, is told as unknown.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from buckets.models import Bucket, Proof
from buckets.selectors.buckets import WrongCounts, wrong_counts
from buckets.services.needle_rows import Named, Rows, count_rows, named_in, rows_of
from volumes import client
from volumes.errors import ServerRefused, VolumeServerError
from volumes.models import Replica, Server, Volume
from volumes.needles import MAX_NEEDLE, NeedleState, State
from volumes.owners import Owner, owner_text, owners_of
from volumes.services.listing import Listing, Slice, is_ended

log = logging.getLogger(__name__)

Kind = Proof.Kind
MAX_FINDINGS = 1000
"""Of one volume so many are told one by one; of the others only the number is known."""
SUSPECTS_AT_ONCE = 1000
DEEP_AT_ONCE = 10
"""Needles whose data is read in one question: each may have 80 MiB and more."""
ATTEMPTS = 5
"""To list a volume that is compacted again and again meanwhile."""
MARGIN_S = 60
"""Beyond lease and grace: a confirm that came in time may still be under way."""
BUCKETS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or is not known."""

    kind: str
    """One of `Proof.Kind`."""
    detail: str
    volume: int | None = None
    server: str = ""
    needle: int | None = None
    owners: tuple[Owner, ...] = ()

    def __str__(self) -> str:
        where = "" if self.volume is None else f"volume {self.volume}"
        where += f" on {self.server}" if self.server else ""
        what = f"needle {self.needle:016x}" if self.needle is not None else ""
        whose = owner_text(self.owners) if self.owners else ""
        return ", ".join(part for part in (self.kind, where, what, whose) if part) + f": {self.detail}"

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "volume": self.volume,
            "server": self.server,
            "needle": None if self.needle is None else f"{self.needle:016x}",
            "owners": [
                {"bucket": one.bucket, "key": one.key, "chunk": one.chunk, "is_upload": one.is_upload}
                for one in self.owners
            ],
            "detail": self.detail,
        }


@dataclass(slots=True)
class Checked:
    """What came of one volume, of the kept counts, or of all together."""

    volume: int | None = None
    row_count: int = 0
    needle_count: int = 0
    """Of all copies together, dead ones too."""
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    """The first `MAX_FINDINGS`."""

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def take(self, other: "Checked") -> None:
        self.row_count += other.row_count
        self.needle_count += other.needle_count
        self.counts.update(other.counts)
        self.findings += other.findings[: MAX_FINDINGS - len(self.findings)]

    @property
    def is_sound(self) -> bool:
        return not self.counts.total()

    @property
    def verdict(self) -> str:
        """``0 missing, 0 orphaned, 0 divergent``, and what else there is."""
        return verdict(self.counts)


def verdict(counts: Mapping[str, int]) -> str:
    told = [f"{counts.get(kind, 0)} {kind}" for kind in (Kind.MISSING, Kind.ORPHANED, Kind.DIVERGENT)]
    told += [f"{counts[kind]} {kind}" for kind in (Kind.UNKNOWN, Kind.MISCOUNTED) if counts.get(kind)]
    return ", ".join(told)


Progress = Callable[[int, int], None]
"""Called with a volume's number and how many of its needles have been looked at."""


def volumes_to_check(*, after: int = 0) -> list[int]:
    return list(Volume.objects.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True))


def check_volume(*, volume_id: int, deep: bool = False, progress: Progress = lambda _volume, _count: None) -> Checked:
    """Compares all copies of a volume with the rows and with each other. ``deep``: their servers read all data too."""
    why = ""
    for _ in range(ATTEMPTS):
        check = _VolumeCheck(volume_id, deep=deep, progress=progress)
        try:
            check.run()
        except _BeginAnew as error:
            why = str(error)
            log.info("volume %d is checked anew: %s", volume_id, why)
        else:
            return check.checked
    checked = Checked(volume_id, row_count=count_rows(volume_id))
    checked.add(Finding(Kind.UNKNOWN, f"it was changed as a whole again and again: {why}", volume_id))
    return checked


def check_counts() -> Checked:
    """Whether buckets keep the right counts of what they hold."""
    checked = Checked()
    bucket_ids = _all_buckets()
    for at in range(0, len(bucket_ids), BUCKETS_AT_ONCE):
        for wrong in wrong_counts(bucket_ids[at : at + BUCKETS_AT_ONCE]):
            checked.add(Finding(Kind.MISCOUNTED, _counts_text(wrong)))
    return checked


def lease_end_ms(*, now_ms: int | None = None) -> int:
    """A needle that was written before has had its last chance to be confirmed; by the master's clock."""
    lease_s = max(settings.WAREHOUSE_LEASE_SECONDS, settings.WAREHOUSE_CHUNK_URL_SECONDS)
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    return now_ms - (lease_s + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS + MARGIN_S) * 1000


class _BeginAnew(Exception):
    """The volume was changed as a whole while it was listed."""


class _VolumeCheck:
    """One attempt."""

    def __init__(self, volume_id: int, *, deep: bool, progress: Progress) -> None:
        self.volume_id = volume_id
        self.deep = deep
        self.progress = progress
        self.checked = Checked(volume_id)
        self.old_ms = lease_end_ms()
        self.listings: list[Listing] = []
        self._suspects: set[int] = set()
        self._known_damage: set[int] = set()
        self._silent: set[Server] = set()

    def run(self) -> None:
        """Raises _BeginAnew."""
        volume = Volume.objects.get(pk=self.volume_id)
        replicas = list(Replica.objects.filter(volume=volume).select_related("server").order_by("role", "server"))
        replicas = [one for one in replicas if not _is_to_be_made(volume, one)]
        with ThreadPoolExecutor(max(1, len(replicas)), thread_name_prefix="list-needles") as threads:
            try:
                for replica in replicas:
                    if len(replicas) > 1 and not replica.has_all_of(volume):
                        self._unknown(replica.server, "this copy is still to be brought into line with the others")
                    else:
                        self._begin(replica, threads)
                self._drop_old_revisions()
                if self.listings:
                    self._check_known_damage()
                    self._compare_all()
                if not self.listings:
                    self._tell_unreachable(has_replicas=bool(replicas))
            finally:
                for listing in self.listings:
                    listing.close()

    # -- what is there to compare ----------------------------------------------------------------------------------

    def _begin(self, replica: Replica, threads: ThreadPoolExecutor) -> None:
        server = replica.server
        if not server.is_alive():
            self._unknown(server, "the server is offline")
            return
        try:
            self.listings.append(Listing(server, self.volume_id, threads, deep=self.deep))
        except VolumeServerError as error:
            if is_ended(error):
                raise _BeginAnew(error.detail) from error
            if isinstance(error, ServerRefused) and error.refusal == "volume_unknown":
                self._unknown(server, "the server does not have it: its file is gone, or could not be opened")
            else:
                self._unknown(server, error.detail)

    def _drop_old_revisions(self) -> None:
        """A copy that was not compacted with the others is neither read nor a source; it is fetched anew."""
        newest = max((listing.revision for listing in self.listings), default=0)
        for listing in [one for one in self.listings if one.revision < newest]:
            self._unknown(listing.server, f"this copy has revision {listing.revision}, another one {newest}")
            self.listings.remove(listing)
            listing.close()

    def _tell_unreachable(self, *, has_replicas: bool) -> None:
        count = count_rows(self.volume_id)
        self.checked.row_count = count
        if count:
            why = "no copy of it can be asked" if has_replicas else "no server is known to hold it"
            self.checked.add(Finding(Kind.UNKNOWN, f"{why}; {count:,} chunks lie in it", self.volume_id))

    def _unknown(self, server: Server, detail: str) -> None:
        self.checked.add(Finding(Kind.UNKNOWN, detail, self.volume_id, str(server)))

    # -- comparing -------------------------------------------------------------------------------------------------

    def _compare_all(self) -> None:
        done_to = 0
        while done_to < MAX_NEEDLE:
            through = min(listing.through for listing in self.listings)
            rows, through = named_in(self.volume_id, after=done_to, through=through)
            slices = self._take(through)
            if not self.listings:
                return
            self._compare(rows, slices)
            self.checked.row_count += len(rows)
            self.progress(self.volume_id, self.checked.needle_count)
            while len(self._suspects) >= SUSPECTS_AT_ONCE:
                self._judge([self._suspects.pop() for _ in range(SUSPECTS_AT_ONCE)])
            done_to = through
        if self._suspects:
            self._judge(list(self._suspects))

    def _take(self, through: int) -> list[Slice]:
        """Of each listing; one that fails is left out from here on."""
        slices = []
        for listing in list(self.listings):
            try:
                slices.append(listing.take(through))
            except VolumeServerError as error:
                if is_ended(error):
                    raise _BeginAnew(error.detail) from error
                self._unknown(listing.server, f"it was not listed to its end: {error.detail}")
                self.listings.remove(listing)
        return slices

    def _compare(self, rows: list[tuple[int, int, int]], slices: list[Slice]) -> None:
        named = set(rows)
        suspects = self._suspects
        first: tuple[set[tuple[int, int, int]], set[int]] | None = None
        for one in slices:
            self.checked.needle_count += len(one.live) + len(one.dead) + len(one.damaged)
            live = set(one.live)
            suspects.update(needle for needle, _, _ in named - live)
            if unnamed := live - named:
                old = self.old_ms
                written = {row: ms for row, ms in zip(one.live, one.appended_ms, strict=True) if ms < old}
                suspects.update(row[0] for row in unnamed if row in written)
            if len(slices) == 1:
                break
            dead = set(one.dead)
            if first is None:
                first = live, dead
            else:  # in what a row names, each copy has been compared with the row
                suspects.update(dead ^ first[1])
                suspects.update(row[0] for row in live ^ first[0])
        suspects -= self._known_damage

    def _check_known_damage(self) -> None:
        """What scrubs and reads came across: it is read again, since headers do not show it."""
        if self.deep:
            return
        for listing in self.listings:
            try:
                report = client.damaged(listing.server, self.volume_id)
            except VolumeServerError as error:
                self._unknown(listing.server, f"its damage is not known: {error.detail}")
                continue
            self._known_damage |= {one.needle for one in report.records if one.needle is not None}
            if report.count > len(report.records):
                self._unknown(
                    listing.server, f"{report.count} damaged records are known, {len(report.records)} of them by name"
                )
        needles = sorted(self._known_damage)
        for at in range(0, len(needles), DEEP_AT_ONCE):
            self._judge(needles[at : at + DEEP_AT_ONCE], deep=True)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, needles: Sequence[int], *, deep: bool = False) -> None:
        before = rows_of(needles)
        states = self._ask(needles, deep=deep or self.deep)
        after = rows_of(needles)
        differing = []
        found: list[Finding] = []
        for needle in needles:
            of_needle = {server: told[needle] for server, told in states.items()}
            named = _here(before, needle, self.volume_id) & _here(after, needle, self.volume_id)
            if named:
                found += self._judge_named(needle, named, of_needle)
            elif before.names(needle) or after.names(needle):
                found += self._judge_buried(needle, before, after, of_needle)
            else:
                found += self._judge_unnamed(needle, of_needle)
                if len({one[:3] for one in of_needle.values()}) > 1:
                    differing.append(needle)
        if differing:
            found += self._judge_differing(differing)
        self._tell(found)

    def _ask(self, needles: Sequence[int], *, deep: bool) -> dict[Server, dict[int, NeedleState]]:
        states = {}
        for listing in self.listings:
            server = listing.server
            try:
                states[server] = client.ask_needles(server, self.volume_id, needles, deep=deep)
            except VolumeServerError as error:
                if server not in self._silent:
                    self._silent.add(server)
                    self._unknown(server, f"needles could not be asked for again: {error.detail}")
        return states

    def _judge_named(
        self, needle: int, named: set[Named], of_needle: Mapping[Server, NeedleState]
    ) -> Iterator[Finding]:
        for server, told in of_needle.items():
            if told.state in {State.DEAD, State.ABSENT}:
                detail = "it has a tombstone there" if told.state == State.DEAD else "it is not there"
                yield self._finding(Kind.MISSING, server, needle, detail)
            elif told.state == State.DAMAGED:
                yield self._finding(Kind.DIVERGENT, server, needle, "what lies there is not what was written")
            elif told.state == State.LIVE:
                for row in named:
                    if (row.size, row.crc32) != (told.size, told.crc32):
                        detail = (
                            f"{told.size} bytes with CRC {told.crc32:08x} are there, "
                            f"{row.size} with {row.crc32:08x} should be"
                        )
                        yield self._finding(Kind.DIVERGENT, server, needle, detail)

    def _judge_buried(
        self, needle: int, before: Rows, after: Rows, of_needle: Mapping[Server, NeedleState]
    ) -> Iterator[Finding]:
        living = [server for server, told in of_needle.items() if told.state == State.LIVE]
        elsewhere = before.chunks.get(needle, set()) & after.chunks.get(needle, set())
        for server in living:
            if before.tombstoned.get(needle):
                yield self._finding(Kind.DIVERGENT, server, needle, "it was deleted, and lives there all the same")
            elif elsewhere:
                volumes = ", ".join(str(one.volume_id) for one in sorted(elsewhere))
                yield self._finding(Kind.DIVERGENT, server, needle, f"it lives there; rows name it in volume {volumes}")

    def _judge_unnamed(self, needle: int, of_needle: Mapping[Server, NeedleState]) -> Iterator[Finding]:
        living = {
            server: told
            for server, told in of_needle.items()
            if told.state == State.LIVE and told.appended_ms < self.old_ms
        }
        if living:
            size = max(told.size for told in living.values())
            servers = ", ".join(str(server) for server in living)
            yield Finding(Kind.ORPHANED, f"{size} bytes that no row names", self.volume_id, servers, needle)

    def _judge_differing(self, needles: Sequence[int]) -> Iterator[Finding]:
        """Needles that nobody names, and that the copies do not agree on: asked once more.

        A tombstone that was on its way from one copy to the other is at both of them by then. Of what is younger than
        its lease nothing is said: the next opening of the volume makes its copies equal.
        """
        if not is_whole(Volume.objects.get(pk=self.volume_id)):
            return
        states = self._ask(needles, deep=False)
        rows = rows_of(needles)
        for needle in needles:
            of_needle = {server: told[needle] for server, told in states.items()}
            is_old = all(one.appended_ms < self.old_ms for one in of_needle.values())
            if len({one[:3] for one in of_needle.values()}) > 1 and is_old and not rows.names(needle):
                told = "; ".join(f"{one.state} on {server}" for server, one in of_needle.items())
                yield Finding(Kind.DIVERGENT, f"copies differ: {told}", self.volume_id, "", needle)

    def _finding(self, kind: str, server: Server, needle: int, detail: str) -> Finding:
        return Finding(kind, detail, self.volume_id, str(server), needle)

    def _tell(self, found: Sequence[Finding]) -> None:
        """Counts them; those that will be told one by one get the names of their owners."""
        room = MAX_FINDINGS - len(self.checked.findings)
        owners = owners_of({one.needle for one in found[:room] if one.needle is not None})
        for one in found:
            known = owners.get(one.needle, []) if one.needle is not None else []
            self.checked.add(
                Finding(one.kind, one.detail, one.volume, one.server, one.needle, tuple(known)) if known else one
            )


def is_whole(volume: Volume) -> bool:
    """Whether all copies of a volume are to be equal now."""
    return volume.redundancy == Volume.Redundancy.WHOLE


def _is_to_be_made(volume: Volume, replica: Replica) -> bool:
    return volume.state == Volume.State.CREATING and replica.state == Replica.State.EXPECTED


def _here(rows: Rows, needle: int, volume_id: int) -> set[Named]:
    return {one for one in rows.chunks.get(needle, ()) if one.volume_id == volume_id}


def _counts_text(wrong: WrongCounts) -> str:
    told = "; ".join(
        f"{name.replace('_', ' ')}: {kept:,} kept, {found:,} there"
        for name, kept, found in zip(wrong.kept._fields, wrong.kept, wrong.found, strict=True)
        if kept != found
    )
    return f"bucket {wrong.bucket!r}: {told}"


def _all_buckets() -> list[int]:
    return list(Bucket.objects.order_by("pk").values_list("pk", flat=True))
