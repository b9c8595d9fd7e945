"""Is what lies in a volume file what was written? The part of `fsck` that reads and judges, and never writes.

It can be used beside a running server: a file that grows is read up to where it ended at the start, and damage in a
file that changed meanwhile is looked at a second time, since a record that is being written looks like damage, too.

Everything is checked: both superblocks and the zeros around them, tag, CRC and padding of each record, what lies
between records, the index file against the scan (as the next opening would use it), the `.state` file. Only the bodies
of fillers are not looked at: they hold what uploads left that never came to an end.

Memory: 16 bytes a needle at a load of about a half for each of two indexes, and nothing that grows with the file.
"""

import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from volume_server import intent as intents
from volume_server import meta as metas
from volume_server import record, recovery
from volume_server.checkpoint import (
    HEADER_BYTES,
    HEADER_OFFSETS,
    MAGIC,
    CheckpointFile,
    CheckpointInvalid,
    Figures,
    Header,
    Loaded,
    decode_header,
)
from volume_server.durability import FileSystem
from volume_server.errors import VolumeUnusable
from volume_server.index import MAX_OFFSET, Index
from volume_server.scrub import ForgivingReads
from volume_server.state import State
from volume_server.superblock import COPY_OFFSETS, RECORDS_START, SIZE_BYTES, Superblock, SuperblockInvalid, decode
from volume_server.volume import read_state, volume_path

MAX_FINDINGS = 1000
"""Of damage, told one by one; what is beyond that is counted."""
_INDEX_TRIES = 5
_MAX_LISTED = 10
_INDEX_DAMAGE_ADVICE = (
    "Nothing is lost and nothing need be done: the next opening makes the index anew, by a scan of the volume."
)
_STALE_INDEX_ADVICE = "Stop the server, remove the .idx file and start it again: the index is made anew by a scan."
_LOST_ADVICE = (
    "Reading it is answered 500 needle_damaged. Put the object again from where it came from, or bring the volume back "
    "from a backup (with the server stopped, and the .idx file removed)."
)
_CUT_ADVICE = "Bring the volume back from a backup before a server opens it: opening may cut the tail off for good."
_BURIED_ADVICE = "The index file alone knows by now that what it buried is dead: do not remove that file."
_KINDS = {record.LIVE: "live", record.TOMBSTONE: "tombstone", record.FILLER: "filler"}


class NotAVolume(Exception):
    """The file cannot be read, or is something else. The text says what."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a record says of itself besides its header; empty where its meta does not decode."""

    bucket: str = ""
    key: str = ""
    content_type: str = ""
    verdict: str = ""
    meta: metas.Meta | None = None
    intent: intents.Intent | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One record, or bytes that are none (``header`` None), at ``offset`` of the volume file."""

    offset: int
    size_bytes: int
    header: record.Header | None
    sound: bool
    reason: str = ""
    """Why it is not sound."""
    torn: bool = False
    """It is the tail, where a crash or an upload under way may have left part of a record."""

    @property
    def kind(self) -> str:
        if self.header is not None:
            return _KINDS[self.header.kind]
        return "torn tail" if self.torn else "gap"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader of the report should know."""

    what: str
    advice: str = ""
    offset: int | None = None
    """In the volume file; None: it is about the volume as a whole, or about another file of it."""
    size_bytes: int = 0
    needle: int | None = None
    is_damage: bool = True


@dataclass(slots=True)
class Report:
    """What was found. All figures are those of the scan, not of the index."""

    path: Path
    superblock: Superblock
    size_bytes: int = 0
    state: State | None = None
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys([*_KINDS.values(), "gap", "torn tail"], 0))
    figures: Figures = field(default_factory=Figures)
    index: str = ""
    """What was seen of the index file, in a sentence."""
    findings: list[Finding] = field(default_factory=list)
    untold_count: int = 0
    """Further damage, beyond `MAX_FINDINGS`."""

    @property
    def damage_count(self) -> int:
        return sum(finding.is_damage for finding in self.findings) + self.untold_count


class Extents:
    """Damaged stretches of a file, in order, 16 bytes each."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")

    def add(self, item: Item) -> None:
        self._starts.append(item.offset)
        self._ends.append(item.offset + item.size_bytes)

    def start_of(self, offset: int) -> int | None:
        """Where the stretch that holds this offset starts; None: no stretch holds it."""
        at = bisect_right(self._starts, offset) - 1
        return self._starts[at] if at >= 0 and offset < self._ends[at] else None


@dataclass(frozen=True, slots=True)
class Lost:
    """What the index names in a damaged place."""

    offset: int
    needle: int
    is_dead: bool
    """It was the needle's tombstone that lay there."""


class Tally:
    """The index and the figures that a reading makes: docs/format.md, section 6, step 5."""

    def __init__(self, index: Index, figures: Figures) -> None:
        self.index = index
        self.figures = figures

    def take(self, item: Item) -> str:
        """Count a record in; returns what is odd about it, empty for nothing."""
        header, figures = item.header, self.figures
        if header is None or not item.sound:
            figures.damaged_count += not item.torn
            if header is None or header.kind == record.LIVE:
                return ""
        if header.kind == record.FILLER:
            figures.garbage_bytes += header.record_bytes
            return ""
        known = self.index.get(header.needle)
        if known is not None and known[0] >= item.offset:
            return ""
        if item.offset > MAX_OFFSET:
            return "it lies beyond what an index can name"
        if known is not None and (header.kind == record.LIVE or not known[1]):
            figures.garbage_bytes += header.record_bytes
            return f"its needle has a record already, at {known[0]:,}, and the first one counts"
        if header.kind == record.LIVE:
            figures.live_count += 1
        else:
            figures.tombstone_count += 1
            if known is not None:
                figures.live_count -= 1
                figures.garbage_bytes += record.aligned(known[1])
        self.index.put(header.needle, item.offset, header.stored_bytes if header.kind == record.LIVE else 0)
        return ""


class Inspection:
    """One look at one volume. Use as a context manager; `run` may be called once. Raises NotAVolume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = FileSystem()
        self._reads = ForgivingReads(self.files)
        self.fd = _open_file(path)
        try:
            self.superblock, self._findings = self._read_superblock()
        except BaseException:
            os.close(self.fd)
            raise
        self.tagger = record.Tagger(self.superblock.salt)
        self.size_bytes = os.fstat(self.fd).st_size

    def __enter__(self) -> "Inspection":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    # -- the whole of it -----------------------------------------------------------------------------------------

    def run(self, each: Callable[[Item], object] = lambda _: None) -> Report:
        """Look at everything; ``each`` is called with every record and gap, in the file's order.

        Raises OSError where the file cannot be read for a reason that is not the data's.
        """
        report = Report(self.path, self.superblock, findings=self._findings)
        self._judge_state(report)
        loaded = self._load_index(report)
        before = _stamp(self.fd)
        self.size_bytes, _ = before
        report.size_bytes = self.size_bytes
        scanned = Tally(Index(), report.figures)
        replayed = Tally(loaded.index, loaded.figures) if loaded else None
        watermark = loaded.watermark if loaded else RECORDS_START
        damaged: list[tuple[Item, str]] = []
        extents = Extents()
        for item in self.items():
            each(item)
            report.records[item.kind] += 1
            odd = scanned.take(item)
            if replayed is not None and item.offset >= watermark:
                replayed.take(item)
            if not item.sound:
                extents.add(item)
            if odd or item.reason or item.torn:
                if len(damaged) < MAX_FINDINGS or item.torn:
                    damaged.append((item, odd or item.reason))
                else:
                    report.untold_count += 1
        if damaged and before != _stamp(self.fd):
            damaged = self._look_again(damaged, watermark)
        lost = self._compare(report, scanned, replayed, extents) if replayed is not None else {}
        for item, reason in damaged:
            self._explain(report, item, reason, scanned.index, lost.get(item.offset, []), watermark)
        return report

    def items(self, start: int = RECORDS_START) -> Iterator[Item]:
        """All that lies in the file from ``start`` on. What the device does not give is damage. Raises OSError."""
        for found in recovery.scan(self.fd, self.tagger, start=start, end=self.size_bytes, files=self._reads):
            yield self._item(found)

    def contents(self, item: Item) -> Contents:
        """What a record's meta says. Of a damaged one it is what can be read, which may be wrong."""
        header = item.header
        if header is None or header.kind == record.FILLER:
            return Contents()
        try:
            raw = os.pread(self.fd, header.meta_bytes, item.offset + record.HEADER_BYTES)
        except OSError:
            return Contents()  # that it cannot be read is told where it was met
        if header.kind == record.TOMBSTONE:
            return Contents(verdict=raw.decode("ascii", "backslashreplace"))
        return _contents(raw)

    # -- records -------------------------------------------------------------------------------------------------

    def _item(self, found: recovery.Found | recovery.Gap) -> Item:
        if isinstance(found, recovery.Gap):
            failure = self._reads.failure_within(found.offset, found.offset + found.size_bytes)
            reason = failure or ("" if found.torn else self._look_of_gap(found))
            return Item(found.offset, found.size_bytes, None, sound=False, reason=reason, torn=found.torn)
        header = found.header
        size_bytes = min(header.record_bytes, self.size_bytes - found.offset)
        reason = ""
        failure = self._reads.failure_within(found.offset, found.offset + header.stored_bytes)
        if failure and header.kind != record.FILLER:
            return Item(found.offset, size_bytes, header, sound=False, reason=failure)
        if not found.sound:
            reason = "meta and data do not give the CRC in its header"
        elif header.kind != record.FILLER:
            padding = self._reads.read_at(self.fd, size_bytes - header.stored_bytes, found.offset + header.stored_bytes)
            if padding.strip(b"\0"):
                reason = "the padding behind it is not zeros"
        return Item(found.offset, size_bytes, header, sound=found.sound, reason=reason)

    def _look_of_gap(self, gap: recovery.Gap) -> str:
        """Why these bytes are no record, as far as that can be seen."""
        window = recovery.Window(self.fd, gap.offset + gap.size_bytes, self._reads)
        start = bytes(window.read(gap.offset, record.HEADER_BYTES))
        if start.startswith(record.MAGIC) and len(start) == record.HEADER_BYTES:
            needle = int.from_bytes(start[8:16], "little")
            return f"a header stands here, but its tag does not match; it reads as that of needle {needle:016x}"
        at = gap.offset
        while at < gap.offset + gap.size_bytes:
            piece = window.read(at, recovery.WINDOW_BYTES)
            if any(piece):
                return "no genuine header stands here"
            at += len(piece)
        return "all of it is zeros, as of pages that were never written, or were lost"

    def _look_again(self, damaged: list[tuple[Item, str]], watermark: int) -> list[tuple[Item, str]]:
        """What is still there of the damage that was met while the file changed. Before the watermark nothing moves."""
        self.size_bytes = os.fstat(self.fd).st_size
        again = {item.offset for item in self.items(watermark) if not item.sound or item.reason}
        return [(item, reason) for item, reason in damaged if item.offset < watermark or item.offset in again]

    def _explain(self, report: Report, item: Item, reason: str, index: Index, lost: list[Lost], watermark: int) -> None:
        header = item.header
        if header is None:
            report.findings.append(_explain_gap(item, reason, lost, watermark))
            return
        needle = header.needle
        what = f"{_KINDS[header.kind]} record of needle {needle:016x}{_object(self.contents(item))}: {reason}."
        known = index.get(needle)
        if item.sound:
            advice = "No reader looks at it." if "padding" in reason else "Readers get the first one."
        elif header.kind == record.TOMBSTONE:
            advice = "The needle is dead all the same; only the verdict of its refusal is lost."
        elif known is not None and not known[1]:
            advice = "Nothing is lost: the needle is dead."
        else:
            advice = _LOST_ADVICE
        report.findings.append(Finding(what, advice, item.offset, item.size_bytes, needle))

    # -- the other places ----------------------------------------------------------------------------------------

    def _read_superblock(self) -> tuple[Superblock, list[Finding]]:
        try:
            head = os.pread(self.fd, RECORDS_START, 0)
        except OSError as error:
            raise NotAVolume(f"{self.path}: {error.strerror}") from error
        findings: list[Finding] = []
        copies: list[Superblock] = []
        reasons = []
        for offset in COPY_OFFSETS:
            try:
                copies.append(decode(head[offset : offset + SIZE_BYTES]))
            except SuperblockInvalid as error:
                reasons.append((offset, str(error)))
        found = copies[0] if copies else self._superblock_by_index(head, reasons)
        for offset, reason in reasons:
            advice = (
                "The other copy is used. A compaction of the volume writes both anew."
                if copies
                else "The server refuses the volume. The records below were read with the salt that the index file "
                "holds. Bring the first 8,192 bytes back from a backup of this volume."
            )
            what = f"the superblock at {offset} is none: {reason}."
            findings.append(Finding(what, advice, offset, SIZE_BYTES))
        if len(copies) > 1 and copies[0] != copies[1]:
            what = "the two copies of the superblock differ, and each by itself is right."
            findings.append(Finding(what, "The first one counts.", COPY_OFFSETS[1], SIZE_BYTES))
        for start, end in ((SIZE_BYTES, COPY_OFFSETS[1]), (COPY_OFFSETS[1] + SIZE_BYTES, RECORDS_START)):
            if head[start:end].strip(b"\0"):
                what = "bytes around the superblock are not zeros."
                findings.append(Finding(what, "No reader looks at them.", start, end - start))
        if copies and self.path.name != volume_path(self.path.parent, found.volume).name:
            what = f"this is volume {found.volume}, and the file's name is another."
            advice = f"A server refuses it under this name; it takes {volume_path(Path(), found.volume)}."
            findings.append(Finding(what, advice, is_damage=False))
        return found, findings

    def _superblock_by_index(self, head: bytes, reasons: list[tuple[int, str]]) -> Superblock:
        """Both copies are bad: what the index file beside the volume says of it. Raises NotAVolume."""
        name = self.path.name
        if any(head[offset:].startswith(MAGIC) for offset in HEADER_OFFSETS):
            raise NotAVolume(f"{name} is an index file; name the .vol file beside it")
        try:
            raw = self.path.with_suffix(".idx").read_bytes() if len(head) == RECORDS_START else b""
        except OSError:
            raw = b""
        for offset in HEADER_OFFSETS:
            try:
                header = decode_header(raw[offset : offset + HEADER_BYTES])
            except CheckpointInvalid:
                continue
            if volume_path(self.path.parent, header.volume).name == name:
                return Superblock(header.volume, header.revision, 0, header.salt)
        told = "; ".join(f"at {offset}: {reason}" for offset, reason in reasons)
        raise NotAVolume(f"{name} is not a volume file ({told})")

    def _judge_state(self, report: Report) -> None:
        try:
            report.state = read_state(self.files, self.path)
        except VolumeUnusable as error:
            advice = (
                "The server refuses the volume. Put the file back from a backup, or write "
                '{"epoch": E, "sealed": null, "unsynced": []} with the epoch E that the master knows.'
            )
            report.findings.append(Finding(f"{error.detail}.", advice))
            return
        except OSError as error:
            what = f"{self.path.with_suffix('.state').name} cannot be read: {error.strerror}."
            report.findings.append(Finding(what, "The server refuses the volume."))
            return
        if report.state.sealed is not None:
            what = f"the volume is sealed: {report.state.sealed}."
            advice = "It can be read and takes no needle any more. Check the disk under it."
            report.findings.append(Finding(what, advice, is_damage=False))
        for start, end in report.state.unsynced:
            what = "a failed fsync left this stretch in doubt: its needles can be read, but are never confirmed."
            report.findings.append(Finding(what, offset=start, size_bytes=end - start, is_damage=False))

    def _load_index(self, report: Report) -> Loaded | None:
        """The checkpoint that the next opening would take. It is replaced now and then: try until it stands still."""
        path = self.path.with_suffix(".idx")
        for _ in range(_INDEX_TRIES):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                report.index = f"{path.name} is not there; the next opening makes it, by a scan of the volume"
                return None
            except OSError as error:
                report.findings.append(Finding(f"{path.name} cannot be opened: {error.strerror}."))
                return None
            try:
                before = _stamp(fd)
                loaded, sentence, findings = self._choose(path, fd)
                after = _stamp(fd)
            except OSError as error:
                what = f"{path.name} cannot be read: {error.strerror}."
                report.findings.append(Finding(what, _INDEX_DAMAGE_ADVICE))
                return None
            finally:
                os.close(fd)
            if before == after:
                report.index = sentence
                report.findings += findings
                return loaded
        report.index = f"{path.name} changed each time it was read, and was not compared"
        return None

    def _choose(self, path: Path, fd: int) -> tuple[Loaded | None, str, list[Finding]]:
        """Which header counts: the checkpoint behind it, a sentence about it, and what is wrong with the others."""
        file = CheckpointFile(self.files, path, self.superblock)
        findings: list[Finding] = []
        good: list[Header] = []
        for offset, found in zip(HEADER_OFFSETS, file.headers(fd), strict=True):
            if isinstance(found, Header):
                good.append(found)
            elif os.pread(fd, HEADER_BYTES, offset).strip(b"\0"):  # zeros: no checkpoint was ever written here
                what = f"the header at {offset} of {path.name} is none: {found}."
                findings.append(Finding(what, "The other header counts, where it stands."))
        for header in sorted(good, key=lambda header: header.generation, reverse=True):
            try:
                loaded = file.load_from(fd, header)
            except CheckpointInvalid as error:
                what = f"generation {header.generation} of {path.name} is not used: {error}."
                findings.append(Finding(what, _INDEX_DAMAGE_ADVICE))
                continue
            offset = HEADER_OFFSETS[header.generation % 2]
            is_whole = loaded.clean_size_bytes == loaded.watermark == self.size_bytes
            how = "of a clean stop" if is_whole else f"to be replayed from {loaded.watermark:,} on"
            return (
                loaded,
                f"the header at {offset} of {path.name} counts, generation {header.generation}, {how}",
                findings,
            )
        return None, f"{path.name} holds no checkpoint that can be used", findings

    def _compare(self, report: Report, scanned: Tally, replayed: Tally, extents: Extents) -> dict[int, list[Lost]]:
        """Whether the index, as the next opening would have it, is that of the scan.

        What it names in damaged places is no fault of it: those needles are given back, by the stretch's start.
        """
        name = self.path.with_suffix(".idx").name
        lost: dict[int, list[Lost]] = {}
        wrong = 0
        for needle, known, found in _differences(replayed.index, scanned.index):
            start = extents.start_of(known[0]) if known else None
            if known and known[0] >= self.size_bytes:
                start = self.size_bytes
            if known and start is not None:
                lost.setdefault(start, []).append(Lost(known[0], needle, is_dead=not known[1]))
                continue
            wrong += 1
            if wrong <= MAX_FINDINGS:
                what = f"{name} has needle {needle:016x} {_entry(known)}, and the scan {_entry(found)}."
                offset = found[0] if found else None
                report.findings.append(Finding(what, _STALE_INDEX_ADVICE, offset, needle=needle))
        report.untold_count += max(wrong - MAX_FINDINGS, 0)
        if behind := lost.get(self.size_bytes):
            what = f"the file ends here, and {name} knows of records behind: {_listed(behind)}."
            report.findings.append(Finding(what, _CUT_ADVICE, self.size_bytes, needle=_only(behind)))
        if wrong:
            report.index += f"; {wrong:,} entries are wrong"
        elif lost:
            report.index += "; it equals the scan but for needles in damaged places"
        elif _counted(scanned.figures) != _counted(replayed.figures) and not scanned.figures.damaged_count:
            what = f"{name} counts {_counted(replayed.figures)}, and the scan {_counted(scanned.figures)}."
            report.findings.append(Finding(what, _STALE_INDEX_ADVICE))
        else:
            report.index += f"; it equals the scan ({len(scanned.index):,} needles)"
        return lost


def _explain_gap(item: Item, reason: str, lost: list[Lost], watermark: int) -> Finding:
    if item.torn and item.offset >= watermark and not lost:
        what = "the file ends with part of a record: an upload under way, or one that a crash cut off."
        advice = "Nothing is lost: nobody was told of it. The next opening cuts it off."
        return Finding(what, advice, item.offset, item.size_bytes, is_damage=False)
    if item.torn:
        what = "nothing from here to the end is a record, though by the index file there were some"
        advice = _CUT_ADVICE
    else:
        what = f"these bytes are no record: {reason}"
        advice = "No needle that the index knows lies here."
    if lost:
        what += f"; by the index file this was {_listed(lost)}"
        if not item.torn:
            advice = _BURIED_ADVICE if all(one.is_dead for one in lost) else _LOST_ADVICE
    return Finding(f"{what}.", advice, item.offset, item.size_bytes, _only(lost))


def _listed(lost: list[Lost]) -> str:
    told = [
        f"{'the tombstone of ' if one.is_dead else ''}needle {one.needle:016x}"
        for one in sorted(lost, key=lambda one: one.offset)[:_MAX_LISTED]
    ]
    return ", ".join(told) + (f" and {len(lost) - _MAX_LISTED:,} more" if len(lost) > _MAX_LISTED else "")


def _only(lost: list[Lost]) -> int | None:
    return lost[0].needle if len(lost) == 1 else None


def _open_file(path: Path) -> int:
    """A descriptor for reading. Raises NotAVolume."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would make us wait for its writer
    except OSError as error:
        raise NotAVolume(f"{path}: {error.strerror}") from error
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        reason = f"{path} is a directory; name one of the .vol files in it"
    elif not stat.S_ISREG(found.st_mode):
        reason = f"{path} is not a regular file"
    elif not found.st_size:
        reason = f"{path} is empty"
    else:
        return fd
    os.close(fd)
    raise NotAVolume(reason)


def _stamp(fd: int) -> tuple[int, int]:
    """What changes when a file is written to: its length and the time."""
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


def _contents(raw: bytes) -> Contents:
    """Of a live record's meta. The intent's MAC is not judged: only the master can."""
    try:
        meta = metas.decode(raw)
    except metas.MetaInvalid:
        return Contents()
    try:
        intent = intents.unpack(meta.intent)
    except intents.IntentInvalid:
        return Contents(key=meta.key, content_type=meta.content_type, meta=meta)
    return Contents(
        intent.bucket, meta.key or intent.key, meta.content_type or intent.content_type, meta=meta, intent=intent
    )


def _object(contents: Contents) -> str:
    return f", object {contents.key!r} of bucket {contents.bucket!r}" if contents.key else ""


def _differences(
    replayed: Index, scanned: Index
) -> Iterator[tuple[int, tuple[int, int] | None, tuple[int, int] | None]]:
    """(needle, replayed entry, scanned entry) of all that differ."""
    for needle, offset, length in replayed.items():
        found = scanned.get(needle)
        if found != (offset, length):
            yield needle, (offset, length), found
    for needle, offset, length in scanned.items():
        if replayed.get(needle) is None:
            yield needle, None, (offset, length)


def _entry(known: tuple[int, int] | None) -> str:
    if known is None:
        return "does not know it"
    return f"at {known[0]:,}, {known[1]:,} bytes" if known[1] else f"dead, its tombstone at {known[0]:,}"


def _counted(figures: Figures) -> str:
    return (
        f"{figures.live_count:,} live and {figures.tombstone_count:,} dead needles and "
        f"{figures.garbage_bytes:,} bytes of garbage"
    )
