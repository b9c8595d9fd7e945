"""Hostile and unlucky clients against a volume server in a process of its own.

After each of them descriptors, threads, connections and the volume are as they were, and others are still answered.
"""

import contextlib
import os
import random
import re
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest

from tests.support.programs import ROOT, resident_bytes
from tests.support.waiting import wait_until
from tests.unit.volume_server.fake_master import FakeMaster
from tests.unit.volume_server.serving import FIRST, LARGE, Wire, get_url, lease, put_url, request
from volume_server.process import THREADS
from volume_server.server import DRAIN_BYTES, SMALL_BODY_BYTES

SMALL, MANY_BYTES, HUGE = FIRST, FIRST + 1, FIRST + 2
"""What is stored: a few bytes, as many as a small needle may have, and more than sockets buffer."""
HUGE_BYTES = 32 << 20
FREE = FIRST + 100
"""The first needle that no test but the one that uses it has put."""
HEALTH = request("GET", "/healthz")
IDLE_CONNECTIONS = 10_000
IDLE_BYTES = 6 << 10
"""Most memory for one idle connection."""
SLACK_BYTES = 16 << 20
"""What Python and malloc keep by the way."""


class Victim:
    """A volume server. ``constants`` of `volume_server.server` are other ones in its process."""

    def __init__(self, directory: Path, master: FakeMaster, **constants: float) -> None:
        self.master = master
        changes = "".join(f"server.{name} = {value!r}\n" for name, value in constants.items())
        program = f"import sys\nfrom volume_server import __main__, server\n{changes}sys.exit(__main__.main())"
        directory.mkdir()
        self.log = directory / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", program, "--data", str(directory / "data"), "--port", "0",
                    "--master", master.url, "--node", "n1", "--join-token", "t",
                ],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, (line, self.log.read_text())
        self.port = int(found[1])
        wait_until(lambda: any(body.get("volumes") for _, body in self.master.calls), what="volume 1")
        for needle, size in ((SMALL, 10), (MANY_BYTES, SMALL_BODY_BYTES - 1000), (HUGE, HUGE_BYTES)):
            assert self.put(needle, bytes(size)) == 201
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        log = self.log.read_text()
        assert code == 0, log
        assert "Traceback" not in log, log

    def wire(self, **options: int) -> Wire:
        return Wire(self.port, **options)

    def put(self, needle: int, body: bytes) -> int:
        with contextlib.closing(self.wire()) as wire:
            return wire.send(request("PUT", large_url(needle), body)).answer().status

    def metric(self, name: str) -> int:
        with contextlib.closing(self.wire()) as wire:
            text = wire.send(request("GET", "/metrics")).answer().body.decode()
        [value] = re.findall(rf"^\w*?_{name}(?:{{[^}}]*}})? (\d+)$", text, re.MULTILINE)
        return int(value)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def memory(self) -> int:
        return resident_bytes(self.process.pid)

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """What is done inside leaves nothing behind."""
        self.wait_alone()
        descriptors, threads, used = self.descriptors(), self.threads(), self.used_bytes()
        yield
        self.wait_alone()
        wait_until(lambda: self.used_bytes() == used, what="the claims to be given up")
        wait_until(lambda: self.descriptors() <= descriptors, what=f"{descriptors} descriptors")
        assert self.threads() <= threads + THREADS  # its pool grows up to there, and stays
        assert self.process.poll() is None

    def used_bytes(self) -> int:
        """Of the volume, without what was aborted: only at the tail is that space given back."""
        return self.metric("volume_size_bytes") - self.metric("volume_garbage_bytes")

    def wait_alone(self) -> None:
        wait_until(lambda: self.metric("connections") == 1, what="the connections to be gone")


def large_url(needle: int) -> str:
    return put_url(needle, lease(max_bytes=HUGE_BYTES))


def small_url(needle: int) -> str:
    return put_url(needle, lease())


def begun_put(needle: int, size: int, sent: int, **headers: str) -> bytes:
    """The head of a PUT, and the first bytes of its body."""
    return request("PUT", large_url(needle), Content_Length=str(size), **headers) + bytes(sent)


def of_needle(raw: bytes, needle: int) -> bytes:
    """The same request for another needle of the lease."""
    return raw.replace(b"%016x" % FREE, b"%016x" % needle)


@pytest.fixture(scope="module")
def make_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Victim]]:
    with contextlib.ExitStack() as stack:

        def make(**constants: float) -> Victim:
            master = stack.enter_context(FakeMaster())
            master.instructions = [{"do": "create", "volume": 1, "salt": "ab" * 16, "created_ms": 5, "epoch": 1}]
            return stack.enter_context(Victim(tmp_path_factory.mktemp("victim") / "server", master, **constants))

        yield make


@pytest.fixture(scope="module")
def victim(make_victim: Callable[..., Victim]) -> Victim:
    return make_victim()


@pytest.fixture(scope="module")
def hasty(make_victim: Callable[..., Victim]) -> Victim:
    """One whose patience with slow clients is short."""
    return make_victim(
        SWEEP_S=0.05, HEAD_TIMEOUT_S=0.4, BODY_TIMEOUT_S=0.4, IDLE_TIMEOUT_S=0.4, DRAIN_TIMEOUT_S=0.4
    )  # fmt: skip


# -- slow clients ------------------------------------------------------------------------------------------------------


def drip(wire: Wire, byte: bytes) -> None:
    """Send one byte after another until something comes back."""
    while not select.select([wire.socket], [], [], 0.02)[0]:
        wire.send(byte)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /", HEALTH[:-2] + b"A: ", begun_put(FREE, 1000, 1), begun_put(FREE, LARGE, 1),
        begun_put(FREE, LARGE, 1_500_000), HEALTH + b"GET /",
    ],
    ids=["line", "headers", "small body", "large body", "large body half-way", "second request"],
)  # fmt: skip
def test_slowloris_gets_408_however_busily_it_drips(hasty: Victim, begun: bytes) -> None:
    with hasty.unharmed():
        wires = [hasty.wire().send(of_needle(begun, FREE + number)) for number in range(20)]
        for wire in wires:
            if begun.startswith(HEALTH):
                assert wire.answer().status == 200
            drip(wire, b"a")
            assert wire.answer().code == (408, "timeout")
            with contextlib.suppress(ConnectionResetError):  # what dripped meanwhile is not read any more
                wire.rest()
            wire.close()


def test_idle_clients_are_seen_off(hasty: Victim) -> None:
    with hasty.unharmed():
        silent, served = hasty.wire(), hasty.wire().send(HEALTH)
        assert served.answer().status == 200
        assert silent.at_end()
        assert served.at_end()


@pytest.mark.parametrize("needle", [MANY_BYTES, HUGE], ids=["many small answers", "one large answer"])
def test_client_that_stops_reading_is_dropped(hasty: Victim, needle: int) -> None:
    with hasty.unharmed():
        wires = [hasty.wire(receive_buffer=4096) for _ in range(10)]
        for wire in wires:
            wire.send(request("GET", get_url(needle)) * (40 if needle == MANY_BYTES else 1))
        hasty.wait_alone()
        for wire in wires:
            with contextlib.suppress(ConnectionResetError):
                assert len(wire.rest()) < HUGE_BYTES
            wire.close()


# -- half-closed, cut off, reset ---------------------------------------------------------------------------------------


def test_half_closed_before_in_and_after_a_request(victim: Victim) -> None:
    with victim.unharmed():
        for begun in (b"", HEALTH[:10], begun_put(FREE, 1000, 999), begun_put(FREE, LARGE, 1_500_000)):
            wire = victim.wire().send(begun)
            wire.half_close()
            assert wire.at_end()
            wire.close()
        wire = victim.wire().send(HEALTH + request("GET", get_url(HUGE)) + HEALTH + HEALTH[:5])
        wire.half_close()
        assert [wire.answer().status, len(wire.answer().body), wire.answer().status] == [200, HUGE_BYTES, 200]
        assert wire.at_end()
        wire.close()


@pytest.mark.parametrize("how", [Wire.close, Wire.reset])
@pytest.mark.parametrize(
    "begun",
    [
        b"", HEALTH[:10], HEALTH, begun_put(FREE, 200_000, 0), begun_put(FREE, 200_000, 100_000),
        begun_put(FREE, LARGE, 0), begun_put(FREE, LARGE, 100), begun_put(FREE, LARGE, 2_500_000),
        begun_put(FREE, LARGE, 0, Expect="100-continue"), request("GET", get_url(HUGE)),
        request("GET", get_url(MANY_BYTES)) * 40,
        b"nonsense\r\n\r\n", request("PUT", small_url(FIRST - 1), Content_Length=str(LARGE)) + bytes(100_000),
    ],
    ids=[
        "before all", "in a head", "in a small answer", "before a small body", "in a small body", "before a large body",
        "in a large body", "in a large body's third buffer", "before 100", "in a large answer", "in many answers",
        "in a refusal", "in a drained body",
    ],
)  # fmt: skip
def test_gone_in_the_middle(victim: Victim, begun: bytes, how: Callable[[Wire], None]) -> None:
    with victim.unharmed():
        for _ in range(10):
            how(victim.wire().send(begun))
    assert victim.put(SMALL, bytes(10)) == 201


# -- too much ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "more", "code"),
    [
        (b"GET /", b"a" * 65536, (414, "uri_too_long")),
        (HEALTH[:-2] + b"A: ", b"a" * 65536, (431, "headers_too_large")),
        (HEALTH[:-2], b"A: b\r\n" * 10_000, (431, "headers_too_large")),
        (HEALTH[:-2] + b"A", b"\x00" * 65536, (400, "bad_request")),
    ],
    ids=["line", "header", "headers", "name"],
)
def test_endless_heads_are_refused_drained_a_little_and_cut_off(
    victim: Victim, begun: bytes, more: bytes, code: tuple[int, str]
) -> None:
    before = victim.memory()
    with victim.unharmed():
        for _ in range(10):
            wire = victim.wire().send(begun)
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                wire.send(more * (64 * DRAIN_BYTES // len(more)))
            wire.close()
            wire = victim.wire().send(begun + more)
            if code[0] != 400:
                assert wire.answer().code == code
            wire.close()
    assert victim.memory() - before < SLACK_BYTES


def test_a_mebibyte_is_drained_so_that_the_refusal_is_read(victim: Victim) -> None:
    with victim.unharmed():
        wire = victim.wire().send(request("PUT", small_url(FIRST - 1), bytes(DRAIN_BYTES - 1000)))
        assert wire.answer().code == (403, "needle_outside_lease")
        assert wire.at_end()
        wire.close()


def test_continue_is_for_those_with_a_good_signature(victim: Victim) -> None:
    with victim.unharmed():
        for size in (1000, LARGE):
            for url in (small_url(FIRST - 1), small_url(FREE)[:-1] + "x", small_url(FREE).replace("exp=", "exp=1")):
                wire = victim.wire().send(request("PUT", url, Content_Length=str(size), Expect="100-continue"))
                answer = wire.answer()
                assert (answer.status, answer.headers["connection"]) == (403, "close")
                assert wire.at_end()
                wire.close()
    for number, size in enumerate((1000, LARGE)):
        wire = victim.wire().send(begun_put(FREE + 1 + number, size, 0, Expect="100-continue"))
        assert wire.answer().status == 100
        assert wire.send(bytes(size)).answer().status == 201
        wire.close()


@pytest.mark.parametrize("seed", range(5))
def test_pipelined_mix_is_answered_in_order(victim: Victim, seed: int) -> None:
    """Whatever is ready first, and however the bytes are cut."""
    mix = random.Random(seed)
    first = FREE + 500 * (seed + 1)
    kinds: dict[str, tuple[Callable[[int], bytes], int]] = {
        "small": (lambda _: request("GET", get_url(SMALL)), 200),
        "large": (lambda _: request("GET", get_url(HUGE), Range="bytes=5-700000"), 206),
        "head": (lambda _: request("HEAD", get_url(HUGE)), 200),
        "absent": (lambda _: request("GET", get_url(FIRST + 9)), 404),
        "unsigned": (lambda _: request("PUT", small_url(FIRST - 1), b"body"), 403),
        "preflight": (lambda _: request("OPTIONS", get_url(SMALL)), 204),
        "put": (lambda number: request("PUT", small_url(first + number), b"p" * number), 201),
        "large put": (lambda number: request("PUT", small_url(first + number), b"q" * 300_000), 201),
    }
    chosen = [mix.choice(list(kinds)) for _ in range(60)]
    raw = b"".join(kinds[kind][0](number) for number, kind in enumerate(chosen))
    cuts = sorted(mix.choices(range(len(raw)), k=100))
    wire = victim.wire()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send() -> None:
        for start, end in pairwise([0, *cuts, len(raw)]):
            wire.send(raw[start:end])

    sender = threading.Thread(target=send)
    sender.start()
    for number, kind in enumerate(chosen):
        answer = wire.answer(head=kind == "head")
        assert answer.status == kinds[kind][1], (number, kind, answer)
        if kind == "large":
            assert len(answer.body) == 700_000 - 5 + 1
        elif kind == "put":
            assert answer.json()["size"] == number
    sender.join()
    wire.close()


# -- very many ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """How many sockets this process may hold at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard if hard != resource.RLIM_INFINITY else IDLE_CONNECTIONS * 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_connections_harm_nobody(make_victim: Callable[..., Victim], many_descriptors: int) -> None:
    victim = make_victim()
    count = min(IDLE_CONNECTIONS, many_descriptors * 3 // 4 - 100)
    after: list[int] = []
    for _ in range(2):
        before = victim.memory()
        with victim.unharmed(), contextlib.ExitStack() as stack:
            wires = [stack.enter_context(contextlib.closing(victim.wire())) for _ in range(count)]
            for wire in wires[::2]:
                wire.send(HEALTH)
            for wire in wires[::2]:
                assert wire.answer().status == 200
            assert victim.metric("connections") == count + 1
            assert victim.put(SMALL, bytes(10)) == 201
            for wire in wires[1::500]:  # the silent ones are still served, too
                assert wire.send(request("GET", get_url(SMALL))).answer().body == bytes(10)
            grown = victim.memory() - before
            assert grown < count * IDLE_BYTES + SLACK_BYTES, f"{grown / count:.0f} bytes a connection"
        after.append(victim.memory())
    assert after[1] - after[0] < SLACK_BYTES, "each round leaves some memory behind"


def test_clients_beyond_the_limit_are_dropped_and_the_others_served(make_victim: Callable[..., Victim]) -> None:
    victim = make_victim(MAX_CONNECTIONS=50)
    with victim.unharmed(), contextlib.ExitStack() as stack:
        wires = [stack.enter_context(contextlib.closing(victim.wire())).send(HEALTH) for _ in range(50)]
        assert [wire.answer().status for wire in wires] == [200] * 50
        for _ in range(100):
            with contextlib.closing(victim.wire()) as wire, pytest.raises((EOFError, ConnectionError)):
                wire.send(HEALTH).answer()
        assert [wire.send(HEALTH).answer().status for wire in wires] == [200] * 50


def test_memory_for_hundreds_of_large_uploads_has_a_bound(make_victim: Callable[..., Victim]) -> None:
    """They take turns. Who waits holds nothing, and who leaves meanwhile holds nobody up."""
    streams, count = 8, 400
    victim = make_victim(MAX_STREAMS=streams)
    buffers_bytes = streams * 2 << 20
    body = os.urandom(LARGE)
    assert victim.put(FREE, body) == 201
    before, requests = victim.memory(), victim.metric("requests_total")
    wires = []
    for number in range(1, count + 1):
        wires.append(victim.wire().send(begun_put(FREE + number, LARGE, 0)))
    wait_until(lambda: victim.metric("requests_total") >= requests + count, what="all heads")
    sent = []
    for wire in wires:
        wire.socket.setblocking(False)
        try:
            sent.append(wire.socket.send(body))
        except BlockingIOError:
            sent.append(0)
        wire.socket.settimeout(60)
    assert victim.memory() - before < buffers_bytes + SLACK_BYTES
    for number, (wire, done) in enumerate(zip(wires, sent, strict=True)):
        if number % 10 == 3:
            wire.reset()
            continue
        assert wire.send(body[done:]).answer().status == 201, number
        wire.close()
    victim.wait_alone()
    assert victim.memory() - before < buffers_bytes + SLACK_BYTES
    with contextlib.closing(victim.wire()) as wire:
        assert wire.send(request("GET", get_url(FREE + count))).answer().body == body


def test_memory_for_answers_that_nobody_reads_has_a_bound(make_victim: Callable[..., Victim]) -> None:
    victim = make_victim(MAX_HELD_BYTES=8 << 20, SWEEP_S=0.05)
    with victim.unharmed(), contextlib.ExitStack() as stack:
        for _ in range(60):
            wire = stack.enter_context(contextlib.closing(victim.wire(receive_buffer=4096)))
            wire.send(request("GET", get_url(MANY_BYTES)) * 40)
        wait_until(lambda: "connections were dropped" in victim.log.read_text(), what="some of them to be dropped")
        wait_until(lambda: victim.metric("connections") < 61, what="fewer connections")
        assert victim.put(SMALL, bytes(10)) == 201
