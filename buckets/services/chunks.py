"""Chunk rows leave: the needles that nothing names any more are given back, to be put into the outbox."""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from buckets.models import Outbox
from buckets.names import etag_of_needle
from buckets.services.bulk import Row, as_datetime, run_in
from buckets.services.outbox import DeadNeedle, still_named
from buckets.verdicts import Committed, Verdict, from_json, rfc3339


class Owner(NamedTuple):
    """What an object's chunk rows need to know of it."""

    bucket: str
    key: str
    size: int


def take_chunks_of_objects(owners: Mapping[int, Owner], *, reason: Outbox.Reason) -> list[DeadNeedle]:
    """Deletes the chunk rows of these objects (by id); the needles that died of it.

    After `next_sequence` alone, whose row stays locked until the commit: copies of one needle may lie in two buckets,
    and of two transactions that delete one each, neither would see that the other's is gone as well.
    """
    rows = run_in(
        "DELETE FROM buckets_chunk WHERE object_id IN {in} "
        "RETURNING needle, volume_id, verdict, committed_at, object_id",
        owners,
    )
    return _dead(rows, {row[0]: owners[row[4]] for row in rows}, reason=reason, was_readable=True)


def take_chunks_of_uploads(upload_ids: Iterable[object], *, reason: Outbox.Reason) -> list[DeadNeedle]:
    """Deletes the chunk rows that these uploads still own; the needles that died of it.

    ``upload_ids`` as the database's own values (see `database_uuid`).
    """
    rows = run_in(
        "DELETE FROM buckets_chunk WHERE upload_id IN {in} RETURNING needle, volume_id, verdict, committed_at",
        upload_ids,
    )
    return _dead(rows, {}, reason=reason, was_readable=False)


def _dead(
    rows: list[Row], owners: Mapping[int, Owner], *, reason: Outbox.Reason, was_readable: bool
) -> list[DeadNeedle]:
    if not rows:
        return []
    alive = still_named(row[0] for row in rows)
    dead: dict[int, DeadNeedle] = {}
    for needle, volume_id, verdict, committed_at, *_ in rows:
        if needle not in alive and needle not in dead:
            judged_at = as_datetime(committed_at)
            dead[needle] = DeadNeedle(
                needle=needle,
                volume_id=volume_id,
                reason=reason,
                verdict=from_json(json.loads(verdict))
                if verdict is not None
                else first_verdict(needle, owners[needle], rfc3339(judged_at)),
                judged_at=judged_at,
                was_readable=was_readable,
            )
    return list(dead.values())


def first_verdict(needle: int, owner: Owner, committed_at: str) -> Verdict:
    """The verdict that a chunk row need not keep, because it follows from the row's object."""
    return Committed(
        bucket=owner.bucket, key=owner.key, size=owner.size, etag=etag_of_needle(needle), updated_at=committed_at
    )
