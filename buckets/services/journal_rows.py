"""What the journal tells, read from the rows: lines that `buckets.services.rebuild` makes rows of again.

    ["object", bucket id, key, size, etag, content type, metadata, created, updated, sequence,
               [[index, volume, needle, size, crc32, committed, verdict or null], ...]]
    ["removed", bucket id, key, sequence, removed]
    ["dead", needle, volume, reason, verdict, created, not before, keep until, tombstoned or null, sequence]
    ["chunk", upload, index, volume, needle, size, crc32, committed, verdict]     of an upload in progress
    ["page", table, page, [column, ...], [[value, ...], ...]]                      a stretch of a small table, whole
    ["ids", bucket, key]            the highest ids ever seen of these: what has no row up to there was deleted

Moments are text (ISO 8601), UUIDs 32 hex digits, bytes base64.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, models

from buckets.journal_format import Line
from buckets.models import IN_PROGRESS, Bucket, Share, Upload
from buckets.services.bulk import Row, as_datetime
from keys.models import ApiKey, Grant, RevokedKey
from volumes.models import ForgottenServer, Replica, Server, Store, Volume

PAGE_ROWS = 1000
BATCH_ROWS = 2000
"""Objects that a snapshot reads at once."""


@dataclass(frozen=True, slots=True)
class Table:
    """A small table: journalled by pages, each whole when something in it changed."""

    model: type[models.Model]
    without: frozenset[str] = frozenset()
    """Columns that come back by themselves, or change too often to be told."""
    only: tuple[str, tuple[str, ...]] | None = None
    """A column and the values of the rows that count."""

    @property
    def name(self) -> str:
        return self.model._meta.label_lower

    @property
    def columns(self) -> list[str]:
        return [field.attname for field in self.model._meta.concrete_fields if field.attname not in self.without]


TABLES = (
    Table(Store, frozenset({"sequence", "lease_high"})),  # each part of the journal takes a lease itself
    Table(ApiKey, frozenset({"last_used_at"})),
    Table(Grant),
    Table(RevokedKey),
    Table(
        Server,
        frozenset(
            {
                *("capacity_bytes", "free_bytes", "used_bytes", "disk", "stray_volumes"),
                *("last_seen_at", "stopped_at", "last_checked_at", "check_error"),
            }
        ),
    ),
    Table(ForgottenServer),
    Table(Volume, frozenset({"state_changed_at"})),
    Table(
        Replica,
        frozenset(
            {
                *("state", "size_bytes", "garbage_bytes", "live_count", "tombstone_count", "damaged_count"),
                *("scrubbed_at", "compaction", "scrub", "reported_at", "replication"),
            }
        ),
    ),
    Table(Bucket, frozenset({"object_count", "total_bytes", "reserved_objects", "reserved_bytes"})),
    Table(Share, frozenset({"last_used_at"})),
    Table(Upload, only=("state", tuple(state.value for state in IN_PROGRESS))),
)


@contextmanager
def consistent_read() -> Iterator[None]:
    """All that is read inside is of one moment. No write lock is taken: with SQLite's WAL nobody waits."""
    if connection.in_atomic_block:  # somebody else's transaction is as good
        yield
        return
    begin = "BEGIN" if connection.vendor == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute(begin)
        try:
            yield
        finally:
            cursor.execute("COMMIT")


class Highest(NamedTuple):
    """The highest ids that were seen, of rows that may be gone by now."""

    bucket: int
    key: int

    def line(self) -> Line:
        return ["ids", *self]


def highest_ids(known: Highest) -> Highest:
    """Those of now, or of before. Inside `consistent_read`, one statement."""
    [(bucket, key)] = _fetch("SELECT (SELECT MAX(id) FROM buckets_bucket), (SELECT MAX(id) FROM keys_apikey)")
    return Highest(max(known.bucket, bucket or 0), max(known.key, key or 0))


class Bounds(NamedTuple):
    """How far something is told: a commit, and the last rows of tables whose ids come in the order of commits."""

    sequence: int
    outbox_id: int
    removed_id: int
    chunk_id: int


def bounds_now() -> Bounds:
    """Inside `consistent_read`. One statement.

    Needles that died by no commit (sequence 0) are put into the outbox by whoever does not hold the store's row, so
    their ids are no bounds: a smaller one may still come.
    """
    rows = _fetch(
        "SELECT COALESCE((SELECT sequence FROM volumes_store), 0), "
        "COALESCE((SELECT id FROM buckets_outbox WHERE sequence > 0 ORDER BY id DESC LIMIT 1), 0), "
        "COALESCE((SELECT MAX(id) FROM buckets_removed), 0), COALESCE((SELECT MAX(id) FROM buckets_chunk), 0)"
    )
    return Bounds(*rows[0])


def has_more_objects(after: int, limit: int) -> bool:
    """Whether more than ``limit`` objects have changed since."""
    return bool(
        _fetch(
            "SELECT 1 FROM buckets_bucket b JOIN buckets_object o ON o.bucket_id = b.id AND o.sequence > %s "
            "LIMIT 1 OFFSET %s",
            [after, limit],
        )
    )


def changed_rows(after: Bounds) -> Iterator[Line]:
    """What was committed since, the small tables left out; inside `consistent_read`."""
    for row in _fetch(
        "SELECT bucket, key, sequence, removed_at FROM buckets_removed WHERE id > %s", [after.removed_id]
    ):
        yield _removed(row)
    yield from _objects(
        f"SELECT {_OBJECT} FROM buckets_bucket b JOIN buckets_object o ON o.bucket_id = b.id AND o.sequence > %s",  # noqa: S608
        [after.sequence],
    )
    for row in _fetch(f"SELECT {_DEAD} FROM buckets_outbox WHERE id > %s", [after.outbox_id]):  # noqa: S608
        yield _dead(row)
    for row in _fetch(
        f"SELECT {_UPLOAD_CHUNK} FROM buckets_chunk WHERE id > %s AND upload_id IS NOT NULL",  # noqa: S608
        [after.chunk_id],
    ):
        yield _chunk(row)


class Stretch(NamedTuple):
    """Some rows of a snapshot, and where the next ones begin; cursor None: these were the last."""

    lines: list[Line]
    next_cursor: list[Any] | None


FIRST_CURSOR: list[Any] = ["object", 0, ""]


def read_stretch(cursor: Sequence[Any]) -> Stretch:
    """The rows from a cursor on, in one statement: each stretch is of a moment of its own."""
    section, *at = cursor
    if section == "object":
        lines = list(
            _objects(
                f"SELECT {_OBJECT} FROM buckets_object o WHERE (o.bucket_id, o.key) > (%s, %s) "  # noqa: S608
                "ORDER BY o.bucket_id, o.key LIMIT %s",
                [*at, BATCH_ROWS],
            )
        )
        if lines:
            return Stretch(lines, ["object", lines[-1][1], lines[-1][2]])
        return Stretch([], ["outbox", 0])
    if section == "tables":
        return Stretch([line for _, _, line in read_pages()], None)
    statement, make, following = _BY_ID[section]
    rows = _fetch(f"SELECT id, {statement} AND id > %s ORDER BY id LIMIT %s", [*at, BATCH_ROWS])
    if not rows:
        return Stretch([], following)
    return Stretch([make(row[1:]) for row in rows], [section, rows[-1][0]])


def read_pages() -> Iterator[tuple[str, str, Line]]:
    """The small tables: each page's name, its digest and its line."""
    for table in TABLES:
        columns = table.columns
        key = columns.index(table.model._meta.pk.attname)
        rows = table.model._default_manager.order_by("pk")
        if table.only is not None:
            rows = rows.filter(**{f"{table.only[0]}__in": table.only[1]})
        pages: dict[str, list[list[Any]]] = {}
        for values in rows.values_list(*columns):
            pages.setdefault(_page_of(values[key]), []).append([_plain(value) for value in values])
        for page, held in pages.items():
            line = ["page", table.name, page, columns, held]
            raw = json.dumps(line, separators=(",", ":")).encode()
            yield f"{table.name}/{page}", hashlib.blake2b(raw, digest_size=12).hexdigest(), line


def changed_pages(known: dict[str, str]) -> tuple[list[Line], dict[str, str]]:
    """The pages that are not as ``known`` says, those that are empty by now included; and all digests of now."""
    lines, digests = [], {}
    for name, digest, line in read_pages():
        digests[name] = digest
        if known.get(name) != digest:
            lines.append(line)
    for name in sorted(known.keys() - digests.keys()):
        table, _, page = name.partition("/")
        lines.append(["page", table, page, [], []])
    return lines, digests


def _page_of(key: Any) -> str:
    if isinstance(key, UUID):
        return key.hex[:1]
    return str(key // PAGE_ROWS)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value


# --- lines ------------------------------------------------------------------------------------------------------------

_OBJECT = "o.id, o.bucket_id, o.key, o.size, o.etag, o.content_type, o.metadata, o.created_at, o.updated_at, o.sequence"
_DEAD = "needle, volume_id, reason, verdict, created_at, not_before, keep_until, tombstoned_at, sequence"
_UPLOAD_CHUNK = 'upload_id, "index", volume_id, needle, size, crc32, committed_at, verdict'


def _objects(statement: str, parameters: Sequence[Any]) -> Iterator[Line]:
    """Objects with their chunks, of one moment: one statement."""
    line: Line = []
    last_id = None
    for object_id, *values in _fetch(
        'SELECT o.*, c."index", c.volume_id, c.needle, c.size, c.crc32, c.committed_at, c.verdict '  # noqa: S608
        f"FROM ({statement}) o LEFT JOIN buckets_chunk c ON c.object_id = o.id "
        'ORDER BY o.bucket_id, o.key, c."index"',
        parameters,
    ):
        if object_id != last_id:
            if line:
                yield line
            bucket_id, key, size, etag, content_type, metadata, created_at, updated_at, sequence = values[:9]
            line = [
                *("object", bucket_id, key, size, etag, content_type, _document(metadata)),
                *(_moment(created_at), _moment(updated_at), sequence, []),
            ]
            last_id = object_id
        index, volume_id, needle, size, crc32, committed_at, verdict = values[9:]
        if needle is not None:
            line[-1].append([index, volume_id, needle, size, crc32, _moment(committed_at), _document(verdict)])
    if line:
        yield line


def _removed(row: Row) -> Line:
    bucket_id, key, sequence, removed_at = row
    return ["removed", bucket_id, key, sequence, _moment(removed_at)]


def _dead(row: Row) -> Line:
    needle, volume_id, reason, verdict, created_at, not_before, keep_until, tombstoned_at, sequence = row
    moments = [_moment(value) for value in (created_at, not_before, keep_until, tombstoned_at)]
    return ["dead", needle, volume_id, reason, _document(verdict), *moments, sequence]


def _chunk(row: Row) -> Line:
    upload, index, volume_id, needle, size, crc32, committed_at, verdict = row
    text = upload.hex if isinstance(upload, UUID) else UUID(upload).hex
    return ["chunk", text, index, volume_id, needle, size, crc32, _moment(committed_at), _document(verdict)]


_BY_ID: dict[str, tuple[str, Any, list[Any]]] = {
    "outbox": (f"{_DEAD} FROM buckets_outbox WHERE true", _dead, ["removed", 0]),
    "removed": ("bucket, key, sequence, removed_at FROM buckets_removed WHERE true", _removed, ["chunk", 0]),
    "chunk": (f"{_UPLOAD_CHUNK} FROM buckets_chunk WHERE upload_id IS NOT NULL", _chunk, ["tables"]),
}
"""Sections of a snapshot that are read by id: what is selected, what makes a line of it, what comes next."""


def _moment(value: Any) -> str | None:
    return None if value is None else as_datetime(value).isoformat()


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def _fetch(statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
