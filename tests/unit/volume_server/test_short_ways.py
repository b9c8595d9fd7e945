"""A whole small request that comes in one piece takes a shorter way. What it gets is what the long way gives."""

import pytest

from tests.unit.volume_server.serving import FIRST, Server, get_url, put_url, request
from volume_server.http1 import RequestParser

GET = request("GET", "/1/0000000000000001?x")


def test_requests_behind_a_repeated_get_are_answered_too(server: Server) -> None:
    server.put(FIRST, b"data")
    wire = server.wire().send(request("GET", get_url()))
    wire.answer()
    wire.send(request("GET", get_url()) + request("GET", "/healthz") + request("GET", get_url()))
    assert [wire.answer().status for _ in range(3)] == [200, 200, 200]


def test_headers_that_change_the_answer_are_heeded_after_those_that_do_not(server: Server) -> None:
    server.put(FIRST, b"data")
    wire = server.wire().send(request("GET", get_url()))
    wire.answer()
    assert wire.send(request("GET", get_url(), Range="bytes=1-2")).answer().body == b"at"
    assert wire.send(request("GET", get_url(), Range="bytes=1-2")).answer().body == b"at"
    assert wire.send(request("GET", get_url(), Connection="close")).answer().headers["connection"] == "close"
    assert wire.at_end()


def test_a_put_in_one_piece_gets_what_one_in_two_gets(server: Server) -> None:
    whole = server.wire().send(request("PUT", put_url(FIRST), b"body")).answer()
    raw = request("PUT", put_url(FIRST + 1), b"body")
    parts = server.wire().send(raw[:-4]).send(raw[-4:]).answer()
    assert whole.status == parts.status == 201
    assert whole.json() | {"etag": ""} == parts.json() | {"etag": ""}


def test_a_refused_put_in_one_piece_leaves_the_connection_open(server: Server) -> None:
    wire = server.wire().send(request("PUT", put_url(FIRST) + "0", b"body"))
    assert wire.answer().status == 403
    assert wire.send(request("PUT", put_url(FIRST), b"body")).answer().status == 201


def test_only_a_get_with_the_headers_of_the_one_before_is_taken_for_one() -> None:
    parser = RequestParser()
    assert parser.repeated_get(GET) is None
    parser.parse(bytearray(GET))
    assert parser.repeated_get(GET) == b"/1/0000000000000001?x"
    assert parser.repeated_get(GET[:-1]) is None
    assert parser.repeated_get(b"HEAD" + GET[3:]) is None
    assert parser.repeated_get(request("GET", "/1/0000000000000001?x", Range="bytes=0-1")) is None
    parser.parse(bytearray(request("GET", "/", Range="bytes=0-1")))
    assert parser.repeated_get(request("GET", "/", Range="bytes=0-1")) is None
    parser.parse(bytearray(request("PUT", "/", b"")))
    assert parser.repeated_get(GET) is None


@pytest.mark.parametrize("raw", [request("PUT", "/1/2?x", b"body")[:-1], request("PUT", "/1/2?x", b"body") + b"G", GET])
def test_only_a_whole_put_and_nothing_else_is_taken_for_one(raw: bytes) -> None:
    assert RequestParser().whole_put(raw) is None


def test_a_whole_put() -> None:
    raw = request("PUT", "/1/2?x", b"body")
    found = RequestParser().whole_put(raw)
    assert found is not None
    assert (found[0].method, found[0].target, raw[found[1] :]) == (b"PUT", b"/1/2?x", b"body")
