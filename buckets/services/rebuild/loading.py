"""Lines of the journal become rows. Into an empty database, in one transaction: constraints are judged at its end."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, models

from buckets.journal_format import Line
from buckets.models import Upload
from buckets.services.bulk import insert_rows, run_in
from buckets.services.confirm import OBJECT_COLUMNS
from buckets.services.journal_rows import TABLES

AT_ONCE = 2000
_CHUNK_COLUMNS = (
    *("object_id", "upload_id", '"index"', "volume_id"),
    *("needle", "size", "crc32", "committed_at", "verdict"),
)
_DEAD_COLUMNS = (
    *("needle", "volume_id", "reason", "verdict", "created_at", "not_before"),
    *("keep_until", "tombstoned_at", "sequence"),
)

UploadChunk = tuple[int, int, int, int, str, Any]
"""Volume, needle, size, CRC-32, when it was committed, verdict."""


class Loader:
    """Takes lines in the order in which they were told."""

    def __init__(self) -> None:
        self.pages: dict[tuple[str, str], tuple[int, list[str], list[list[Any]]]] = {}
        self.upload_chunks: dict[tuple[str, int], UploadChunk] = {}
        self.highest_bucket = self.highest_key = 0
        self.removed: dict[tuple[int, str], datetime] = {}
        """Keys that were removed lately, and when."""

    def take(self, lines: Iterable[Line], *, read_us: int, is_snapshot: bool) -> None:
        """One part. Of an entry's keys those that are gone come first, and are removed.

        A snapshot tells only when keys were removed: what it has of them was put again.
        """
        objects: list[Line] = []
        dead: list[Line] = []
        gone: list[Line] = []
        for line in lines:
            kind = line[0]
            if kind == "object":
                objects.append(line)
                if len(objects) >= AT_ONCE:
                    self.remove(gone)
                    self.put(objects)
                    gone, objects = [], []
            elif kind == "removed" and is_snapshot:
                self.note_removed([line])
            elif kind == "removed":
                gone.append(line)
            elif kind == "dead":
                dead.append(line)
            elif kind == "chunk":
                _, upload, index, volume_id, needle, size, crc32, committed_at, verdict = line
                self.upload_chunks[upload, index] = (volume_id, needle, size, crc32, committed_at, verdict)
            elif kind == "ids":
                self.highest_bucket = max(self.highest_bucket, line[1])
                self.highest_key = max(self.highest_key, line[2])
            elif kind == "page":
                _, table, page, columns, rows = line
                known = self.pages.get((table, page))
                if known is None or known[0] <= read_us:
                    self.pages[table, page] = (read_us, columns, rows)
        self.remove(gone)
        self.put(objects)
        self.bury(dead)

    def note_removed(self, lines: Iterable[Line]) -> None:
        """Of a snapshot: when keys were removed. Other stretches of it may hold them again."""
        for line in lines:
            _, bucket_id, key, _, removed_at = line
            at = datetime.fromisoformat(removed_at)
            self.removed[bucket_id, key] = max(at, self.removed.get((bucket_id, key), at))

    def remove(self, lines: list[Line]) -> None:
        self.note_removed(lines)
        for bucket_id, keys in _by_bucket((line[1], line[2]) for line in lines).items():
            remove_objects(bucket_id, keys)

    def put(self, lines: list[Line]) -> None:
        """Objects with their chunks, in the place of what these keys hold."""
        unique = {(line[1], line[2]): line for line in lines}
        for bucket_id, keys in _by_bucket(unique).items():
            remove_objects(bucket_id, keys)
        adapt = connection.ops.adapt_datetimefield_value
        ids = {
            (bucket_id, key): object_id
            for object_id, bucket_id, key in insert_rows(
                into="buckets_object",
                columns=OBJECT_COLUMNS,
                rows=[
                    (
                        *line[1:6],
                        json.dumps(line[6], ensure_ascii=False),
                        adapt(datetime.fromisoformat(line[7])),
                        adapt(datetime.fromisoformat(line[8])),
                        line[9],
                    )
                    for line in unique.values()
                ],
                then="RETURNING id, bucket_id, key",
            )
        }
        insert_rows(
            into="buckets_chunk",
            columns=_CHUNK_COLUMNS,
            rows=[
                (
                    ids[place],
                    None,
                    *chunk[:5],
                    adapt(datetime.fromisoformat(chunk[5])),
                    None if chunk[6] is None else json.dumps(chunk[6], ensure_ascii=False),
                )
                for place, line in unique.items()
                for chunk in line[10]
            ],
        )

    def bury(self, lines: list[Line]) -> None:
        adapt = connection.ops.adapt_datetimefield_value
        rows = []
        for _, needle, volume_id, reason, verdict, *moments, sequence in lines:
            times = [None if moment is None else adapt(datetime.fromisoformat(moment)) for moment in moments]
            rows.append((needle, volume_id, reason, json.dumps(verdict, ensure_ascii=False), *times, sequence))
        insert_rows(into="buckets_outbox", columns=_DEAD_COLUMNS, rows=rows, then="ON CONFLICT (needle) DO NOTHING")

    def rows_of(self, model: type[models.Model]) -> list[models.Model]:
        """The rows of a small table as they were last told; columns that are not known any more are left out."""
        fields = {field.attname: field for field in model._meta.concrete_fields}
        rows = []
        for (table, _), (_, columns, values) in sorted(self.pages.items()):
            if table == model._meta.label_lower:
                rows += [
                    model(
                        **{
                            name: fields[name].to_python(value)
                            for name, value in zip(columns, row, strict=True)
                            if name in fields
                        }
                    )
                    for row in values
                ]
        return rows

    def write_tables(self, *, without: Iterable[type[models.Model]]) -> None:
        """All small tables but those that the caller writes itself."""
        skipped = set(without)
        for table in TABLES:
            if table.model not in skipped:
                table.model._default_manager.bulk_create(self.rows_of(table.model), batch_size=500)

    def write_upload_chunks(self, uploads: Iterable[Upload]) -> None:
        """Chunks of uploads that are in progress; of others they are told as their objects', or as dead."""
        known = {upload.pk.hex: upload.pk for upload in uploads}
        adapt = connection.ops.adapt_datetimefield_value
        insert_rows(
            into="buckets_chunk",
            columns=_CHUNK_COLUMNS,
            rows=[
                (
                    None,
                    _database_uuid(known[upload]),
                    *(index, volume_id, needle, size, crc32),
                    adapt(datetime.fromisoformat(committed_at)),
                    json.dumps(verdict, ensure_ascii=False),
                )
                for (upload, index), (
                    volume_id,
                    needle,
                    size,
                    crc32,
                    committed_at,
                    verdict,
                ) in self.upload_chunks.items()
                if upload in known
            ],
        )


def remove_objects(bucket_id: int, keys: Iterable[str]) -> None:
    """What these keys hold, chunk rows and all."""
    where = f"bucket_id = {int(bucket_id)} AND key IN {{in}}"
    keys = list(keys)
    run_in(f"DELETE FROM buckets_chunk WHERE object_id IN (SELECT id FROM buckets_object WHERE {where})", keys)  # noqa: S608
    run_in(f"DELETE FROM buckets_object WHERE {where}", keys)  # noqa: S608


def _by_bucket(places: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for bucket_id, key in places:
        grouped.setdefault(bucket_id, []).append(key)
    return grouped


def _database_uuid(value: UUID) -> UUID | str:
    return value if connection.features.has_native_uuid_field else value.hex
