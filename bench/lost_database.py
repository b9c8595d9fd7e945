"""The database of a running store is deleted while clients write; then it is made anew from the volumes.

    python -m bench.lost_database [--objects 100000] [--directory DIR]

An own log of what was acknowledged is the oracle: every key that was put must be there with its ETag (or, where a
later put of it ended in doubt, with that one's), every one whose deletion was journalled must be gone. Prints how long
each step took; exit code 1 when something is missing.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.api import Api, Lease, put_headers
from tests.support.programs import ROOT
from tests.support.store import Store
from tests.support.waiting import wait_until

THREADS = 48
LEASE = 1000
BUCKET = "many"
CREATED = 201
MOST_BYTES = 2048


@dataclass
class Oracle:
    """What was acknowledged: key to ETag."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    """Keys whose last put was answered with an error, or not at all: it may have been committed, or not."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def note(self, some: dict[str, str], doubtful: set[str]) -> None:
        with self.lock:
            self.acknowledged |= some
            self.doubtful |= doubtful


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warehouse-lost-", dir=options.directory) as directory:
        return run(Path(directory), options.objects)


def run(directory: Path, count: int) -> int:
    oracle = Oracle()
    with Store(directory, volume_servers=2) as store:
        api = store.api()
        api.make_bucket(BUCKET)
        began = time.monotonic()
        put_many(api, oracle, [f"key/{number:07d}" for number in range(count)])
        seconds = time.monotonic() - began
        print(f"{count:,} objects put in {seconds:.1f} s, {count / seconds:,.0f}/s")
        gone = [f"key/{number:07d}" for number in range(0, count, 100)]
        for at in range(0, len(gone), 1000):
            api.post(f"buckets/{BUCKET}/delete", {"keys": gone[at : at + 1000]}, status=200)
        for key in gone:
            oracle.acknowledged.pop(key, None)
        began = time.monotonic()
        wait_until(lambda: api.get("health")["journal"]["commits_behind"] == 0, what="the journal")
        print(f"journal up to date {time.monotonic() - began:.1f} s after the last commit")

        writer = threading.Thread(target=write_on, args=(api, oracle))
        writer.start()
        time.sleep(1.5)
        for path in store.data.glob("db.sqlite3*"):
            path.unlink()
        time.sleep(1.5)  # the master's open file takes commits on, into nowhere, until it notices
        oracle.stop.set()
        writer.join()
        store.stop(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{part.pid}").exists() for part in store.parts), what="the end")

        began = time.monotonic()
        env = {**store.env, "WAREHOUSE_DATA": str(store.data)}
        command = [sys.executable, "manage.py", "rebuild", "--from", str(store.data / "volumes"), "--json"]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        if not done.stdout:
            print(done.stderr)
            return 1
        report = json.loads(done.stdout)
        print(
            f"rebuilt in {time.monotonic() - began:.1f} s: {report['counts']['objects']:,} objects, "
            f"{len(report['late']):,} of them from after the journal's end, {len(report['uncertain'])} uncertain, "
            f"{len(report['unreadable'])} unreadable, {report['commits_unknown']} commits beyond the journal"
        )
        store.start()
        return check(store.api(), oracle, gone)


def check(api: Api, oracle: Oracle, gone: list[str]) -> int:
    found: dict[str, str] = {}
    after = ""
    while True:
        page = api.get(f"buckets/{BUCKET}/objects?limit=1000&after={after}")
        found |= {one["key"]: one["etag"] for one in page["results"]}
        if page["next_after"] is None:
            break
        after = page["next_after"]
    missing = [
        key
        for key, etag in oracle.acknowledged.items()
        if key not in found or (found[key] != etag and key not in oracle.doubtful)
    ]
    risen = [key for key in gone if key in found and key not in oracle.acknowledged]  # some were put again
    sample = random.sample(sorted(oracle.acknowledged), min(500, len(oracle.acknowledged)))
    wrong = [key for key in sample if api.read(BUCKET, key)[: len(key)] != key.encode()]
    print(
        f"{len(oracle.acknowledged):,} acknowledged, {len(oracle.doubtful)} in doubt: "
        f"{len(missing)} missing or of another version, {len(risen)} deleted ones back, "
        f"{len(wrong)} of {len(sample)} read wrong"
    )
    return 1 if missing or risen or wrong else 0


def put_many(api: Api, oracle: Oracle, keys: list[str]) -> None:
    parts = [keys[at : at + LEASE] for at in range(0, len(keys), LEASE)]
    with ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(lambda part: put_lease(api, part, threading.Event()), parts):
            oracle.note(*done)


def write_on(api: Api, oracle: Oracle) -> None:
    """Puts and overwrites until asked to stop; what is refused on the way was not acknowledged."""
    with ThreadPoolExecutor(4) as pool:
        leases = [[f"late/{number}/{at}" for at in range(LEASE)] for number in range(4)]
        leases[0] = [f"key/{number:07d}" for number in range(1, LEASE)]
        for done in pool.map(lambda part: put_lease(api, part, oracle.stop), leases):
            oracle.note(*done)


def put_lease(api: Api, keys: list[str], stop: threading.Event) -> tuple[dict[str, str], set[str]]:
    """Puts under one lease over one connection; the ETags of what was acknowledged, and the keys in doubt."""
    lease: Lease = api.lease(BUCKET, count=len(keys), max_bytes=MOST_BYTES)
    parts = urlsplit(lease.url)
    connection = HTTPConnection(parts.hostname or "", parts.port)
    done: dict[str, str] = {}
    doubtful: set[str] = set()
    try:
        for slot, key in enumerate(keys):
            if stop.is_set():
                break
            body = key.encode() + os.urandom(random.randrange(1, 1000))
            target = urlsplit(lease.url_of(slot))
            doubtful.add(key)
            connection.request("PUT", f"{target.path}?{target.query}", body, put_headers(key))
            answer = connection.getresponse()
            raw = answer.read()
            if answer.status == CREATED:
                done[key] = json.loads(raw)["etag"]
                doubtful.discard(key)
    except OSError:
        pass  # nobody answers any more: what was acknowledged before counts
    finally:
        connection.close()
    return done, doubtful


if __name__ == "__main__":
    sys.exit(main())
