"""Rows as the services would have made them, and reports as a volume server would send them."""

import time
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from volumes.models import SALT_BYTES, Replica, Server, Volume

GIB = 1 << 30
_numbers = count(1)


def make_server(**fields: Any) -> Server:
    """A server that was heard just now."""
    number = next(_numbers)
    row = {
        "id": uuid4(),
        "node": f"n{number}",
        "public_url": f"http://127.0.0.1:{20000 + number}",
        "internal_url": f"http://127.0.0.1:{20000 + number}",
        "instance": f"instance-{number}",
        "capacity_bytes": 100 * GIB,
        "free_bytes": 50 * GIB,
        "last_seen_at": timezone.now(),
        "proven": True,
    }
    return Server.objects.create(**(row | fields))


def make_volume(server: Server, **fields: Any) -> Volume:
    """A writable volume whose one replica is open on the server; ``replica`` holds fields of that."""
    replica = fields.pop("replica", {})
    row = {
        "id": next(_numbers),
        "salt": bytes(SALT_BYTES),
        "created_ms": int(time.time() * 1000),
        "state": Volume.State.WRITABLE,
    }
    row["opened_epoch"] = fields.get("epoch", 1)
    volume = Volume.objects.create(**(row | fields))
    known = {
        "state": Replica.State.OPEN,
        "epoch": volume.epoch,
        "whole_epoch": volume.epoch,
        "reported_at": timezone.now(),
    }
    Replica.objects.create(volume=volume, server=server, **(known | replica))
    return volume


def figures(volume: int, **fields: Any) -> dict[str, Any]:
    return {
        "volume": volume,
        "epoch": 1,
        "revision": 0,
        "state": "open",
        "size_bytes": 8192,
        "garbage_bytes": 0,
        "live_count": 0,
        "tombstone_count": 0,
        "damaged_count": 0,
        "compaction": None,
        "scrub": None,
        "scrubbed_ms": None,
    } | fields


def job(**fields: Any) -> dict[str, Any]:
    """A scrub that runs; a compaction with ``reclaimed_bytes``."""
    return {
        "state": "running",
        "done_bytes": 25,
        "total_bytes": 100,
        "detail": "",
        "started_ms": 1_700_000_000_000,
        "ended_ms": None,
    } | fields


def heartbeat_body(server: UUID, instance: str, **fields: Any) -> dict[str, Any]:
    return {
        "server": str(server),
        "instance": instance,
        "capacity_bytes": 100 * GIB,
        "free_bytes": 50 * GIB,
        "store": "",
        "sequence": 0,
        "volumes": [],
    } | fields


def register_body(server: UUID, instance: str, **fields: Any) -> dict[str, Any]:
    return (
        heartbeat_body(server, instance)
        | {
            "node": "n1",
            "public_url": "http://127.0.0.1:8081",
            "internal_url": "http://127.0.0.1:9081",
            "version": "1",
        }
        | fields
    )
