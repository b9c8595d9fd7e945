"""A whole `Connection` beside the plain parser: its short ways, bodies and pauses read a stream as the parser does."""

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.property.http1_connection import Loop, Recorder, Wire, connect, read_by_connection
from tests.property.http1_peers import cuts, read_ours, split, streams

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 140\r\nExpect: 100-continue\r\n\r\n" + bytes(140)


SMALL = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
INSIDE = SMALL.replace(b"1\r\n\r\na", b"%d\r\n\r\n" % len(SMALL))
"""The head of one whose body is itself a whole request."""


@given(streams(), cuts(), st.lists(st.booleans(), max_size=3))
@settings(max_examples=2000)
@example(GET * 3, [len(GET), 2 * len(GET)], [])
@example(GET * 3 + PUT * 2 + GET, range(4000), [True])
@example(GET + PUT + GET + GET, [len(GET), len(GET + PUT)], [True, False])
@example(GET + b"GET /begun" + GET, [len(GET), len(GET) + 10], [])
@example(GET + INSIDE + SMALL, [len(GET), len(GET + INSIDE)], [])
@example(GET + GET[:-2] + b"A: b\r\n\r\n" + GET, [len(GET)], [])
def test_connection_reads_as_the_parser_does(raw: bytes, at: Sequence[int], late: Sequence[bool]) -> None:
    assert read_by_connection(split(raw, at), late) == read_ours([raw])


@given(st.data())
@settings(max_examples=500)
def test_connection_that_saw_a_request_reads_the_next_one_as_a_fresh_one(data: st.DataObject) -> None:
    """Each request comes by itself, as from a client that waits for its answers: the short ways are open."""
    stream = data.draw(streams())
    warm, fresh = read_by_connection([GET, GET, stream], []), read_by_connection([stream], [])
    assert (warm.messages[2:], warm.refused) == fresh


def test_the_short_way_is_taken_where_it_can_be() -> None:
    """Else nothing of it would be tested here."""
    taken: list[bytes] = []

    class Watched(Recorder):
        def plain_get(self, target: bytes, request_id: bytes) -> bytes | None:
            taken.append(target)
            return super().plain_get(target, request_id)

    loop, wire = Loop(), Wire([GET, GET])
    connect(loop, wire, Watched(loop, []))
    wire.deliver()
    wire.deliver()
    assert taken == [b"/"]
    assert wire.sent == b"<1><2>"
