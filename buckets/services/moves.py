"""Objects get other keys, and their needles more names: rows alone, in bulk. Under the locks of their buckets."""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from django.conf import settings
from django.db import connection

from buckets.errors import TooManyRows
from buckets.services.bulk import as_datetime, database_uuid, run_in, run_values
from buckets.services.chunks import Owner, first_verdict
from buckets.verdicts import rfc3339

_COPIED = "c.volume_id, c.needle, c.size, c.crc32, c.committed_at, c.verdict"


def require_few(count: int, what: str) -> None:
    """Raises TooManyRows where one commit would rename, copy or delete more than it may.

    Others who write to the bucket (with SQLite and at the end of the commit: to the store) wait meanwhile, and a volume
    server gives its confirms ten seconds. So this is asked before `next_sequence`, or without any work after it.
    """
    limit = settings.WAREHOUSE_COMMIT_ROWS
    if count > limit:
        raise TooManyRows(f"There are {count} {what}; one commit takes {limit}.", count=count, limit=limit)


class Move(NamedTuple):
    """The object of this row gets another key, and is a new version by it."""

    object_id: int
    key_before: str
    key: str
    etag: str


def keep_verdicts(owners: Mapping[int, Owner]) -> None:
    """Writes down the first verdicts of these objects' needles, by object id, as long as they follow from the owners.

    A chunk row without a verdict says: committed under its object's key. That is no longer so under another key, and
    not so of a copy.
    """
    rows = run_in(
        "SELECT id, needle, committed_at, object_id FROM buckets_chunk WHERE verdict IS NULL AND object_id IN {in}",
        owners,
    )
    verdicts = [
        (
            chunk_id,
            json.dumps(
                first_verdict(needle, owners[object_id], rfc3339(as_datetime(committed_at))).as_json(),
                ensure_ascii=False,
            ),
        )
        for chunk_id, needle, committed_at, object_id in rows
    ]
    as_json = "CAST(v.verdict AS jsonb)" if connection.vendor == "postgresql" else "v.verdict"
    run_values(
        f"UPDATE buckets_chunk SET verdict = {as_json} FROM v WHERE buckets_chunk.id = v.id",  # noqa: S608
        columns=("id", "verdict"),
        rows=verdicts,
    )


def move_objects(moves: Sequence[Move], *, sequence: int, now: datetime) -> None:
    """Gives objects of one bucket other keys, which nobody else has (any more). Their verdicts are kept already."""
    keys_before = {move.key_before for move in moves}
    if any(move.key in keys_before for move in moves):
        # Some take the place of others that go as well, in a chain or a circle; no order of rows would do. So all step
        # aside first, to keys that nobody can have guessed.
        run_in(
            f"UPDATE buckets_object SET key = '{uuid.uuid4().hex}' || id WHERE id IN {{in}}",  # noqa: S608 - hex
            [move.object_id for move in moves],
        )
    run_values(
        "UPDATE buckets_object SET key = v.key, etag = v.etag, updated_at = %s, sequence = %s "
        "FROM v WHERE buckets_object.id = v.id",
        columns=("id", "key", "etag"),
        rows=[(move.object_id, move.key, move.etag) for move in moves],
        parameters=(connection.ops.adapt_datetimefield_value(now), sequence),
    )


def count_chunks(object_ids: Sequence[int]) -> dict[int, int]:
    """How many chunks each of these objects has.

    They are numbered from 0 without a gap, so the last one's number tells: one look into the index for each object,
    however many chunks it has.
    """
    last = 'SELECT MAX(c."index") FROM buckets_chunk c WHERE c.object_id = o.id'
    return dict(
        run_in(
            f"SELECT o.id, COALESCE(({last}), -1) + 1 FROM buckets_object o WHERE o.id IN {{in}}",  # noqa: S608
            set(object_ids),
        )
    )


def copy_chunks_of_objects(copies: Sequence[tuple[int, int]]) -> None:
    """Gives the chunks of objects to other ones too: (new object's id, its source's id) each. Verdicts are kept."""
    _copy("object_id", copies)


def copy_chunks_of_uploads(copies: Sequence[tuple[int, uuid.UUID]]) -> None:
    """Gives the chunks of uploads to objects too: (new object's id, upload's id) each."""
    _copy("upload_id", [(object_id, database_uuid(upload_id)) for object_id, upload_id in copies])


def _copy(owner: str, copies: Sequence[tuple[int, object]]) -> None:
    run_values(
        f'INSERT INTO buckets_chunk (object_id, "index", {_COPIED.replace("c.", "")}) '  # noqa: S608 - names alone
        f'SELECT v.target, c."index", {_COPIED} FROM v JOIN buckets_chunk c ON c.{owner} = v.source',
        columns=("target", "source"),
        rows=copies,
    )
