"""The proof on a real store: sound under load, and everything that is wrong told, with both databases and brokers."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STORE_KINDS, StartStore
from tests.support.api import Api, send
from tests.support.store import CHUNK_SIZE, WRITE_TOMBSTONES, Store
from tests.support.waiting import wait_until

_PAUSE_S = 0.05
"""Between two rounds of a load: it is to change everything, and leave the check some of the machine."""
SOUND = "0 missing, 0 orphaned, 0 divergent"
OLD = (
    "from django.core.management import call_command; from buckets.services import fsck; fsck.MARGIN_S = -100_000; "
    "call_command('fsck')"
)
"""A check for which every needle is older than its lease."""


@pytest.fixture(scope="module", params=STORE_KINDS)
def store(
    request: pytest.FixtureRequest, start_store: StartStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    directory = tmp_path_factory.mktemp("proof")
    env = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE)}
    with start_store(directory, kind=request.param, env=env, worker=False) as running:
        yield running


@pytest.fixture
def manage(store: Store) -> Callable[..., list[str]]:
    def run(*arguments: str, code: int = 0) -> list[str]:
        done = store.manage(*arguments)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done.stdout.splitlines()

    return run


class Load:
    """Puts, overwrites, copies, uploads and deletes, until it is told to stop; each thread in keys of its own."""

    def __init__(self, api: Api, bucket: str) -> None:
        self.api = api
        self.bucket = bucket
        self.rounds = 0
        self.errors: list[BaseException] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        api, bucket = Api(self.api.url, self.api.key), self.bucket
        try:
            while not self._stopping.is_set():
                for slot in range(5):
                    api.put(bucket, f"{number}/{slot}", os.urandom(500))
                api.put_chunks(bucket, f"{number}/large", os.urandom(2 * CHUNK_SIZE + 7))
                copies = [{"from": f"{number}/1", "to": f"{number}/copy"}]
                api.post(f"buckets/{bucket}/copy", {"copies": copies}, status=200)
                api.post(f"buckets/{bucket}/delete", {"keys": [f"{number}/1", f"{number}/large"]}, status=200)
                self.rounds += 1
                self._stopping.wait(_PAUSE_S)
        except BaseException as error:
            self.errors.append(error)
            raise


def test_a_store_under_load_is_sound_and_what_is_wrong_is_told(store: Store, manage: Callable[..., list[str]]) -> None:
    api = store.api()
    bucket = api.make_bucket("b")
    for number in range(10):
        api.put(bucket, f"small/{number}", os.urandom(300))
    with Load(api, bucket) as load:
        assert manage("fsck")[-1] == SOUND
        store.write_tombstones()
        rounds = load.rounds
        assert manage("fsck", "--deep")[-1] == SOUND
        wait_until(lambda: load.errors or load.rounds > rounds, what="a round of the load")
    assert load.errors == []
    lines = manage("shell", "--verbosity", "0", "--command", f"{WRITE_TOMBSTONES}; {OLD}")
    assert lines[-1] == SOUND, "nothing that was refused is left over"

    # A put whose confirm never comes is garbage; it is told as such when it is old enough.
    lease = api.lease(bucket)
    store.stop_master()
    assert lease.put(0, "lost", b"lost").status == 503
    store.start_master()
    store.wait_for_servers()
    assert manage("fsck")[-1] == SOUND
    assert manage("shell", "--verbosity", "0", "--command", OLD, code=1)[-1] == "0 missing, 1 orphaned, 0 divergent"

    # A row whose needle is gone, named by its object.
    [chunk] = api.look_up(bucket, "small/3")["small/3"]["chunks"]
    path = chunk["urls"][0].split("?")[0]
    volume, needle = int(path.split("/")[-2]), path[-16:]
    manage(
        "shell", "--verbosity", "0", "--command",
        "from volumes import client; from volumes.selectors import primaries_of; "
        f"client.delete_needles(primaries_of([{volume}])[{volume}], {volume}, [int('{needle}', 16)])",
    )  # fmt: skip
    lines = manage("fsck", code=1)
    assert lines[-1] == "1 missing, 0 orphaned, 0 divergent"
    [told] = [line for line in lines if needle in line]
    assert told.startswith(f"missing, volume {volume} on ")
    assert f"object 'small/3' in bucket '{bucket}', chunk 0" in told
    api.post(f"buckets/{bucket}/delete", {"keys": ["small/3"]}, status=200)
    assert manage("fsck")[-1] == SOUND
    last = api.get("proof")["last"]
    assert (last["verdict"], last["state"]) == (SOUND, "done")

    # A server that is away: nothing is known of what it holds, and nothing of it is missing.
    part = store.servers[0]
    part.kill(signal.SIGTERM)
    store.wait_for_servers(lambda status: status in {"online", "offline"})
    lines = manage("fsck", code=1)
    assert lines[-1].startswith(f"{SOUND}, ")
    assert lines[-1].endswith(" unknown")
    store.restart_servers(part)
    assert manage("fsck")[-1] == SOUND


def test_a_worker_checks_what_is_asked_for_and_sweeps(start_store: StartStore, tmp_path: Path) -> None:
    env = {
        "WAREHOUSE_LEASE_SECONDS": "20", "WAREHOUSE_CHUNK_URL_SECONDS": "20", "WAREHOUSE_CONFIRM_GRACE_SECONDS": "0",
        "WAREHOUSE_SWEEP_SECONDS": "1",
    }  # fmt: skip
    with start_store(tmp_path, env=env, volume_servers=1) as store:
        api = store.api()
        api.put(api.make_bucket("b"), "k", b"bytes")
        made = api.post("proof", {}, status=202)

        def done() -> Any:
            last = api.get("proof")["last"]
            return last if last and last["id"] >= made["id"] else None

        last = wait_until(done, what="the check")
        assert (last["verdict"], last["row_count"]) == (SOUND, 1)
        assert send("GET", api.look_up("b", "k")["k"]["chunks"][0]["urls"][0]).body == b"bytes"
