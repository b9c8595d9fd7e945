import json
import socket
import threading
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.unit.volumes import client_contract
from tests.unit.volumes.factories import figures, job
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes import client
from volumes.errors import ServerAnswerInvalid, ServerRefused, ServerUnreachable
from volumes.models import Server


@pytest.fixture
def server(fake_server: FakeVolumeServer) -> Server:
    return Server(id=fake_server.id, internal_url=fake_server.url, instance=fake_server.instance)


CALLS: list[Callable[[Server], object]] = [
    client.usage,
    lambda server: client.delete_needles(server, 1, [1]),
    lambda server: client.seal(server, 1),
    lambda server: client.compact(server, 1),
    lambda server: client.scrub(server, 1),
    lambda server: client.damaged(server, 1),
]


@pytest.mark.parametrize("check", client_contract.CHECKS)
def test_contract(server: Server, fake_server: FakeVolumeServer, check: client_contract.Check) -> None:
    fake_server.volumes[4] = figures(4)
    fake_server.needles[4] = {0x70001}
    check(server, 4, 0x70001)


def test_nothing_to_delete_asks_nobody(server: Server, fake_server: FakeVolumeServer) -> None:
    result = client.delete_needles(server, 4, [])
    assert (result.deleted, result.absent, fake_server.requests) == (frozenset(), frozenset(), [])


@pytest.mark.parametrize("call", CALLS)
def test_a_call_signed_with_another_secret_is_refused(
    server: Server, fake_server: FakeVolumeServer, call: Callable[[Server], object]
) -> None:
    server.kid = 2
    with pytest.raises(ServerRefused) as caught:
        call(server)
    assert (caught.value.status, caught.value.refusal) == (401, "signature_invalid")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"{}", b'{"deleted": 1, "absent": 2}', b"<html>", b""])
def test_nonsense_is_no_answer(
    server: Server, fake_server: FakeVolumeServer, call: Callable[[Server], object], body: bytes
) -> None:
    fake_server.answer = (200, body)
    with pytest.raises(ServerAnswerInvalid):
        call(server)


@pytest.mark.parametrize(
    "answer",
    [
        {"deleted": [], "absent": []},  # nothing said of the needle
        {"deleted": ["1"], "absent": ["1"]},
        {"deleted": ["1", "2"], "absent": []},
        {"deleted": ["zz"], "absent": []},
        {"deleted": [None], "absent": []},
    ],
)
def test_unknown_is_not_absent(server: Server, fake_server: FakeVolumeServer, answer: object) -> None:
    fake_server.answer = (200, json.dumps(answer).encode())
    with pytest.raises(ServerAnswerInvalid):
        client.delete_needles(server, 4, [1])


def test_what_a_compaction_is_asked_with(server: Server, fake_server: FakeVolumeServer) -> None:
    fake_server.volumes[4] = figures(4)
    client.compact(server, 4)
    client.compact(server, 4, rate_bytes=1000, drop_before_ms=77)
    assert fake_server.asked == [
        ("/admin/compact", {"volume": 4, "rate_bytes": 0}),
        ("/admin/compact", {"volume": 4, "rate_bytes": 1000, "drop_before_ms": 77}),
    ]


@pytest.mark.parametrize("call", [client.compact, client.scrub])
@pytest.mark.parametrize("told", [figures(4), figures(5, compaction=job(reclaimed_bytes=0), scrub=job())])
def test_an_answer_without_the_job_is_none(
    server: Server, fake_server: FakeVolumeServer, call: Callable[..., object], told: dict[str, object]
) -> None:
    fake_server.answer = (200, json.dumps(told).encode())
    with pytest.raises(ServerAnswerInvalid):
        call(server, 4)


def test_damage_of_another_volume_is_no_answer(server: Server, fake_server: FakeVolumeServer) -> None:
    fake_server.answer = (200, b'{"volume": 5, "count": 0, "damaged": []}')
    with pytest.raises(ServerAnswerInvalid):
        client.damaged(server, 4)


def test_a_refusal_keeps_the_servers_words(server: Server, fake_server: FakeVolumeServer) -> None:
    fake_server.refusals["/admin/compact"] = (507, {"code": "disk_full", "detail": "needs 9 bytes"})
    with pytest.raises(ServerRefused) as caught:
        client.compact(server, 4)
    assert (caught.value.status, caught.value.refusal, caught.value.reason) == (507, "disk_full", "needs 9 bytes")


@pytest.mark.parametrize("status", [302, 404, 500, 503])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code": "c", "detail": "d"}'])
def test_other_statuses_are_refusals(server: Server, fake_server: FakeVolumeServer, status: int, body: bytes) -> None:
    fake_server.answer = (status, body)
    with pytest.raises(ServerRefused) as caught:
        client.usage(server)
    assert caught.value.status == status


@pytest.mark.parametrize("call", CALLS)
def test_nobody_answers(call: Callable[[Server], object]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        server = Server(id=uuid4(), internal_url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ServerUnreachable):
            call(server)
        assert client.probe(server.internal_url) is None


def test_proxies_of_the_environment_are_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client.usage(server)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"server": 1, "instance": "i"}', b'{"server": "x"}', b"<html>"])
def test_probe_of_something_else(fake_server: FakeVolumeServer, body: bytes) -> None:
    fake_server.answer = (200, body)
    assert client.probe(fake_server.url) is None


def test_needles_are_read_whole_and_in_part(fake_server: FakeVolumeServer) -> None:
    body = bytes(range(256)) * 4096  # more than one piece
    fake_server.bodies["/1/2"] = body
    for first, last in ((None, None), (0, None), (10, 19), (None, 4), (300_000, None)):
        with client.open_needle(f"{fake_server.url}/1/2", first=first, last=last) as pieces:
            assert b"".join(pieces) == body[first or 0 : None if last is None else last + 1]


def test_a_needle_that_is_refused(fake_server: FakeVolumeServer) -> None:
    with pytest.raises(ServerRefused), client.open_needle(f"{fake_server.url}/1/2"):
        pytest.fail("a refusal was taken for bytes")


def test_a_needle_whose_end_is_missing() -> None:
    def answer_short(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_short, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/1/2?sig=secret"
        with pytest.raises(ServerUnreachable) as caught, client.open_needle(url) as pieces:
            list(pieces)
        thread.join()
    assert "secret" not in str(caught.value)
