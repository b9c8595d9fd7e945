"""What a lease and a placement cost in a store of so many servers: rows alone, no server runs (`bench.cluster`).

Run in an empty data directory: `python -m bench.placement SERVERS VOLUMES SECONDS`; prints one JSON object.
"""

import json
import os
import sys
import time
from datetime import timedelta
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")
GIB = 1 << 30
OPEN_A_SERVER = 2


def main() -> int:
    servers, volumes, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    django.setup()
    from django.core.management import call_command

    from keys.secrets import ensure_secrets

    ensure_secrets()
    call_command("migrate", verbosity=0)
    _make_rows(servers, volumes)
    print(json.dumps(_measure(seconds)))
    return 0


def _make_rows(servers: int, volumes: int) -> None:
    """Every volume on two servers; of each server's, two take records."""
    from django.db import transaction
    from django.utils import timezone

    from buckets.services.buckets import BucketSettings, create_bucket
    from volumes.models import Replica, Server, Volume

    now = timezone.now()
    ids = [UUID(int=number + 1) for number in range(servers)]
    with transaction.atomic():
        Server.objects.bulk_create(
            Server(
                pk=pk,
                node=f"n{number}",
                public_url=f"http://10.0.0.1:{10_000 + number}",
                internal_url=f"http://10.0.0.1:{10_000 + number}",
                instance="bench",
                capacity_bytes=1000 * GIB,
                free_bytes=500 * GIB,
                # Nobody reports, and none shall fall silent meanwhile.
                last_seen_at=now + timedelta(hours=1),
            )
            for number, pk in enumerate(ids)
        )
        takes = servers * OPEN_A_SERVER
        Volume.objects.bulk_create(
            Volume(
                pk=number + 1,
                salt=bytes(16),
                created_ms=1,
                replication=2,
                state=Volume.State.WRITABLE if number < takes else Volume.State.FULL,
            )
            for number in range(volumes)
        )
        Replica.objects.bulk_create(
            Replica(
                volume_id=number + 1,
                server_id=ids[(number + shift * (1 + number // servers)) % servers],
                role=Replica.Role.SECONDARY if shift else Replica.Role.PRIMARY,
                state=Replica.State.OPEN,
                epoch=1,
                whole_epoch=1,
                size_bytes=8192,
                reported_at=now,
            )
            for number in range(volumes)
            for shift in ((0, 1) if (1 + number // servers) % servers else (0,))
        )
        create_bucket(name="bench", settings=BucketSettings(replication=2))


def _measure(seconds: float) -> dict[str, float]:
    from buckets.services.leases import issue_lease
    from keys.permissions import ALL_PERMISSIONS
    from keys.selectors import rights_of_row
    from keys.services.keys import create_key
    from volumes.services.placement import pick

    holder = rights_of_row(create_key(actor=None, name="bench", permissions=int(ALL_PERMISSIONS)).key)
    figures = {}
    for name, call in (
        ("pick", lambda: pick(needed_bytes=1000, replication=2)),
        ("spread", lambda: pick(needed_bytes=1000, count=16, replication=2)),
        ("lease", lambda: issue_lease(bucket="bench", holder=holder, count=100, max_bytes=1000)),
    ):
        call()
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            call()
            took.append(time.perf_counter() - began)
        took.sort()
        figures[f"{name}_us"] = 1e6 * sum(took) / len(took)
        figures[f"{name}_p99_us"] = 1e6 * took[len(took) * 99 // 100]
    return figures


if __name__ == "__main__":
    sys.exit(main())
