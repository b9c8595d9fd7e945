"""The journal: snapshots of the database and every commit since, as needles, so that the volumes alone can rebuild it.

    step ── rows of its needles ── PUT ── one conditional update: they count, the position moves on
                                            │ somebody else was quicker, or no part could be written
                                            v
                                          they are buried; the next step tells the same again

An entry is read in one transaction and tells all that was committed after the one before it. A snapshot is read
stretch by stretch, each of a moment of its own, while commits and entries go on: whatever changed meanwhile is told
again by an entry after the snapshot's beginning, so that both together are the state at its end (a fuzzy checkpoint,
as in ARIES). That way no reader holds up a writer for as long as a large store takes.

A step may be done twice, by two at a time, or be killed: needles have their rows before they are sent, and what is
not counted by the conditional update is given to the outbox.
"""

import json
import logging
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, Sum
from django.utils import timezone

from buckets.errors import JournalRaced
from buckets.journal_format import ENTRY, SNAPSHOT, Header, Packer, contents, join_tail, pack
from buckets.models import SYSTEM_BUCKET_ID, Journal, JournalNeedle, Outbox, Removed
from buckets.names import etag_of_needle
from buckets.services.journal_rows import (
    FIRST_CURSOR,
    Bounds,
    Highest,
    bounds_now,
    changed_pages,
    changed_rows,
    consistent_read,
    has_more_objects,
    highest_ids,
    read_stretch,
)
from buckets.services.leases import SLOT_BITS
from buckets.services.outbox import DeadNeedle, bury, confirms_last, is_journalled
from buckets.verdicts import Committed, rfc3339
from keys.errors import WarehouseError
from keys.rights import ANYBODY
from volume_server.intent import Intent
from volumes import client
from volumes.derived_secrets import journal_secret
from volumes.errors import NoRoom, ServerRefused, VolumeServerError
from volumes.models import Server
from volumes.services.leases import reserve_lease_number
from volumes.services.placement import Target, pick
from volumes.services.presign import put_url
from volumes.services.store import current_store, store_id

log = logging.getLogger(__name__)

COPIES = 2
"""Of each part, on different nodes, as far as there are."""
LEASE_SECONDS = 120
HTTP_FULL = 507
ABANDONED_AFTER = timedelta(minutes=5)
"""A needle that is still not counted then was left by a writer that ended."""
BUSY_SECONDS = 30
MAX_ENTRY_OBJECTS = 100_000
"""A journal that is further behind begins anew with a snapshot instead of reading so much in one transaction."""
SNAPSHOT_EVERY = timedelta(days=1)
MIN_ENTRY_BYTES = 16 << 20
"""So much is read quickly; beyond it, entries take no more room than the snapshot that they follow."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a call of `write_journal` did."""

    entries: int = 0
    snapshot_parts: int = 0
    size_bytes: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A part that lies in its needles."""

    needles: tuple[int, ...]
    size_bytes: int


def current_journal() -> Journal:
    """The journal's row, made at the first call."""
    return Journal.objects.filter(pk=Journal.ONLY_ID).first() or Journal.objects.get_or_create(pk=Journal.ONLY_ID)[0]


def write_journal(*, seconds: float = 0, force: bool = False) -> Written:
    """Brings the journal up to now, and goes on with a snapshot that is due for about so many ``seconds``.

    ``force``: even where another process seems to be at it. Raises WarehouseError where it could not be written,
    which is logged, and shown until it can.
    """
    if not is_journalled():
        return Written()
    current_journal()
    if not _claim(force=force):
        return Written()
    try:
        written = _write(time.monotonic() + seconds)
    except WarehouseError as error:
        is_full = isinstance(error, NoRoom) or (isinstance(error, ServerRefused) and error.status == HTTP_FULL)
        Journal.objects.update(error=error.detail[:300], is_full=is_full, busy_until=None)
        log.warning("the journal could not be written: %s", error.detail)
        raise
    Journal.objects.update(error="", is_full=False, busy_until=None)
    return written


def _claim(*, force: bool) -> bool:
    """Keeps two workers from doing the same work; that it would do no harm is another matter."""
    now = timezone.now()
    free = Q() if force else Q(busy_until=None) | Q(busy_until__lt=now)
    until = now + timedelta(seconds=BUSY_SECONDS)
    return bool(Journal.objects.filter(free, pk=Journal.ONLY_ID).update(busy_until=until))


def _write(until: float) -> Written:
    if JournalNeedle.objects.filter(is_durable=False).exists():
        bury_abandoned()
    journal = current_journal()
    if _is_of_another_database(journal) or (journal.whole_at is None and not journal.snapshot):
        begin_snapshot()
    entries = parts = size_bytes = 0
    last_entry = 0.0
    while True:
        journal = current_journal()
        if time.monotonic() - last_entry >= settings.WAREHOUSE_JOURNAL_SECONDS or not last_entry:
            size = write_entry(journal)
            last_entry = time.monotonic()
            entries += bool(size)
            size_bytes += size
            journal = current_journal()
        if not journal.snapshot and is_snapshot_due(journal):
            journal = begin_snapshot()
        if not journal.snapshot or time.monotonic() >= until:
            return Written(entries, parts, size_bytes, journal.sequence)
        _claim(force=True)
        size_bytes += write_snapshot_part(journal)
        parts += 1


# --- entries ----------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """An entry as it was read, not yet written; no parts: there is nothing to tell."""

    parts: list[tuple[Header, bytes]]
    read_at: datetime
    bounds: Bounds
    highest: Highest
    pages: dict[str, str]


def _read_entry(journal: Journal) -> _Entry | None:
    """What was committed since the journal's position; None: it lies too far back for one transaction."""
    with consistent_read():
        read_at = timezone.now()
        bounds = bounds_now()
        has_commits = bounds.sequence != journal.sequence
        if has_commits and has_more_objects(journal.sequence, MAX_ENTRY_OBJECTS):
            return None
        lines, pages = changed_pages(journal.pages)
        after = Bounds(journal.sequence, journal.outbox_id, journal.removed_id, journal.chunk_id)
        highest = highest_ids(Highest(journal.bucket_high, journal.key_high))
        if lines or has_commits:
            lines.append(highest.line())
        packed = contents(chain(lines, changed_rows(after) if has_commits else ()))
    entry = uuid.uuid4().hex
    parts = [
        (
            Header(
                store=store_id(),
                kind=ENTRY,
                entry=entry,
                part=number,
                is_last=number == len(packed) - 1,
                after=journal.sequence,
                to=bounds.sequence,
                read_us=int(read_at.timestamp() * 1_000_000),
            ),
            content,
        )
        for number, content in enumerate(packed)
    ]
    return _Entry(parts, read_at, bounds, highest, pages)


def write_entry(journal: Journal) -> int:
    """Tells all that was committed since the last entry; how many bytes that took, 0 for nothing to tell.

    Raises JournalRaced, VolumeServerError and what `pick` raises.
    """
    entry = _read_entry(journal)
    if entry is None:
        log.warning("the journal is more than %d objects behind; it begins anew", MAX_ENTRY_OBJECTS)
        begin_snapshot()
        return 0
    written = [_write_part(header, content) for header, content in entry.parts]
    read_at, bounds = entry.read_at, entry.bounds
    size_bytes = sum(part.size_bytes for part in written)
    _count(
        journal,
        written,
        sequence=bounds.sequence,
        # A journal that began anew is whole only with its snapshot.
        safe_sequence=bounds.sequence if _is_unbroken(journal) else journal.safe_sequence,
        outbox_id=max(bounds.outbox_id, journal.outbox_id),
        removed_id=max(bounds.removed_id, journal.removed_id),
        chunk_id=max(bounds.chunk_id, journal.chunk_id),
        bucket_high=entry.highest.bucket,
        key_high=entry.highest.key,
        pages=entry.pages,
        covers_until=read_at if _is_unbroken(journal) else journal.covers_until,
        entry_bytes=F("entry_bytes") + size_bytes,
    )
    _forget_removed(journal.removed_id)
    return size_bytes


def _is_unbroken(journal: Journal) -> bool:
    """Whether a whole snapshot and the entries after it reach up to the journal's position."""
    return journal.whole_at is not None and not journal.is_begun_anew


def _forget_removed(journalled_id: int) -> None:
    """Removals are told by then; young ones are kept for the next snapshot: a needle may still come up from before."""
    Removed.objects.filter(pk__lte=journalled_id, removed_at__lt=timezone.now() - confirms_last()).delete()


def read_tail() -> bytes:
    """What the journal does not tell yet, as a file of parts to lie beside the volumes; empty for nothing.

    For a store that has stopped: nothing is committed any more, and nobody is there to take a needle. The position
    stays, so that the next entry tells it again.
    """
    journal = Journal.objects.filter(pk=Journal.ONLY_ID).first()
    if journal is None or not _is_unbroken(journal) or _is_of_another_database(journal):
        return b""
    entry = _read_entry(journal)
    return b"" if entry is None else join_tail(pack(*part, journal_secret()) for part in entry.parts)


# --- snapshots --------------------------------------------------------------------------------------------------------


def is_snapshot_due(journal: Journal) -> bool:
    if journal.whole_at is None:
        return True
    if journal.entry_bytes > max(journal.whole_bytes, MIN_ENTRY_BYTES):
        return True
    return journal.entry_bytes > 0 and journal.whole_at < timezone.now() - SNAPSHOT_EVERY


def begin_snapshot() -> Journal:
    """A snapshot from the present position on; from now, where there is none or it lies too far back."""
    journal = current_journal()
    with consistent_read():
        bounds = bounds_now()
        is_gap = (
            journal.whole_at is None
            or _is_of_another_database(journal)
            or has_more_objects(journal.sequence, MAX_ENTRY_OBJECTS)
        )
    fields: dict[str, Any] = {
        "snapshot": uuid.uuid4().hex,
        "snapshot_part": 0,
        "snapshot_cursor": FIRST_CURSOR,
        "snapshot_bytes": 0,
        "snapshot_from": bounds.sequence if is_gap else journal.sequence,
    }
    if is_gap:
        fields |= bounds._asdict() | {
            "pages": {},
            "is_begun_anew": True,
            "generation": current_store().intent_secret_id,
        }
    _count(journal, [], **fields)
    return current_journal()


def _is_of_another_database(journal: Journal) -> bool:
    """It came with a database that was restored, or was made anew, since: the lost time's entries lie beyond it."""
    return journal.generation != current_store().intent_secret_id


def write_snapshot_part(journal: Journal) -> int:
    """The next part of the snapshot that was begun; how many bytes it took. Raises as `write_entry` does."""
    packer = Packer()
    cursor: list[Any] | None = journal.snapshot_cursor
    read_at = timezone.now()
    while cursor is not None and not packer.is_full:
        stretch = read_stretch(cursor)
        for line in stretch.lines:
            packer.add(line)
        cursor = stretch.next_cursor
    size_bytes = 0
    if cursor is None:
        # What changed while the stretches were read is told by entries up to here.
        began = journal.snapshot
        size_bytes += write_entry(journal)
        journal.refresh_from_db()
        if journal.snapshot != began:
            return size_bytes  # the journal was so far behind that it began anew
        packer.add(Highest(journal.bucket_high, journal.key_high).line())
    part = _write_part(
        Header(
            store=store_id(),
            kind=SNAPSHOT,
            entry=journal.snapshot,
            part=journal.snapshot_part,
            is_last=cursor is None,
            after=journal.snapshot_from,
            to=journal.sequence,
            read_us=int(read_at.timestamp() * 1_000_000),
            cursor=json.dumps(journal.snapshot_cursor),
            next_cursor=json.dumps(cursor),
        ),
        packer.end(),
    )
    size_bytes += part.size_bytes
    if cursor is not None:
        _count(
            journal,
            [part],
            snapshot_part=F("snapshot_part") + 1,
            snapshot_cursor=cursor,
            snapshot_bytes=F("snapshot_bytes") + part.size_bytes,
        )
        return size_bytes
    entries = JournalNeedle.objects.filter(kind=ENTRY, to_sequence__gt=journal.snapshot_from)
    _count(
        journal,
        [part],
        snapshot="",
        snapshot_cursor=None,
        whole_at=timezone.now(),
        whole_bytes=F("snapshot_bytes") + part.size_bytes,
        entry_bytes=entries.aggregate(total=Sum("size"))["total"] or 0,
        is_begun_anew=False,
        safe_sequence=journal.sequence,
        covers_until=read_at,
    )
    log.info("a snapshot of the database is whole, as of commit %d", journal.sequence)
    drop_older(snapshot=journal.snapshot, begun_at=journal.snapshot_from)
    return size_bytes


@transaction.atomic
def drop_older(*, snapshot: str, begun_at: int) -> int:
    """Gives up what a whole snapshot stands for: others, and entries up to its beginning. How many needles."""
    older = JournalNeedle.objects.filter(is_durable=True).filter(
        (Q(kind=SNAPSHOT) & ~Q(entry=snapshot)) | Q(kind=ENTRY, to_sequence__lte=begun_at)
    )
    return _bury(older)


@transaction.atomic
def bury_abandoned() -> int:
    """Gives up needles of steps that did not come to their end; how many."""
    old = timezone.now() - ABANDONED_AFTER
    return _bury(JournalNeedle.objects.filter(is_durable=False, created_at__lt=old))


def _bury(rows: Any) -> int:
    found = list(rows.select_for_update())
    JournalNeedle.objects.filter(pk__in=[row.pk for row in found]).delete()
    now = timezone.now()
    bury(
        [
            DeadNeedle(
                needle=row.needle,
                volume_id=row.volume_id,
                reason=Outbox.Reason.DELETED,
                verdict=Committed("", row.kind, row.size, etag_of_needle(row.needle), rfc3339(row.created_at)),
                judged_at=row.created_at,
                was_readable=False,
            )
            for row in found
        ],
        now=now,
        sequence=0,  # nobody's commit: their tombstones need not wait
    )
    return len(found)


# --- needles ----------------------------------------------------------------------------------------------------------


def _write_part(header: Header, content: bytes) -> Part:
    """Raises VolumeServerError where no copy could be written, and what `pick` raises."""
    data = pack(header, content, journal_secret())
    targets = _targets(len(data))
    rows = [
        JournalNeedle(
            needle=reserve_lease_number() << SLOT_BITS,
            volume_id=target.volume_id,
            kind=header.kind,
            entry=header.entry,
            part=header.part,
            to_sequence=header.to,
            size=len(data),
            crc32=zlib.crc32(data),
            created_at=timezone.now(),
        )
        for target in targets
    ]
    JournalNeedle.objects.bulk_create(rows)
    written, failures = [], []
    for row, target in zip(rows, targets, strict=True):
        try:
            client.put_needle(_url(row, target, len(data), header), data)
        except VolumeServerError as error:
            failures.append(error)
        else:
            written.append(row.needle)
    if not written:
        raise failures[0]  # there is a target at least
    for failure in failures:
        log.warning("a copy of a part of the journal could not be written: %s", failure.detail)
    return Part(tuple(written), len(data))


def _targets(size_bytes: int) -> list[Target]:
    """Where copies go: different nodes."""
    targets = pick(needed_bytes=size_bytes, count=COPIES)
    servers = Server.objects.in_bulk([UUID(target.server_id) for target in targets])
    by_node: dict[str, Target] = {}
    for target in targets:
        by_node.setdefault(servers[UUID(target.server_id)].node, target)
    return list(by_node.values())


def _url(row: JournalNeedle, target: Target, size_bytes: int, header: Header) -> str:
    intent = Intent(
        volume=target.volume_id,
        first=row.needle,
        count=1,
        epoch=target.epoch,
        max_bytes=size_bytes,
        exact=True,
        bucket_id=SYSTEM_BUCKET_ID,
        bucket="",
        api_key=ANYBODY,
        generation=0,
        expires_at=int(time.time()) + LEASE_SECONDS,
        key=f"{header.kind}/{header.to}/{header.entry}/{header.part}",
        key_fixed=True,
    )
    return put_url(target=target, intent=intent).replace("{needle}", f"{row.needle:016x}")


@transaction.atomic
def _count(journal: Journal, written: Sequence[Part], **fields: Any) -> None:
    """Moves the journal on from where ``journal`` says it is, and lets these parts count. Raises JournalRaced."""
    needles = [needle for part in written for needle in part.needles]
    moved = Journal.objects.filter(pk=Journal.ONLY_ID, number=journal.number).update(number=F("number") + 1, **fields)
    durable = JournalNeedle.objects.filter(needle__in=needles).update(is_durable=True)
    if moved != 1 or durable != len(needles):
        raise JournalRaced("Another process has written to the journal at the same time.")
