"""`python -m volume_server` as a process of its own: joining, flat memory, one owner, a stop that finishes."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import ROOT
from tests.support.waiting import wait_until
from tests.unit.volume_server.fake_master import STORE, FakeMaster
from tests.unit.volume_server.serving import FIRST, Wire, get_url, lease, put_url, request

CHUNK = 80 << 20
GROWTH_ALLOWED_BYTES = 24 << 20
"""Far below a chunk, above what Python and malloc do by the way."""


class Process:
    def __init__(self, directory: Path, master: FakeMaster, *options: str, may_join: bool = True) -> None:
        arguments = ["--data", str(directory), "--port", "0", "--master", master.url, "--node", "n1", *options]
        if may_join:
            arguments += ["--join-token", "t"]
        self.log = directory.parent / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "volume_server", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.port = 0

    def ready(self, master: FakeMaster) -> "Process":
        """Until it has joined and has volume 1."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, (line, self.log.read_text())
        self.port = int(found[1])
        wait_until(lambda: any(body.get("volumes") for _, body in master.calls), what="volume 1")
        return self

    def wire(self) -> Wire:
        return Wire(self.port)

    def peak_bytes(self) -> int:
        """The most memory that it ever had resident."""
        [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(line) * 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    with FakeMaster() as started:
        started.instructions = [{"do": "create", "volume": 1, "salt": "ab" * 16, "created_ms": 5, "epoch": 1}]
        yield started


@contextmanager
def started(directory: Path, master: FakeMaster, *options: str) -> Iterator[Process]:
    master.calls.clear()
    process = Process(directory, master, *options)
    try:
        yield process.ready(master)
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.process.wait()


def test_memory_stays_flat_for_a_chunk_both_ways(tmp_path: Path, master: FakeMaster) -> None:
    with started(tmp_path / "data", master) as process:
        url = put_url(FIRST, lease(max_bytes=CHUNK))
        process.wire().send(request("PUT", put_url(FIRST + 1), bytes(600_000))).answer()
        before = process.peak_bytes()
        body = os.urandom(1 << 20) * (CHUNK >> 20)
        wire = process.wire()
        wire.send(request("PUT", url, body))
        assert wire.answer().status == 201
        wire.send(request("PUT", url, body))
        assert wire.answer().status == 201  # compared with what is there
        wire.send(request("GET", get_url()))
        assert wire.answer().body == body
        assert process.peak_bytes() - before < GROWTH_ALLOWED_BYTES


def test_stop_finishes_what_is_in_flight_and_signs_off(tmp_path: Path, master: FakeMaster) -> None:
    data = tmp_path / "data"
    with started(data, master) as process:
        body = os.urandom(600_000)
        uploading = process.wire().send(
            request("PUT", put_url(FIRST, lease()), Content_Length="600000") + body[:300_000]
        )
        idle = process.wire().send(request("GET", "/healthz"))
        assert idle.answer().status == 200
        process.process.send_signal(signal.SIGTERM)
        assert idle.at_end()
        with pytest.raises(OSError, match="refused"):
            process.wire()
        uploading.send(body[300_000:])
        answer = uploading.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert process.process.wait(60) == 0
        assert master.calls[-1][0] == "deregister"
    before = sorted(path.name for path in data.iterdir())
    assert before == ["0000000001.idx", "0000000001.state", "0000000001.vol", "lock", "server.json"]
    with started(data, master) as process:
        assert process.wire().send(request("GET", get_url())).answer().body == body


def test_secrets_are_the_owners_alone_and_the_identity_stays(tmp_path: Path, master: FakeMaster) -> None:
    data = tmp_path / "data"
    identities = []
    for _ in range(2):
        with started(data, master) as process:
            assert process.stop() == 0
        identities.append(json.loads((data / "server.json").read_bytes()))
        assert stat.S_IMODE((data / "server.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "0000000001.vol").stat().st_mode) == 0o600
    assert identities[0]["server"] == identities[1]["server"]
    assert identities[1]["store"] == STORE
    registrations = [body for name, body in master.calls if name == "register"]
    assert all("token" not in body for body in registrations)  # known by now: it signs


def test_sequence_that_a_confirm_brought_is_written_down_by_the_next_heartbeat(
    tmp_path: Path, master: FakeMaster
) -> None:
    data = tmp_path / "data"
    with started(data, master) as process:
        assert process.wire().send(request("PUT", put_url(FIRST), b"x")).answer().status == 201  # it told 7
        wait_until(
            lambda: json.loads((data / "server.json").read_bytes())["sequence"] == 7, what="the sequence on disk"
        )  # fmt: skip


def test_revoked_keys_are_heeded_while_nothing_can_be_written_down(tmp_path: Path, master: FakeMaster) -> None:
    identity = tmp_path / "data" / "server.json"
    with started(tmp_path / "data", master) as process:
        identity.unlink()
        identity.mkdir()  # no file takes its place: as on a disk without room
        assert process.wire().send(request("PUT", put_url(FIRST), b"x")).answer().status == 201  # it told 7
        assert process.wire().send(request("GET", get_url())).answer().status == 200
        master.revoked = {"5": 3}
        wait_until(
            lambda: process.wire().send(request("GET", get_url())).answer().status == 403, what="the key to be revoked"
        )
        identity.rmdir()
        wait_until(
            lambda: identity.exists() and json.loads(identity.read_bytes())["sequence"] == 7, what="the sequence"
        )
        assert process.stop() == 0


def test_data_directory_has_one_owner(tmp_path: Path, master: FakeMaster) -> None:
    with started(tmp_path / "data", master):
        second = Process(tmp_path / "data", master)
        assert second.process.wait(60) == 1
        assert "in use by another volume server" in second.log.read_text()


def test_new_server_without_a_token_says_so_and_stops(tmp_path: Path, master: FakeMaster) -> None:
    process = Process(tmp_path / "data", master, may_join=False)
    assert process.process.wait(60) == 3
    assert "join-token" in process.log.read_text()


def test_internal_port_keeps_the_masters_calls_to_itself(tmp_path: Path, master: FakeMaster) -> None:
    with started(tmp_path / "data", master, "--internal-port", "0") as process:
        [body] = [body for name, body in master.calls if name == "register"][-1:]
        internal = Wire(int(body["internal_url"].rpartition(":")[2]))
        assert internal.send(request("GET", "/healthz")).answer().status == 200
        for target in ("/healthz", "/metrics", "/usage"):
            assert process.wire().send(request("GET", target)).answer().status == 404
        assert internal.send(request("GET", get_url())).answer().status == 404
        assert process.stop() == 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_server_whose_syncing_child_dies_stops_and_keeps_what_it_acknowledged(
    tmp_path: Path, master: FakeMaster
) -> None:
    """What the child was syncing is in doubt, so nobody is answered; the next start reads and syncs the tail."""
    data = tmp_path / "data"
    with started(data, master) as process:
        assert process.wire().send(request("PUT", put_url(FIRST), b"kept")).answer().status == 201
        [child] = children_of(process.process.pid)
        os.kill(child, signal.SIGKILL)
        assert process.process.wait(60) == 1
    assert "has died" in process.log.read_text()
    with started(data, master) as process:
        assert process.wire().send(request("GET", get_url())).answer().body == b"kept"


def test_syncing_child_ends_with_a_server_that_is_killed(tmp_path: Path, master: FakeMaster) -> None:
    with started(tmp_path / "data", master) as process:
        [child] = children_of(process.process.pid)
        process.stop(signal.SIGKILL)
        wait_until(
            lambda: not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text(),
            what="the child's end",
        )


def test_orders_come_with_heartbeats(tmp_path: Path, master: FakeMaster) -> None:
    def told(state: str, epoch: int) -> bool:
        found = [body["volumes"][0] for _, body in master.calls if body.get("volumes")]
        now = found[-1]["replication"]
        return now is not None and (now["state"], now["epoch"]) == (state, epoch)

    with started(tmp_path / "data", master) as process:
        master.instructions = [{"do": "close", "volume": 1, "epoch": 2}, {"do": "open", "volume": 9, "epoch": 2}]
        wait_until(lambda: told("closed", 2), what="the closing")
        put = request("PUT", put_url(FIRST, lease()), b"x")
        assert process.wire().send(put).answer().code == (503, "volume_degraded")
        master.instructions = [{"do": "open", "volume": 1, "epoch": 3, "peers": []}]
        wait_until(lambda: told("open", 3), what="the opening")
        assert process.wire().send(put).answer().status == 201
        master.instructions = [{"do": "drop", "volume": 1, "epoch": 3}]
        wait_until(lambda: master.calls[-1][1].get("volumes") == [], what="the end of it")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["lock", "server.json"]
