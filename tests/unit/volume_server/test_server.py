"""Connections: order, bodies, time limits, half-closes and losses at every point; and nothing leaks."""

import asyncio
import contextlib
import os
import socket
import threading
import zlib
from collections.abc import Callable

import pytest

from tests.unit.volume_server.serving import FIRST, LARGE, Answer, Server, Wire, get_url, lease, put_url, request
from volume_server import server as module
from volume_server.routes import NeedleRoutes
from volume_server.server import DRAIN_BYTES, SMALL_BODY_BYTES, PositionalFile

HEALTH = request("GET", "/healthz")


def at_rest(server: Server) -> None:
    """Nothing is left of what the clients began: no connection, claim, receiver, task or buffer."""
    server.wait(lambda: not server.listener.connections, what="the connections to be gone")
    server.wait(lambda: not server.volume.claims, what="the claims to be gone")
    server.wait(lambda: len(asyncio.all_tasks(server.loop)) == 1, what="all tasks but the server's own to end")
    spare = server.call(lambda: [id(buffer) for buffer in server.listener._spare_buffers])
    assert len(spare) == len(set(spare))


# -- order -------------------------------------------------------------------------------------------------------


def test_pipelined_mix_is_answered_in_order(server: Server) -> None:
    """Small and large reads and writes in one go: each answer is its own, whatever is ready first."""
    server.put(FIRST, b"small")
    large = os.urandom(LARGE)
    server.put(FIRST + 1, large)
    wire = server.wire().send(
        request("GET", get_url())
        + request("PUT", put_url(FIRST + 2), b"a")
        + request("GET", get_url(FIRST + 1))
        + request("PUT", put_url(FIRST + 3), large)
        + request("GET", get_url(FIRST + 99))
        + request("HEAD", get_url(FIRST + 1))
        + request("GET", get_url(FIRST + 3))
        + request("PUT", put_url(FIRST + 2), b"a")
        + HEALTH
    )
    assert wire.answer().body == b"small"
    assert wire.answer().json()["size"] == 1
    assert wire.answer().body == large
    assert wire.answer().json()["size"] == LARGE
    assert wire.answer().status == 404
    assert wire.answer(head=True).headers["content-length"] == str(LARGE)
    assert wire.answer().body == large
    assert wire.answer().json()["size"] == 1
    assert wire.answer().json()["status"] == "ok"


def test_verdict_that_is_late_holds_back_what_came_after(server: Server) -> None:
    server.verdicts.hold = True
    wire = server.wire().send(request("PUT", put_url(), b"x") + HEALTH)
    server.wait(lambda: server.verdicts.asked, what="the confirm")
    other = server.wire().send(HEALTH)
    assert other.answer().status == 200  # others go on
    server.call(server.verdicts.release)
    assert [wire.answer().status, wire.answer().status] == [201, 200]


def test_many_small_requests_in_one_go(server: Server) -> None:
    server.put(FIRST, b"data")
    wire = server.wire().send(request("GET", get_url()) * 500)
    assert [wire.answer().body for _ in range(500)] == [b"data"] * 500


@pytest.mark.parametrize("chunk", [1, 100])
def test_requests_in_pieces(server: Server, chunk: int) -> None:
    raw = request("PUT", put_url(), b"hello") + request("GET", get_url())
    wire = server.wire()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(raw), chunk):
        wire.send(raw[start : start + chunk])
    assert wire.answer().status == 201
    assert wire.answer().body == b"hello"


def test_connection_close_is_kept_to(server: Server) -> None:
    wire = server.wire().send(request("GET", "/healthz", Connection="close") + HEALTH)
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert wire.at_end()


def test_answers_that_nobody_reads_are_not_piled_up(server: Server) -> None:
    """A few kilobytes of pipelined GETs ask for 200 MB: they are read from disk as they are taken."""
    server.put(FIRST, bytes(SMALL_BODY_BYTES - 1000))
    wire = server.wire(receive_buffer=4096)
    wire.socket.setblocking(False)
    raw = request("GET", get_url()) * 800
    sent = wire.socket.send(raw)
    server.wait(lambda: any(not found.is_writable for found in server.listener.connections), what="the server to stop")
    piled = server.call(lambda: sum(found.transport.get_write_buffer_size() for found in server.listener.connections))
    assert piled < 4 << 20
    wire.socket.settimeout(60)
    wire.send(raw[sent:])
    for _ in range(800):
        assert len(wire.answer().body) == SMALL_BODY_BYTES - 1000


def test_large_put_behind_answers_that_are_read_late(server: Server) -> None:
    """The body's receiver is paused with the answers before it, and goes on with them."""
    server.put(FIRST, bytes(SMALL_BODY_BYTES - 1000))
    server.wait(lambda: not server.listener.connections, what="the first connection to be gone")
    wire = server.wire(receive_buffer=4096)
    server.wait(lambda: server.listener.connections, what="the next one")
    [connection] = server.listener.connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = os.urandom(LARGE)
    raw = request("PUT", put_url(FIRST + 1), body)
    wire.send(request("GET", get_url()) * 3 + raw[:-LARGE])
    server.wait(
        lambda: connection._receiver is not None and not connection.is_writable, what="the receiver to be paused"
    )
    sender = threading.Thread(target=wire.socket.sendall, args=(body,))
    sender.start()
    for _ in range(3):
        assert len(wire.answer().body) == SMALL_BODY_BYTES - 1000
    assert wire.answer().status == 201
    sender.join()
    assert server.get(FIRST + 1).body == body


# -- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, SMALL_BODY_BYTES, SMALL_BODY_BYTES + 1, 1 << 20, (1 << 20) + 1, LARGE])
def test_continue_is_sent_before_the_body_is(server: Server, size: int) -> None:
    body = os.urandom(size)
    raw = request("PUT", put_url(), body, Expect="100-continue")
    wire = server.wire().send(raw[:-size])
    assert wire.answer().status == 100
    assert wire.send(body).answer().status == 201
    assert server.get().body == body


@pytest.mark.parametrize("size", [10, 600_000])
def test_continue_is_left_away_where_the_body_is_here_already(server: Server, size: int) -> None:
    wire = server.wire().send(request("PUT", put_url(), bytes(size), Expect="100-continue"))
    statuses = [wire.answer().status]
    if statuses == [100]:  # the head came alone: then it was asked for
        statuses = [wire.answer().status]
    assert statuses == [201]


@pytest.mark.parametrize(("size", "url"), [(10, put_url()[:-1] + "x"), (600_000, put_url(FIRST - 1))])
def test_continue_is_never_sent_for_a_signature_that_is_not_good(server: Server, size: int, url: str) -> None:
    wire = server.wire().send(request("PUT", url, bytes(size), Expect="100-continue")[:-size])
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert wire.at_end()


@pytest.mark.parametrize("sent", [0, 1, 299_999])
@pytest.mark.parametrize("how", [Wire.close, Wire.reset, Wire.half_close])
@pytest.mark.parametrize("size", [200_000, 300_000])
def test_body_cut_off_leaves_nothing(server: Server, sent: int, how: Callable[[Wire], None], size: int) -> None:
    before = server.call(server.volume.report)
    raw = request("PUT", put_url(), bytes(size))
    cut = len(raw) - size + min(sent, size - 1)
    wire = server.wire().send(raw[:cut])
    server.wait_received(cut)
    how(wire)
    if how is Wire.half_close:
        assert wire.at_end()
    at_rest(server)
    assert server.call(server.volume.report) == before
    assert server.verdicts.asked == []
    assert server.put(FIRST, bytes(size)).status == 201


def test_client_that_left_while_a_thread_writes(server: Server) -> None:
    """The space is given back only when the thread is done with it."""
    going, go_on = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if call == "write_at" and threading.current_thread() is not server._thread:
            going.set()
            go_on.wait(60)

    before = server.call(server.volume.report)
    server.files.before = hold
    wire = server.wire().send(request("PUT", put_url(), Content_Length=str(LARGE)) + bytes(1 << 20))
    assert going.wait(60)
    wire.reset()
    server.wait(lambda: not server.listener.connections, what="the connection to be gone")
    assert server.call(lambda: list(server.volume.claims)) == [FIRST]
    go_on.set()
    at_rest(server)
    assert server.call(server.volume.report) == before


def test_client_that_left_with_its_body_complete_is_committed(server: Server) -> None:
    wire = server.wire().send(request("PUT", put_url(), bytes(LARGE)))
    server.wait_received(LARGE)
    wire.reset()
    server.wait(lambda: server.volume.stored_length(FIRST), what="the needle")
    at_rest(server)


@pytest.mark.parametrize("half", [False, True], ids=["before", "half-way"])
def test_client_that_leaves_a_large_answer(server: Server, half: bool) -> None:
    server.put(FIRST, bytes(LARGE))
    wire = server.wire(receive_buffer=4096).send(request("GET", get_url()))
    if half:
        wire.socket.recv(100_000)
    wire.reset()
    at_rest(server)
    assert len(server.get().body) == LARGE


def test_body_of_a_refused_request_is_drained_and_the_connection_closes(server: Server) -> None:
    wire = server.wire().send(request("PUT", put_url(FIRST - 1), bytes(DRAIN_BYTES // 2)) + HEALTH)
    answer = wire.answer()
    assert (answer.code, answer.headers["connection"]) == ((403, "needle_outside_lease"), "close")
    assert wire.at_end()
    wire.close()
    at_rest(server)


def test_small_body_of_a_refused_request_costs_no_connection(server: Server) -> None:
    wire = server.wire().send(request("PUT", put_url(FIRST - 1), b"body") + HEALTH)
    assert wire.answer().code == (403, "needle_outside_lease")
    assert wire.answer().status == 200


def test_draining_ends(server: Server) -> None:
    """Who sends on and on after a refusal is cut off."""
    wire = server.wire().send(request("PUT", put_url(FIRST - 1), Content_Length="10000000"))
    assert wire.answer().status == 403
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        wire.send(bytes(100_000_000))
    at_rest(server)


def test_bad_request_closes_the_connection(server: Server) -> None:
    wire = server.wire().send(HEALTH + b"nonsense\r\n\r\n" + HEALTH)
    assert wire.answer().status == 200
    answer = wire.answer()
    assert (answer.code, answer.headers["connection"]) == ((400, "bad_request"), "close")
    assert wire.at_end()


# -- half-close --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 600_000])
def test_half_closed_client_gets_its_answer_and_the_end(server: Server, size: int) -> None:
    server.verdicts.hold = True
    wire = server.wire().send(request("PUT", put_url(), bytes(size)))
    wire.half_close()
    server.wait(lambda: server.verdicts.asked, what="the confirm")
    server.call(server.verdicts.release)
    assert wire.answer().status == 201
    assert wire.at_end()
    wire.close()
    at_rest(server)


def test_half_closed_client_gets_all_its_pipelined_answers(server: Server) -> None:
    server.put(FIRST, bytes(LARGE))
    wire = server.wire().send(
        request("PUT", put_url(FIRST + 1), b"x") + request("GET", get_url()) + HEALTH + b"GET /half"
    )
    wire.half_close()
    assert wire.answer().status == 201
    assert len(wire.answer().body) == LARGE
    assert wire.answer().status == 200
    assert wire.at_end()
    wire.close()
    at_rest(server)


@pytest.mark.parametrize("how", [Wire.close, Wire.half_close])
def test_client_that_left_while_another_upload_had_its_needle(server: Server, how: Callable[[Wire], None]) -> None:
    """Its end was read while it waited, and is not told again when its body is to come in."""
    before = server.call(server.volume.report)
    raw = request("PUT", put_url(), bytes(LARGE))
    first = server.wire().send(raw[:-10])
    server.wait(lambda: server.volume.claims, what="the claim")
    second = server.wire().send(raw[: -LARGE + 10])
    server.wait(lambda: any(claim.waiters for claim in server.volume.claims.values()), what="the second to wait")
    how(second)
    server.wait(lambda: any(found.client_is_done for found in server.listener.connections), what="its end")
    first.reset()
    at_rest(server)
    assert server.call(server.volume.report) == before


def test_half_closed_client_whose_pipelined_upload_is_not_whole(server: Server) -> None:
    server.verdicts.hold = True
    raw = request("PUT", put_url(FIRST + 1), bytes(LARGE))
    wire = server.wire().send(request("PUT", put_url(), b"x") + raw[: -LARGE + 1000])
    wire.half_close()
    server.wait(lambda: any(found.client_is_done for found in server.listener.connections), what="its end")
    server.call(server.verdicts.release)
    assert wire.answer().status == 201
    assert wire.at_end()
    at_rest(server)


# -- large bodies that are taken whole ---------------------------------------------------------------------------


UNSIGNED = request("POST", "/admin/delete", bytes(600_000))


@pytest.mark.parametrize("cut", [1, 100, 60_000, 300_000, len(UNSIGNED) - 1])
def test_a_large_order_comes_as_it_likes_and_the_next_request_behind_it(server: Server, cut: int) -> None:
    wire = server.wire()
    for _ in range(2):
        received = server.call(lambda: server.listener.counters.bytes_in)
        wire.send(UNSIGNED[:cut])
        server.wait_received(received + cut)
        wire.send(UNSIGNED[cut:] + HEALTH)
        assert wire.answer().code == (401, "signature_invalid")
        assert wire.answer().json()["status"] == "ok"
    wire.close()
    at_rest(server)


def test_a_large_order_whose_client_leaves(server: Server) -> None:
    server.wire().send(UNSIGNED[:-1]).reset()
    wire = server.wire().send(UNSIGNED[:-1])
    wire.half_close()
    assert wire.at_end()
    at_rest(server)


# -- time limits -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit has passed as soon as it is set; nothing is closed before the next sweep."""
    for name in ("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "IDLE_TIMEOUT_S", "DRAIN_TIMEOUT_S"):
        monkeypatch.setattr(module, name, -1.0)


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("size", [1000, 600_000], ids=["small", "large"])
def test_slow_body_is_408_and_leaves_nothing(server: Server, size: int, method: str) -> None:
    before = server.call(server.volume.report)
    raw = request(method, put_url() if method == "PUT" else "/admin/delete", bytes(size))[:-1]
    wire = server.wire().send(raw)
    server.wait_received(len(raw))
    server.sweep()
    answer = wire.answer()
    assert (answer.code, answer.headers["connection"]) == ((408, "timeout"), "close")
    assert wire.at_end()
    assert server.call(server.volume.report) == before
    server.sweep()  # who then does not close is cut off
    at_rest(server)


@pytest.mark.usefixtures("no_patience")
def test_slow_head_is_408(server: Server) -> None:
    wire = server.wire().send(HEALTH[:-5])
    server.wait_received(len(HEALTH) - 5)
    server.sweep()
    assert wire.answer().code == (408, "timeout")
    assert wire.at_end()


@pytest.mark.usefixtures("no_patience")
def test_idle_connection_is_closed(server: Server) -> None:
    wire = server.wire().send(HEALTH)
    assert wire.answer().status == 200
    server.sweep()
    assert wire.at_end()
    at_rest(server)


@pytest.mark.usefixtures("no_patience")
def test_client_that_waits_for_us_is_never_too_slow(server: Server) -> None:
    server.verdicts.hold = True
    wires = [server.wire().send(request("PUT", put_url(FIRST + size % 99), bytes(size))) for size in (10, 600_000)]
    server.wait(lambda: len(server.verdicts.asked) == 2, what="the confirms")
    server.sweep()
    server.call(server.verdicts.release)
    assert [wire.answer().status for wire in wires] == [201, 201]


def test_client_that_read_late_and_now_waits_for_us_has_no_deadline(server: Server) -> None:
    server.put(FIRST, bytes(SMALL_BODY_BYTES - 1000))
    server.wait(lambda: not server.listener.connections, what="the first connection to be gone")
    server.verdicts.hold = True
    wire = server.wire(receive_buffer=4096).send(
        request("GET", get_url()) * 3 + request("PUT", put_url(FIRST + 1), b"x")
    )
    server.wait(lambda: len(server.verdicts.asked) == 2, what="the confirm")
    [connection] = server.listener.connections
    server.call(connection.pause_writing)  # as the transport does, when more is unsent than it likes
    assert connection.deadline_s < module.NEVER
    server.call(connection.resume_writing)
    assert connection.deadline_s == module.NEVER
    for _ in range(3):
        wire.answer()
    server.call(server.verdicts.release)
    assert wire.answer().status == 201


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("size", [SMALL_BODY_BYTES - 1000, LARGE * 4], ids=["small", "large"])
def test_client_that_does_not_read_is_cut_off_and_nothing_stays(server: Server, size: int) -> None:
    assert server.put(FIRST, bytes(size), url=lease(max_bytes=size)).status == 201
    before = server.call(lambda: len(server.loop._selector.get_map()))  # type: ignore[attr-defined]
    wire = server.wire(receive_buffer=4096).send(request("GET", get_url()) * (40 if size < LARGE else 1))
    server.wait(
        lambda: any(not found.is_writable or found._sending for found in server.listener.connections), what="the answer"
    )
    server.sweep()
    at_rest(server)
    assert server.call(lambda: len(server.loop._selector.get_map())) <= before  # type: ignore[attr-defined]
    wire.close()
    for _ in range(5):  # the descriptor is used again
        assert len(server.get().body) == size


def test_answer_that_is_not_read_after_a_close_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(FIRST, bytes(SMALL_BODY_BYTES - 1000))
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", -1.0)
    wire = server.wire(receive_buffer=4096)
    wire.send(request("GET", get_url()) * 30 + request("GET", get_url(), Connection="close"))
    server.wait(lambda: any(not found.is_writable for found in server.listener.connections), what="the answers")
    server.sweep()
    at_rest(server)


def test_connection_that_is_closing_has_a_deadline_again(server: Server) -> None:
    """It waited for us without one; what is left to send now depends on the client."""
    server.verdicts.hold = True
    wire = server.wire().send(request("PUT", put_url(), b"x", Connection="close"))
    server.wait(lambda: server.verdicts.asked, what="the confirm")

    def deadlines() -> list[float]:
        [connection] = server.listener.connections
        before = connection.deadline_s
        server.verdicts.release()
        return [before, connection.deadline_s]

    before, after = server.call(deadlines)
    assert before == module.NEVER
    assert after < module.NEVER
    assert wire.answer().status == 201


# -- limits and draining -----------------------------------------------------------------------------------------


def test_connections_have_a_limit(server: Server) -> None:
    server.listener.max_connections = 2
    wires = [server.wire().send(HEALTH) for _ in range(2)]
    assert [wire.answer().status for wire in wires] == [200, 200]
    with pytest.raises((EOFError, ConnectionError)):
        server.wire().send(HEALTH).answer()
    wires[0].close()
    server.wait(lambda: len(server.listener.connections) == 1, what="a place")
    assert server.wire().send(HEALTH).answer().status == 200


def test_draining_closes_the_idle_and_lets_the_others_finish(server: Server) -> None:
    server.verdicts.hold = True
    idle = server.wire().send(HEALTH)
    assert idle.answer().status == 200
    busy = server.wire().send(request("PUT", put_url(), b"x"))
    server.wait(lambda: server.verdicts.asked, what="the confirm")
    sending = server.wire().send(request("PUT", put_url(FIRST + 1), Content_Length=str(LARGE)) + bytes(LARGE // 2))
    server.wait(lambda: FIRST + 1 in server.volume.claims, what="the upload")
    server.call(server.listener.drain)
    assert idle.at_end()
    server.call(server.verdicts.release)
    sending.send(bytes(LARGE - LARGE // 2))
    for wire in (busy, sending):
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert wire.at_end()
    at_rest(server)


def test_draining_server_takes_no_more_connections(server: Server) -> None:
    """Such as were waiting to be accepted when its socket was closed."""
    server.call(server.listener.drain)
    with pytest.raises((EOFError, ConnectionError)):
        server.wire().send(HEALTH).answer()


# -- memory and files --------------------------------------------------------------------------------------------


def test_buffers_come_back_however_an_upload_ends(server: Server) -> None:
    for _ in range(3):
        server.put(FIRST, bytes(LARGE), Warehouse_CRC32="00000000")
        server.put(FIRST + 1, bytes(LARGE))
        wire = server.wire().send(request("PUT", put_url(FIRST + 2), Content_Length=str(LARGE)) + bytes(1_500_000))
        server.wait(lambda: FIRST + 2 in server.volume.claims, what="the upload")
        wire.reset()
        at_rest(server)
    assert len(server.listener._spare_buffers) == 2  # one upload at a time needs two


def test_file_is_read_where_each_answer_stands_even_without_sendfile(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop then seeks and reads by itself, for many answers from one descriptor at once."""

    def unsupported(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", unsupported)
    bodies = [os.urandom(LARGE) for _ in range(4)]
    for number, body in enumerate(bodies):
        server.put(FIRST + number, body)
    wires = [server.wire().send(request("GET", get_url(FIRST + number % 4))) for number in range(12)]
    for number, wire in enumerate(wires):
        assert zlib.crc32(wire.answer().body) == zlib.crc32(bodies[number % 4])


def test_positional_file_has_a_position_of_its_own(server: Server) -> None:
    server.put(FIRST, b"0123456789")
    descriptor = server.volume.fd
    one, two = PositionalFile(descriptor), PositionalFile(descriptor)
    one.seek(0)
    two.seek(4)
    buffer = bytearray(4)
    assert one.readinto(memoryview(buffer)) == 4
    assert bytes(buffer) == b"WHVo"
    assert two.readinto(memoryview(buffer)) == 4
    assert bytes(buffer) == b"lume"
    assert one.readinto(memoryview(buffer)) == 4
    assert bytes(buffer) == b"lume"


def test_volume_file_that_ends_early_stops_short_and_never_says_so_falsely(server: Server) -> None:
    server.put(FIRST, bytes(LARGE))
    os.truncate(server.volume.path, 1 << 20)
    wire = server.wire().send(request("GET", get_url()))
    with pytest.raises((EOFError, ConnectionError)):
        wire.answer()


# -- large bodies wait for their buffers ----------------------------------------------------------------------------


def begun(server: Server, number: int) -> Wire:
    """A client that has sent the head of a large PUT and waits for leave to send the body."""
    head = request("PUT", put_url(FIRST + number), Content_Length=str(LARGE), Expect="100-continue")
    wire = server.wire().send(head)
    server.wait(lambda: server.listener.streams + len(server.listener.waiting) > number, what=f"PUT {number}")
    return wire


def test_large_bodies_wait_for_buffers_and_come_in_the_order_of_their_heads(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    wires = [begun(server, number) for number in range(6)]
    assert server.call(lambda: (server.listener.streams, len(server.listener.waiting))) == (2, 4)
    assert server.call(lambda: sorted(server.volume.claims)) == [FIRST, FIRST + 1]  # who waits has reserved nothing
    body = os.urandom(LARGE)
    for wire in wires:
        assert wire.answer().status == 100
        assert wire.send(body).answer().status == 201
        wire.close()
    assert [server.get(FIRST + number).body == body for number in range(6)] == [True] * 6
    at_rest(server)


@pytest.mark.parametrize("how", [Wire.close, Wire.reset])
def test_client_that_left_while_it_waited_holds_nobody_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: Callable[[Wire], None]
) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    before = server.call(server.volume.report)
    first, second, third = (begun(server, number) for number in range(3))
    assert first.answer().status == 100
    how(second)
    how(first)
    assert third.answer().status == 100
    assert server.call(lambda: list(server.volume.claims)) == [FIRST + 2]
    third.reset()
    at_rest(server)
    assert server.call(lambda: (server.listener.streams, server.listener.waiting)) == (0, {})
    assert server.call(server.volume.report) == before


@pytest.mark.usefixtures("no_patience")
def test_time_does_not_run_against_a_large_body_that_waits_for_us(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    first, second = (begun(server, number) for number in range(2))
    assert first.answer().status == 100
    server.sweep()
    assert first.answer().code == (408, "timeout")
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", 60.0)
    assert second.answer().status == 100
    assert second.send(bytes(LARGE)).answer().status == 201


def test_what_can_not_be_taken_when_its_turn_comes_is_refused_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the one behind it goes on."""
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    first, second, third = (begun(server, number) for number in range(3))
    assert first.answer().status == 100
    server.call(lambda: server.volume.seal("by the test"))
    first.send(bytes(LARGE))
    assert second.answer().code == third.answer().code == (503, "volume_sealed")
    assert first.answer().status in (201, 503)
    for wire in (first, second, third):
        wire.close()
    at_rest(server)


def test_who_waits_is_not_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    first, second = (begun(server, number) for number in range(2))
    second.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:  # until the kernel takes no more
            second.socket.send(bytes(1 << 20))
    held = server.call(lambda: [found.held_bytes for found in server.listener.waiting])
    assert held[0] <= SMALL_BODY_BYTES
    first.reset()
    second.reset()
    at_rest(server)


def test_stop_does_not_wait_for_those_that_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    wires = [begun(server, number) for number in range(3)]
    server.call(lambda: [connection.abort() for connection in list(server.listener.connections)])
    at_rest(server)
    assert server.call(lambda: (server.listener.streams, server.listener.waiting)) == (0, {})
    for wire in wires:
        wire.close()


# -- what all connections together may hold -------------------------------------------------------------------------


def test_who_holds_most_is_dropped_when_all_together_hold_too_much(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 500_000)
    sizes = [100_000, 200_000, 150_000, 120_000]
    wires = [
        server.wire().send(request("PUT", put_url(FIRST + number), bytes(size))[:-1])
        for number, size in enumerate(sizes)
    ]
    server.wait(lambda: sum(len(found.buffer) for found in server.listener.connections) == sum(sizes) - 4, what="all")
    server.sweep()
    server.wait(lambda: len(server.listener.connections) == 3, what="the largest to be dropped")
    assert "1 connections were dropped" in caplog.text
    server.sweep()
    assert [wire.send(b"\0").answer().status for number, wire in enumerate(wires) if number != 1] == [201] * 3
    with pytest.raises((EOFError, ConnectionError)):
        wires[1].answer()


def test_a_large_order_is_held_as_large_as_it_will_be(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = server.wire().send(UNSIGNED[:1000])
    server.wait_received(1000)
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 600_000 - 1)
    server.sweep()
    at_rest(server)
    wire.close()


def test_answers_that_nobody_reads_count_as_held(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(FIRST, bytes(SMALL_BODY_BYTES - 1000))
    wire = server.wire(receive_buffer=4096).send(request("GET", get_url()) * 40)
    server.wait(lambda: any(not found.is_writable for found in server.listener.connections), what="the server to stop")
    server.sweep()
    assert server.listener.connections
    monkeypatch.setattr(module, "MAX_HELD_BYTES", SMALL_BODY_BYTES)
    server.sweep()
    at_rest(server)
    wire.close()


def test_a_quarter_of_the_descriptors_stays_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, most in [(1024, 768), (1 << 20, module.MAX_CONNECTIONS), (-1, module.MAX_CONNECTIONS)]:
        monkeypatch.setattr(module.resource, "getrlimit", lambda _, found=descriptors: (found, found))
        assert module.connection_limit() == most


# -- the short way for a GET that repeats the headers of the one before --------------------------------------------


def without_the_moment(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What two answers to the same request have in common."""
    momentary = {"date", "x-request-id"} | ({"content-length"} if answer.status >= 400 else set())
    headers = {name: value for name, value in answer.headers.items() if name not in momentary}
    return answer.status, headers, answer.body.replace(answer.headers["x-request-id"].encode(), b"")


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each GET that was tried the short way: whether it was answered there."""
    seen: list[bool] = []
    plain_get = NeedleRoutes.plain_get

    def watching(routes: NeedleRoutes, target: bytes, request_id: bytes) -> bytes | None:
        raw = plain_get(routes, target, request_id)
        seen.append(raw is not None)
        return raw

    monkeypatch.setattr(NeedleRoutes, "plain_get", watching)
    return seen


def test_short_way_answers_as_the_long_one(server: Server, short_ways: list[bool]) -> None:
    server.put(FIRST, b"data")
    server.put(FIRST + 1, b"")
    server.put(FIRST + 2, bytes(LARGE))
    server.put(FIRST + 3, b"to be damaged")
    offset, length = server.call(lambda: server.volume.locate(FIRST + 3))
    with server.volume.path.open("r+b") as file:
        file.seek(offset + length - 1)
        file.write(b"\xff")
    targets = [
        (get_url(), True),
        (get_url(content_type="text/html", inline=True, filename="ä.html", etag='a"b'), True),
        (get_url(FIRST + 1), True),
        (get_url(FIRST + 2), False),
        (get_url(FIRST + 3), False),
        (get_url(FIRST + 9), False),
        (get_url(volume=2), False),
        (get_url(expires=1000), False),
        (get_url()[:-1] + "x", False),
        (get_url().replace("?", "?x=1&"), False),
        ("/healthz", False),
        ("/nothing", False),
    ]
    for target, answered in targets:
        wire = server.wire()
        long = wire.send(request("GET", target)).answer()
        short_ways.clear()
        short = wire.send(request("GET", target)).answer()
        assert short_ways == [answered], target
        assert without_the_moment(short) == without_the_moment(long), target
        assert short.headers["x-request-id"] != long.headers["x-request-id"]
    server.gate.revoked = {5: 3}
    wire = server.wire().send(HEALTH)
    wire.answer()
    assert wire.send(request("GET", get_url())).answer().code == (403, "key_revoked")


def test_what_is_not_one_whole_request_goes_the_long_way(server: Server, short_ways: list[bool]) -> None:
    server.put(FIRST, b"data")
    get = request("GET", get_url())
    wire = server.wire().send(get)
    assert wire.answer().body == b"data"
    wire.send(get + get + get)
    assert [wire.answer().body for _ in range(3)] == [b"data"] * 3
    assert True not in short_ways
    wire.send(get[:20])
    server.wait(lambda: any(found.buffer for found in server.listener.connections), what="a part of it")
    wire.send(get[20:] + get)
    assert [wire.answer().body for _ in range(2)] == [b"data"] * 2
    assert True not in short_ways
    wire.send(get.replace(b" HTTP", b"  HTTP"))
    assert wire.answer().code == (400, "bad_request")
    assert True not in short_ways


def test_request_line_that_was_begun_is_not_forgotten_for_a_whole_request(
    server: Server, short_ways: list[bool]
) -> None:
    server.put(FIRST, b"data")
    get = request("GET", get_url())
    wire = server.wire().send(get)
    assert wire.answer().body == b"data"
    wire.send(b"GET /begun")
    server.wait(lambda: any(found.buffer for found in server.listener.connections), what="the beginning")
    assert wire.send(get).answer().code == (400, "bad_request")
    assert short_ways == []


@pytest.mark.parametrize(
    "header", [{"Connection": "close"}, {"Range": "bytes=0-1"}, {"Origin": "https://x"}, {"X_Request_Id": "mine"}]
)
def test_headers_that_mean_something_never_go_the_short_way(
    server: Server, short_ways: list[bool], header: dict[str, str]
) -> None:
    server.put(FIRST, b"data")
    server.gate.revoked = {}
    wire = server.wire()
    for _ in range(1 if "Connection" in header else 2):
        answer = wire.send(request("GET", get_url(), **header)).answer()
        assert answer.body == (b"da" if "Range" in header else b"data")
        if "X_Request_Id" in header:
            assert answer.headers["x-request-id"] == "mine"
    assert short_ways == []


def test_draining_server_closes_after_a_repeated_get(server: Server) -> None:
    server.put(FIRST, b"data")
    wire = server.wire().send(request("GET", get_url()))
    assert wire.answer().body == b"data"
    server.call(lambda: setattr(server.listener, "draining", True))
    answer = wire.send(request("GET", get_url())).answer()
    assert (answer.body, answer.headers["connection"]) == (b"data", "close")
    assert wire.at_end()
