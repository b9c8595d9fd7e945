"""Confirm, in process: objects a second in batches, against one confirm an object.

    python -m bench.confirm [--seconds 3] [--batch 64 200] [--profile]

Runs on a database of its own: SQLite in a temporary folder, or the one that DATABASE_URL names, which must be empty.
"""

import argparse
import cProfile
import json
import os
import pstats
import tempfile
import time
import uuid
from collections.abc import Iterator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size of batch")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 200], help="sizes of batches")
    parser.add_argument("--overwrite", action="store_true", help="write the same keys again and again")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warehouse-bench-") as data:
        os.environ["WAREHOUSE_DATA"] = data
        os.environ["DJANGO_SETTINGS_MODULE"] = "warehouse_site.settings"
        import django

        django.setup()
        _set_up()
        single = _run(1, options.seconds, options.overwrite)
        print(f"one object a confirm: {single:,.0f} objects/s")
        for size in options.batch:
            profile = cProfile.Profile() if options.profile else None
            if profile:
                profile.enable()
            rate = _run(size, options.seconds, options.overwrite)
            if profile:
                profile.disable()
                pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
            print(f"batches of {size}: {rate:,.0f} objects/s, {rate / single:.1f} times as many")


def _set_up() -> None:
    from django.core.management import call_command
    from django.utils import timezone

    from buckets.services.buckets import create_bucket
    from keys.permissions import Permission
    from keys.secrets import ensure_secrets
    from keys.services.keys import create_key
    from volumes.models import Replica, Server, Volume

    ensure_secrets()
    call_command("migrate", verbosity=0)
    create_key(actor=None, name="bench", permissions=int(Permission.OBJECTS_WRITE))
    create_bucket(name="bench")
    server = Server.objects.create(
        id=uuid.uuid4(),
        node="n1",
        public_url="http://127.0.0.1:1",
        internal_url="http://127.0.0.1:1",
        instance="bench",
        capacity_bytes=1 << 40,
        free_bytes=1 << 39,
        last_seen_at=timezone.now(),
    )
    volume = Volume.objects.create(id=1, salt=bytes(16), created_ms=0, state=Volume.State.WRITABLE)
    Replica.objects.create(volume=volume, server=server, state=Replica.State.OPEN, epoch=1, reported_at=timezone.now())


def _run(size: int, seconds: float, overwrite: bool) -> float:
    """Objects a second, from the body of the request to the body of the answer."""
    from django.utils import timezone

    from buckets.batch import parse_batch
    from buckets.models import Bucket
    from buckets.services.confirm import confirm_needles
    from keys.models import ApiKey
    from volume_server.intent import MAX_COUNT, Intent, pack, to_text
    from volumes.models import Server
    from volumes.services.leases import reserve_lease_number
    from volumes.services.presign import intent_secret

    server, bucket, key = Server.objects.get(), Bucket.objects.get(), ApiKey.objects.get()
    needles: Iterator[int] = iter(())
    text = ""
    done = 0
    spent = 0.0
    while spent < seconds:
        taken = [needle for _, needle in zip(range(size), needles, strict=False)]
        if len(taken) < size:
            first = reserve_lease_number() << 16
            needles = iter(range(first, first + MAX_COUNT))
            taken = [next(needles) for _ in range(size)]
            intent = Intent(
                volume=1,
                first=first,
                count=MAX_COUNT,
                epoch=1,
                max_bytes=4096,
                bucket_id=bucket.pk,
                bucket=bucket.name,
                api_key=key.pk,
                generation=key.generation,
                expires_at=int(timezone.now().timestamp()) + 900,
            )
            text = to_text(pack(intent, intent_secret(intent.secret_id)))
        body = json.dumps(
            {
                "deadline_ms": int(time.time() * 1000) + 10_000,
                "intents": [text],
                "needles": [
                    [0, f"{needle:016x}", 1024, 1, _key(at, needle, overwrite), "text/plain", None, None, False, 0]
                    for at, needle in enumerate(taken)
                ],
            }
        )
        before = time.perf_counter()
        verdicts = confirm_needles(server=server.pk, batch=parse_batch(json.loads(body))).verdicts
        answer = json.dumps([verdict.as_json() for verdict in verdicts])
        spent += time.perf_counter() - before
        assert answer.count('"committed"') == size
        done += size
    return done / spent


def _key(at: int, needle: int, overwrite: bool) -> str:
    return f"dir{at % 7}/{at if overwrite else needle}"


if __name__ == "__main__":
    main()
