"""What is damaged in the primary's own file is fetched from a peer, before that file becomes the truth for all copies.

An opening replaces what differs at the peers by what the primary has. Where the primary's bytes are not what was
written, that would put damage in the place of the sound record. So wherever a peer differs, and wherever damage is
known of, the primary looks at its own records first. What it then takes from a peer is checked as recovery does it,
and is the record that was lost, not just any (`opening.written_together` says of which bytes that can be told):

    own bytes                            what is taken from the first peer that has it
    a genuine header, its CRC not so     the same header in the same place, and a sound record
    no genuine header                    sound records in that place, in epochs that both were part of
    nothing: the file ends               all up to the last sound record, in epochs that both were part of
    a superblock that is not so          (what it must be is known)

The last but one: where the header of the very last record is damaged, a restart after a crash takes it for a torn tail.
If nobody was ever told of such records, they do as little harm as those in the primary's own tail.

What no peer has sound stays as it is, and is counted as damage. So of each record that any copy still has sound a sound
one is kept. What is replaced is saved aside before, at the primary as at a peer, and a peer fetches into a file of its
own before anything is changed: `N.mending`, removed at the end, or at the next start.
"""

import contextlib
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from volume_server import record, recovery
from volume_server.damage import BAD_CRC, NO_RECORD, Damage
from volume_server.index import LENGTH_BITS, LENGTH_MASK, Index
from volume_server.joining import OwnFile
from volume_server.opening import Copying, Source, Stretch, blocks_between, joined_up, written_together
from volume_server.peers import PeerFailed
from volume_server.superblock import RECORDS_START, encode_head
from volume_server.volume import Volume

log = logging.getLogger(__name__)

MENDING_SUFFIX = ".mending"
NEAR_BYTES = 64 << 20
"""Bytes between two places that are rather read than passed over."""


@dataclass(frozen=True, slots=True)
class Wound:
    """Bytes of the own file that are not what was written, or (``is_beyond``) that it may lack at its end."""

    start: int
    end: int
    header: record.Header | None = None
    """The record's, where it is genuine."""
    is_beyond: bool = False

    def as_damage(self) -> Damage:
        if self.header is None:
            return Damage(self.start, self.end - self.start, None, NO_RECORD)
        return Damage(self.start, self.end - self.start, self.header.needle, BAD_CRC)


class Mending:
    """Of one volume in one opening: `look`, then `mend`, both in a thread. The peers have been compared.

    Nothing is on its way into the volume, its index stays as it is. Raises OSError, StoreError, CopyCancelled.
    """

    def __init__(self, volume: Volume, epoch: int, source: Source, copies: Sequence[Copying]) -> None:
        self.volume = volume
        self.epoch = epoch
        self.source = source
        self.copies = copies
        self.wounds: list[Wound] = []
        self.mended: list[Stretch] = []
        self.damage: list[Damage] = []
        """What was found and not mended."""
        self._files = volume.files

    def look(self) -> None:
        """Find what is to be mended. Where all copies are equal and no damage is known it reads nothing."""
        known = [(one.offset, one.end) for one in self.volume.damage if one.offset >= RECORDS_START]
        differing = [stretch for copy in self.copies for stretch in copy.differing]
        stretches = joined_up((max(start, RECORDS_START), end) for start, end in [*known, *differing])
        self.wounds = list(self._within(stretches))
        heads = [start for start, _ in differing] + [one.offset for one in self.volume.damage]
        if min(heads, default=RECORDS_START) < RECORDS_START and not self._has_head():
            self.wounds.append(Wound(0, RECORDS_START))
        size_bytes = self.source.size_bytes
        end = max(map(self._may_be_taken_to, self.copies), default=0)
        if end > size_bytes:
            self.wounds.append(Wound(size_bytes, end, is_beyond=True))

    def mend(self) -> Volume | None:
        """Take what can be had. A volume that was opened on what the file is then; None where nothing was changed."""
        own = OwnFile(self.volume, self.epoch, keeps_history=True)
        wounds: list[Wound] = []
        for wound in self.wounds:
            if wound.start < RECORDS_START:
                self._replace(own, 0, memoryview(encode_head(self.source.superblock)))
            elif wound.is_beyond:
                wounds += self._extended(own)
            else:
                wounds.append(wound)
        for wound in wounds:
            self._mend(own, wound)
        if not self.mended:
            return None
        return own.finish(own.size_bytes)

    # -- looking -------------------------------------------------------------------------------------------------

    def _within(self, stretches: list[Stretch]) -> Iterator[Wound]:
        groups: list[list[Stretch]] = []
        for stretch in stretches:
            if groups and stretch[0] - groups[-1][-1][1] < NEAR_BYTES:
                groups[-1].append(stretch)
            else:
                groups.append([stretch])
        for start, group in zip(self._starts([group[0][0] for group in groups]), groups, strict=True):
            for wound in self._scanned(start, group[-1][1]):
                if any(wound.start < end and first < wound.end for first, end in group):
                    yield wound

    def _starts(self, offsets: list[int]) -> list[int]:
        """Where to begin to read, so that records are met at their beginnings.

        Mostly what differs lies at the end, not far behind the last checkpoint; else the whole index is looked through.
        """
        known = [RECORDS_START, self.volume.checkpointed_to, *(start for _, start in self.source.before)]
        near = [max(start for start in known if start <= offset) for offset in offsets]
        if all(offset - start <= NEAR_BYTES for offset, start in zip(offsets, near, strict=True)):
            return near
        return record_starts(self.volume.index, offsets)

    def _scanned(self, start: int, end: int) -> Iterator[Wound]:
        source, tagger = self.source, self.volume.tagger
        for found in recovery.scan(source.fd, tagger, start=start, end=source.size_bytes, files=source.files):
            if found.offset >= end:
                return
            if (wound := _wound(found)) is not None:
                yield wound

    def _has_head(self) -> bool:
        return self.source.files.read_at(self.source.fd, RECORDS_START, 0) == encode_head(self.source.superblock)

    def _may_be_taken_to(self, copy: Copying) -> int:
        """The offset before which what a peer has is of epochs of both."""
        limit = written_together(self.source.before, copy.their_history)
        return copy.their_bytes if limit is None else min(limit, copy.their_bytes)

    # -- mending -------------------------------------------------------------------------------------------------

    def _mend(self, own: OwnFile, wound: Wound) -> None:
        left = [(wound.start, wound.end)]
        for copy in self.copies:
            left = [rest for start, end in left for rest in self._taken(own, copy, wound.header, start, end)]
        for start, end in left:
            self.damage.append(replace(wound, start=start, end=end).as_damage())

    def _taken(
        self, own: OwnFile, copy: Copying, header: record.Header | None, start: int, end: int
    ) -> list[Stretch]:  # fmt: skip
        """Take what a peer has sound of these bytes; what is left of them."""
        limit = min(end, copy.their_bytes if header is not None else self._may_be_taken_to(copy))
        left, at = [], start
        with self._scratch() as fd:
            for found in self._fetched(copy, start, limit, fd):
                if isinstance(found, recovery.Gap) or not found.sound or header not in (None, found.header):
                    continue
                first = start + found.offset
                following = min(first + found.header.record_bytes, limit)
                for one, two in blocks_between(first, following):
                    self._replace(own, one, memoryview(self._files.read_at(fd, two - one, one - start)))
                log.warning(
                    "volume %d: %d bytes at %d were not what was written, and are taken from server %s",
                    self.volume.number, following - first, first, copy.told.server,
                )  # fmt: skip
                left.append((at, first))
                at = following
        return [(one, two) for one, two in [*left, (at, end)] if one < two]

    def _extended(self, own: OwnFile) -> list[Wound]:
        """Take what one peer has behind the own end, up to its last sound record; what is not sound in that."""
        start = own.size_bytes
        for copy in sorted(self.copies, key=self._may_be_taken_to, reverse=True):
            with self._scratch() as fd:
                found = list(self._fetched(copy, start, self._may_be_taken_to(copy), fd))
                while found and (isinstance(found[-1], recovery.Gap) or not found[-1].sound):
                    found.pop()
                if not found:
                    continue
                last = found[-1]
                assert isinstance(last, recovery.Found)
                for one, two in blocks_between(start, start + last.offset + last.header.record_bytes):
                    self._replace(own, one, memoryview(self._files.read_at(fd, two - one, one - start)))
            log.info("volume %d: server %s has what follows %d", self.volume.number, copy.told.server, start)
            return [wound for one in found if (wound := _wound(one, start)) is not None]
        return []

    def _replace(self, own: OwnFile, at: int, data: memoryview) -> None:
        own.replace(at, data)
        self.mended.append((at, at + len(data)))

    def _fetched(
        self, copy: Copying, start: int, end: int, fd: int
    ) -> Iterator[recovery.Found | recovery.Gap]:  # fmt: skip
        """Fetch a peer's bytes into the scratch file; what lies there, by offsets from ``start`` on."""
        if copy.failure is not None or end <= start:
            return
        self.volume.room.require(end - start)
        try:
            for at, following in blocks_between(start, end):
                self._files.write_at(fd, [copy.fetch(at, following)], at - start)
        except PeerFailed as error:
            copy.failure = str(error)
            return
        yield from recovery.scan(fd, self.volume.tagger, start=0, end=end - start, files=self._files)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[int]:
        path = self.volume.path.with_suffix(MENDING_SUFFIX)
        fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            yield fd
        finally:
            self._files.close(fd)
            with contextlib.suppress(OSError):  # the next start removes it
                self._files.remove(path)


def _wound(found: recovery.Found | recovery.Gap, start: int = 0) -> Wound | None:
    """What is not sound of what lies in a file whose first byte is that at ``start``."""
    at = start + found.offset
    if isinstance(found, recovery.Gap):
        return Wound(at, at + found.size_bytes)
    return None if found.sound else Wound(at, at + found.header.record_bytes, found.header)


def record_starts(index: Index, offsets: Sequence[int]) -> list[int]:
    """For each offset the last one not behind it at which the index knows a record to begin; else where all begin."""
    wanted = [offset >> 3 << LENGTH_BITS | LENGTH_MASK for offset in offsets]
    best = [RECORDS_START >> 3 << LENGTH_BITS] * len(wanted)
    for segment in list(index.segments()) if wanted else ():
        values = sorted(segment.view.tolist()[1::2])
        for number, highest in enumerate(wanted):
            at = bisect_right(values, highest)
            if at:
                best[number] = max(best[number], values[at - 1])
    return [value >> LENGTH_BITS << 3 for value in best]
