"""The background work by real workers over both brokers: kept account of, killed, doubled, its broker restarted."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STORE_KINDS, StartStore
from tests.support.api import Api, send
from tests.support.programs import missing, start, stop
from tests.support.redis_server import RedisServer
from tests.support.store import Part, Store
from tests.support.waiting import wait_until

CHECK = "volumes.tasks.check_servers"
COLLECT = "buckets.tasks.collect_outbox"


def task(api: Api, name: str) -> dict[str, Any]:
    return dict(api.get(f"tasks/{name}"))


def health(store: Store) -> dict[str, Any]:
    """Asked without a token: a probe has none."""
    return dict(send("GET", f"{store.url}/api/v1/health").json)


def part_of(store: Store, name: str) -> Part:
    """The first process of that name."""
    return min((part for part in store.parts if part.name == name), key=lambda part: part.pid)


def wait_for_work(store: Store, *, since: datetime) -> None:
    """Until the schedule's tasks run again: beat sends, a worker takes."""
    api = store.api()

    def ran(name: str) -> bool:
        found = task(api, name)
        return bool(found["ended_at"]) and datetime.fromisoformat(found["started_at"]) > since

    for name in (CHECK, COLLECT):
        wait_until(lambda name=name: ran(name), what=f"a run of {name}")


@pytest.mark.parametrize("kind", STORE_KINDS[:1])
def test_what_runs_is_seen_and_a_killed_worker_is_missed(start_store: StartStore, tmp_path: Path, kind: str) -> None:
    with start_store(tmp_path, kind=kind) as store:
        api = store.api()
        wait_for_work(store, since=datetime(1970, 1, 1, tzinfo=UTC))
        checked = task(api, CHECK)
        assert checked["status"] in {"done", "running"}
        assert checked["result"] == {"answered": 2, "failed": 0}
        assert checked["next_run_at"] > checked["started_at"]
        told = health(store)
        assert (told["status"], told["worker"], told["beat"], told["tasks_failed"]) == ("ok", "alive", "alive", [])

        # Asked for by hand, long before it is due.
        api.post("tasks/buckets.tasks.sample_usage/run", None, status=202)
        api.post("tasks/keys.tasks.prune_audit/run", None, status=202)
        wait_until(lambda: task(api, "keys.tasks.prune_audit")["status"] == "done", what="the task that was asked for")
        assert task(api, "keys.tasks.prune_audit")["result"] == {"pruned": 0}
        assert task(api, "keys.tasks.prune_audit")["next_run_at"] is None  # it never ran by the schedule
        point = wait_until(lambda: api.get("usage/history")["results"], what="a sample of the usage")[0]
        assert (point["servers_online"], point["puts_per_s"]) == (2, None)

        # A worker that is killed in the middle of a run: servers that do not answer make it last.
        for server in store.servers:
            os.kill(server.pid, signal.SIGSTOP)
        wait_until(lambda: task(api, CHECK)["status"] == "running", what="a run under way")
        worker = part_of(store, "worker")
        worker.kill()
        for server in store.servers:
            os.kill(server.pid, signal.SIGCONT)
        assert task(api, CHECK)["status"] == "running"
        store.run_python(
            "from django.utils import timezone; from volumes.models import BackgroundTask; "
            f"BackgroundTask.objects.filter(pk='{CHECK}').update(deadline_at=timezone.now())",
        )
        assert task(api, CHECK)["status"] == "lost"
        assert CHECK in health(store)["tasks_failed"]
        api.put(api.make_bucket("b"), "k", b"objects need no worker")
        usage = wait_until(lambda: (told := api.get("usage"))["puts"] and told, what="the traffic in a heartbeat")
        assert usage["object_count"] == 1  # the journal's needles are puts as well, and no objects
        assert sum(one["puts"] for one in usage["by_server"]) >= usage["puts"]  # read a moment later

        killed_at = datetime.now(UTC)
        worker.restart(store.log)
        wait_for_work(store, since=killed_at)
        wait_until(lambda: task(api, CHECK)["status"] == "done", what="the next run")
        assert task(api, CHECK)["losses"] == 1
        assert health(store)["tasks_failed"] == []

        # One that is stopped in good order is not missed.
        worker.kill(signal.SIGTERM)
        names = store.run_python(
            "from volumes.models import Worker; print(*Worker.objects.values_list('name', flat=True))"
        )
        assert not any(name.endswith(f"/{worker.pid}") for name in names.split())


@contextmanager
def restartable_redis() -> Iterator[RedisServer]:
    if not RedisServer.is_installed():
        missing("Redis")
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("kind", ["filesystem", "redis"])
def test_a_broker_may_lose_all_that_it_holds(start_store: StartStore, tmp_path: Path, kind: str) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(restartable_redis()) if kind == "redis" else None
        env = {} if redis is None else {"REDIS_URL": redis.url()}
        store = stack.enter_context(start_store(tmp_path, env=env, volume_servers=1))
        wait_for_work(store, since=datetime(1970, 1, 1, tzinfo=UTC))
        if redis is not None:
            redis.restart(how=signal.SIGKILL)
        else:
            for message in (store.data / "broker" / "queue").glob("*"):
                message.unlink(missing_ok=True)
        wait_for_work(store, since=datetime.now(UTC))


@pytest.mark.parametrize("kind", STORE_KINDS[1:])
def test_two_workers_and_two_beats_and_one_of_each_killed(start_store: StartStore, tmp_path: Path, kind: str) -> None:
    """A bucket is deleted by them all at once; nothing is counted, buried or compacted twice."""
    objects = 1_500
    env = {"WAREHOUSE_JOURNAL_SECONDS": "0"}  # whose own needles are buried, too
    with start_store(tmp_path, kind=kind, env=env, volume_servers=1) as store:
        api = store.api()
        worker, beat = part_of(store, "worker"), part_of(store, "beat")
        beat_argv = list(beat.argv)
        beat_argv[beat_argv.index("--schedule") + 1] = str(tmp_path / "schedule")
        others = [
            start([*worker.argv, "--hostname", "second@%h"], env=worker.env, log=tmp_path / "worker.log"),
            start(beat_argv, env=beat.env, log=tmp_path / "beat.log"),
        ]
        try:
            lease = api.lease(api.make_bucket("b"), count=objects, max_bytes=100)
            with ThreadPoolExecutor(16) as pool:
                statuses = set(pool.map(lambda slot: lease.put(slot, f"k{slot:05}", b"x").status, range(objects)))
            assert statuses == {201}
            api.put(api.make_bucket("kept"), "k", b"kept")
            answer = api.request("DELETE", "buckets/b?force=true")
            assert answer.status == 202, answer
            worker.kill()
            beat.kill()

            def is_gone() -> bool:
                return api.request("GET", "buckets/b").status == 404

            wait_until(is_gone, what="the end of the bucket")
            worker.restart(store.log)
            wait_for_work(store, since=datetime.now(UTC))
            buried = store.run_python(
                "from buckets.models import Outbox; from buckets.selectors.buckets import wrong_counts; "
                "print(Outbox.objects.count(), Outbox.objects.filter(reason='deleted').count(), wrong_counts())",
            )
            assert buried == f"{objects} {objects} []"
            assert api.read("kept", "k") == b"kept"
            assert health(store)["worker"] == "alive"
        finally:
            for other in others:
                stop(other)


def test_garbage_is_compacted_by_the_worker(start_store: StartStore, tmp_path: Path) -> None:
    env = {"WAREHOUSE_WRITABLE_VOLUMES": "1", "WAREHOUSE_COMPACT_RATE": "0"}
    with start_store(tmp_path, volume_servers=1, env=env) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        bodies = {f"k{number}": os.urandom(100_000) for number in range(40)}
        lease = api.lease(bucket, count=len(bodies), max_bytes=100_000)

        def replica() -> dict[str, Any]:
            [found] = api.get(f"volumes/{lease.volume}")["replicas"]
            return dict(found)

        for slot, (key, body) in enumerate(bodies.items()):
            assert lease.put(slot, key, body).status == 201
        revision = replica()["revision"]
        dead = [key for number, key in enumerate(bodies) if number % 4]
        api.post(f"buckets/{bucket}/delete", {"keys": dead}, status=200)
        [before] = store.volume_files().values()
        store.run_python(
            "from django.utils import timezone; from buckets.models import Outbox; "
            "Outbox.objects.update(not_before=timezone.now())",
        )

        wait_until(lambda: replica()["garbage_bytes"] > 2_900_000, what="the tombstones")
        api.post("tasks/volumes.tasks.compact_garbage/run", None, status=202)
        wait_until(lambda: replica()["revision"] == revision + 1, what="the compaction")
        [after] = store.volume_files().values()
        assert before - after > 2_900_000
        assert {key: api.read(bucket, key) for key in bodies if key not in dead} == {
            key: body for key, body in bodies.items() if key not in dead
        }
        # What is left are tombstones whose leases are still good: no reason to compact it again.
        wait_until(lambda: replica()["compaction"]["state"] == "done", what="its end in the figures")
        runs = task(api, "volumes.tasks.compact_garbage")["runs"]
        api.post("tasks/volumes.tasks.compact_garbage/run", None, status=202)
        wait_until(
            lambda: (now := task(api, "volumes.tasks.compact_garbage"))["runs"] > runs and now["status"] == "done",
            what="another look",
        )
        assert task(api, "volumes.tasks.compact_garbage")["result"]["due"] == 0
        assert replica()["revision"] == revision + 1
