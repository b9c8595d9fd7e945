"""What a request means: reads, ranges, conditions, writes, the duplicate and verdict rules, the master's calls."""

import os
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.unit.volume_server.faults import FaultyFiles
from tests.unit.volume_server.serving import (
    FIRST,
    LARGE,
    MASTER,
    Answer,
    Server,
    admin,
    get_url,
    lease,
    put_url,
    refused,
    request,
    running,
)
from volume_server import meta as metas
from volume_server import signing
from volume_server.commit import NO_ATTRIBUTES, Attributes
from volume_server.http1 import MAX_HEADER_BYTES
from volume_server.routes import parse_range

DATA = bytes(range(100))


def trace(server: Server) -> tuple[bytes, dict[str, Any], int]:
    """All that a refused request may not change."""
    return server.call(
        lambda: (server.volume.path.read_bytes(), dict(server.volume.report()), len(server.volume.claims))
    )


# -- GET and HEAD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024, LARGE])
def test_what_was_put_comes_back(server: Server, size: int) -> None:
    data = os.urandom(size)
    answer = server.put(FIRST, data)
    assert answer.status == 201
    assert answer.json() == {
        "state": "committed", "bucket": "b", "key": "k", "size": size, "etag": f"{FIRST:016x}",
        "updated_at": "2000-01-01T00:00:00Z", "crc32": zlib.crc32(data),
    }  # fmt: skip
    found = server.get()
    assert (found.status, found.body) == (200, data)
    head = server.ask("HEAD", get_url())
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(size))


def test_headers_of_what_is_served(server: Server) -> None:
    server.put(FIRST, DATA)
    url = get_url(content_type="text/html; charset=utf-8", filename='a "b" ä.html', etag="v1")
    headers = server.ask("GET", url).headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''a%20%22b%22%20%C3%A4.html"
    assert headers["etag"] == '"v1"'
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert server.ask("GET", get_url(inline=True)).headers["content-disposition"] == "inline"
    assert server.ask("GET", get_url()).headers["content-type"] == "application/octet-stream"


def test_type_that_would_end_the_header_is_not_sent(server: Server) -> None:
    server.put(FIRST, DATA)
    headers = server.ask("GET", get_url(content_type="text/plain\r\nX-Evil: 1")).headers
    assert headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in headers


PARTS = [
    ("bytes=0-0", slice(0, 1)),
    ("bytes=10-19", slice(10, 20)),
    ("bytes={late}-", slice(-10, None)),
    ("bytes={late}-{beyond}", slice(-10, None)),
    ("bytes=-10", slice(-10, None)),
    ("bytes=-{beyond}", slice(0, None)),
]
NOWHERE = ["bytes={size}-", "bytes={size}-{beyond}", "bytes=-0"]
IGNORED = ["bytes=20-10", "bytes=0-1,5-6", "bytes=a-b", "bytes=-", "bytes 0-1", "lines=0-1", "bytes=" + "9" * 19 + "-"]


@pytest.mark.parametrize("size", [100, LARGE], ids=["small", "large"])
def test_ranges(server: Server, size: int) -> None:
    data = os.urandom(size)
    server.put(FIRST, data)
    values = {"size": size, "late": size - 10, "beyond": size + 1000}
    for asked, part in PARTS:
        answer = server.get(Range=asked.format(**values))
        assert (answer.status, answer.body) == (206, data[part]), asked
        start, stop, _ = part.indices(size)
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for asked in NOWHERE:
        answer = server.get(Range=asked.format(**values))
        assert answer.code == (416, "range_invalid"), asked
        assert answer.headers["content-range"] == f"bytes */{size}"
    for asked in IGNORED:
        answer = server.get(Range=asked)
        assert (answer.status, answer.body) == (200, data), asked


@pytest.mark.parametrize(
    ("size", "asked", "found"),
    [(0, b"bytes=0-", (0, 0)), (0, b"bytes=-5", (0, 0)), (1, b"bytes=0-0", (0, 1)), (1, b"bytes=1-", (1, 0))],
)
def test_range_of_next_to_nothing(size: int, asked: bytes, found: tuple[int, int]) -> None:
    assert parse_range(asked, size) == found


def test_range_in_the_middle_of_a_large_needle(server: Server) -> None:
    data = os.urandom(LARGE)
    server.put(FIRST, data)
    assert server.get(Range="bytes=1000000-2000000").body == data[1_000_000:2_000_001]


def test_range_means_nothing_to_head(server: Server) -> None:
    server.put(FIRST, DATA)
    answer = server.ask("HEAD", get_url(), Range="bytes=0-9")
    assert (answer.status, answer.headers["content-length"]) == (200, "100")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If_None_Match": '"e"'}, 304),
        ({"If_None_Match": 'W/"e"'}, 304),
        ({"If_None_Match": '"a", "e"'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"a"'}, 200),
        ({"If_None_Match": "e"}, 200),
        ({"If_Match": '"e"'}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": 'W/"e"'}, 412),
        ({"If_Match": '"a"'}, 412),
        ({"If_Match": '"a"', "If_None_Match": '"e"'}, 412),
        ({"Range": "bytes=0-1", "If_Range": '"e"'}, 206),
        ({"Range": "bytes=0-1", "If_Range": '"a"'}, 200),
        ({"Range": "bytes=0-1", "If_Range": 'W/"e"'}, 200),
        ({"Range": "bytes=0-1", "If_Range": "Sat, 01 Jan 2000 00:00:00 GMT"}, 200),
        ({"Range": "bytes=500-", "If_None_Match": '"e"'}, 304),
    ],
)
def test_conditions(server: Server, headers: dict[str, str], status: int) -> None:
    server.put(FIRST, DATA)
    for method in ("GET", "HEAD"):
        answer = server.ask(method, get_url(), **headers)
        assert answer.status == (200 if method == "HEAD" and status == 206 else status)
        if status != 412:
            assert answer.headers["etag"] == '"e"'


def test_damage_is_an_error_and_a_report_but_never_bytes(server: Server) -> None:
    server.put(FIRST, DATA)
    offset, length = server.call(lambda: server.volume.locate(FIRST))
    with server.volume.path.open("r+b") as file:
        file.seek(offset + length - 1)
        file.write(b"\xff")
    answer = server.get()
    assert answer.code == (500, "needle_damaged")
    assert DATA[:50] not in answer.body
    assert server.call(server.volume.report)["damaged_count"] == 1


# -- signatures --------------------------------------------------------------------------------------------------

GET = get_url(content_type="text/plain")
PUT = put_url()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize(
    "change",
    [
        lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
        lambda url: url.replace("/1/", "/2/"),
        lambda url: url.replace("/1/", "/01/"),
        lambda url: url.replace("exp=", "exp=1"),
        lambda url: url.replace("exp=", "exp=0"),
        lambda url: url.replace("kid=1", "kid=2"),
        lambda url: url + "&x=1",
        lambda url: url.replace("?", "?x=1&"),
        lambda url: url[: url.index("&sig")],
        lambda url: url.upper().replace("HTTP", "http"),
        lambda url: url.replace("&kid=1", "").replace("?", "?kid=1&"),
        lambda url: url.replace("/1/", "/%31/"),
        lambda url: "/" + url,
        lambda url: "/1/zz?" + url.partition("?")[2],
    ],
)  # fmt: skip
def test_changed_url_is_403_and_writes_nothing(server: Server, method: str, change: Any) -> None:
    server.put(FIRST, DATA)
    before = trace(server)
    url = change(put_url(FIRST + 1) if method == "PUT" else GET)
    answer = server.ask(method, url, b"x" if method == "PUT" else b"")
    assert answer.status == 403
    if method != "HEAD":
        assert answer.json()["code"] == "signature_invalid"
    assert trace(server) == before


def test_method_is_under_the_signature(server: Server) -> None:
    server.put(FIRST, DATA)
    assert server.ask("PUT", GET, b"x").code == (403, "signature_invalid")
    assert server.ask("GET", PUT).code == (403, "signature_invalid")
    for method in ("POST", "DELETE", "PATCH"):
        assert server.ask(method, GET).code == (403, "signature_invalid")


def test_needle_of_a_get_is_under_the_signature(server: Server) -> None:
    server.put(FIRST, DATA)
    server.put(FIRST + 1, DATA)
    url = get_url(FIRST).replace(f"{FIRST:016x}", f"{FIRST + 1:016x}")
    assert server.ask("GET", url).code == (403, "signature_invalid")


@pytest.mark.parametrize("needle", [FIRST - 1, FIRST + 4096, 1])
def test_needle_outside_the_lease(server: Server, needle: int) -> None:
    before = trace(server)
    assert server.put(needle, b"x").code == (403, "needle_outside_lease")
    assert trace(server) == before


def test_expired(server: Server) -> None:
    assert server.ask("GET", get_url(expires=1000)).code == (403, "expired")
    assert server.put(FIRST, b"x", url=lease(expires=1000)).code == (403, "expired")


def test_time_is_the_masters(server: Server) -> None:
    server.put(FIRST, DATA)
    url = get_url()
    server.call(lambda: server.clock.correct(0, local_ms=-10_000_000))
    assert server.ask("GET", url).code == (403, "expired")


def test_lease_once_verified_still_expires_and_can_be_revoked(server: Server) -> None:
    url = lease()
    assert server.put(FIRST, b"x", url=url).status == 201
    server.gate.revoked = {5: 3}
    assert server.put(FIRST + 1, b"x", url=url).code == (403, "key_revoked")
    assert server.get().code == (403, "key_revoked")
    assert server.put(FIRST + 2, b"x", url=lease(generation=3)).status == 201
    assert server.put(FIRST + 3, b"x", url=lease(api_key=6)).status == 201
    server.gate.revoked = {}
    server.call(lambda: server.clock.correct(0, local_ms=-10_000_000))
    assert server.put(FIRST + 4, b"x", url=url).code == (403, "expired")


@pytest.mark.parametrize("options", [{"signed_volume": 2}, {"signed_expires": 4_000_000_000}, {"secret": b"x" * 32}])
def test_intent_of_another_lease_is_refused(server: Server, options: dict[str, Any]) -> None:
    assert server.put(FIRST, b"x", url=lease(**options)).code == (403, "signature_invalid")


def test_volume_and_needle_that_are_not_here(server: Server) -> None:
    assert server.ask("GET", get_url(volume=2)).code == (404, "volume_unknown")
    assert server.put(FIRST, b"x", url=lease(volume=2)).code == (404, "volume_unknown")
    assert server.get().code == (404, "needle_unknown")


@pytest.mark.parametrize("target", ["/", "/favicon.ico", "/x/1", "/admin", "/volume"])
def test_other_paths_are_not_here(server: Server, target: str) -> None:
    for method in ("GET", "POST"):
        assert server.ask(method, target).code == (404, "not_found")


# -- PUT: what is judged before the body -------------------------------------------------------------------------

CHUNK = {"key": "f", "key_fixed": True, "upload": uuid.UUID(int=7), "chunk_count": 2, "total_bytes": 2}
BAD_PUTS: list[tuple[str, dict[str, Any], dict[str, Any], bytes, tuple[int, str]]] = [
    ("no length", {}, {"Content_Length": None}, b"", (411, "length_required")),
    ("too large", {"max_bytes": 10}, {}, bytes(11), (413, "payload_too_large")),
    ("not exact", {"max_bytes": 10, "exact": True}, {}, bytes(9), (400, "size_mismatch")),
    ("no key", {}, {"Warehouse_Key": None}, b"x", (400, "key_invalid")),
    ("empty key", {}, {"Warehouse_Key": ""}, b"x", (400, "key_invalid")),
    ("key with NUL", {}, {"Warehouse_Key": "a%00"}, b"x", (400, "key_invalid")),
    ("key too long", {}, {"Warehouse_Key": "k" * 1025}, b"x", (400, "key_invalid")),
    ("key that is no UTF-8", {}, {"Warehouse_Key": "%ff"}, b"x", (400, "key_invalid")),
    ("key that is not encoded", {}, {"Warehouse_Key": "ä"}, b"x", (400, "key_invalid")),
    ("key with half an escape", {}, {"Warehouse_Key": "a%2"}, b"x", (400, "key_invalid")),
    ("key where it is fixed", {"key": "f", "key_fixed": True}, {}, b"x", (400, "key_invalid")),
    ("key outside the prefix", {"key": "p/"}, {}, b"x", (403, "key_outside_lease")),
    ("CRC that is none", {}, {"Warehouse_CRC32": "xyz"}, b"x", (400, "bad_request")),
    ("CRC in capitals", {}, {"Warehouse_CRC32": "8CDC1683"}, b"x", (400, "bad_request")),
    ("metadata name", {}, {"Warehouse_Meta_a_b": "1", "Warehouse-Meta-a!": "1"}, b"x", (400, "metadata_invalid")),
    ("metadata name too long", {}, {"Warehouse_Meta_" + "n" * 65: "1"}, b"x", (400, "metadata_invalid")),
    ("metadata too long", {}, {"Warehouse_Meta_a": "v" * 2048}, b"x", (400, "metadata_invalid")),
    ("metadata that is no UTF-8", {}, {"Warehouse_Meta_a": "%ff"}, b"x", (400, "metadata_invalid")),
    ("type too long", {}, {"Content_Type": "t" * 256}, b"x", (400, "metadata_invalid")),
    ("type that is no ASCII", {}, {"Content_Type": "ä"}, b"x", (400, "metadata_invalid")),
    ("If-None-Match of a tag", {}, {"If_None_Match": '"e"'}, b"x", (400, "bad_request")),
    ("empty If-None-Match", {}, {"If_None_Match": ""}, b"x", (400, "bad_request")),
    ("empty If-Match", {}, {"If_Match": ""}, b"x", (400, "bad_request")),
    ("blank If-Match", {}, {"If_Match": "  "}, b"x", (400, "bad_request")),
    ("If-Modified-Since", {}, {"If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"x", (400, "bad_request")),
    ("If-Unmodified-Since", {}, {"If_Unmodified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"x", (400, "bad_request")),
    ("condition of a chunk", CHUNK, {"Warehouse_Key": None, "If_Match": "*"}, b"x", (400, "bad_request")),
    ("condition of a new chunk", CHUNK, {"Warehouse_Key": None, "If_None_Match": "*"}, b"x", (400, "bad_request")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "headers", "body", "code"), [row[1:] for row in BAD_PUTS], ids=[r[0] for r in BAD_PUTS]
)
def test_bad_put_is_refused_and_writes_nothing(
    server: Server, terms: dict[str, Any], headers: dict[str, Any], body: bytes, code: tuple[int, str]
) -> None:
    before = trace(server)
    assert server.put(FIRST, body, url=lease(**terms), **headers).code == code
    assert trace(server) == before
    assert server.verdicts.asked == []


@pytest.mark.parametrize("size", [5, 500_000])
def test_wrong_crc_leaves_nothing(server: Server, size: int) -> None:
    before = trace(server)
    url = lease(max_bytes=size, count=1)
    assert server.put(FIRST, bytes(size), url=url, Warehouse_CRC32="00000001").code == (400, "crc_mismatch")
    assert trace(server) == before
    crc = f"{zlib.crc32(bytes(size)):08x}"
    assert server.put(FIRST, bytes(size), url=url, Warehouse_CRC32=crc).status == 201  # the lease was not charged


def test_attributes_go_to_the_master_and_into_the_needle(server: Server) -> None:
    answer = server.put(
        FIRST, b"x", Warehouse_Key="a%20%C3%A4", Content_Type="text/plain", Warehouse_Meta_Colour="bl%C3%A4u",
        If_Match='"v1"',
    )  # fmt: skip
    assert answer.json()["key"] == "a ä"
    [put] = server.verdicts.asked
    assert put.key == "a ä"
    assert put.attributes == Attributes("text/plain", {"colour": "bläu"}, '"v1"')
    kept = metas.decode(server.call(lambda: server.volume.look(FIRST)).meta)
    assert kept == metas.Meta(put.lease.raw, "a ä", "text/plain", '"v1"', False, {"colour": "bläu"})
    server.put(FIRST + 1, b"x", If_None_Match="*")
    assert server.verdicts.asked[1].attributes.if_none_match


def test_upload_fixes_all_attributes(server: Server) -> None:
    url = lease(key="f", key_fixed=True, upload=uuid.uuid4(), exact=True, max_bytes=1)
    server.put(FIRST, b"x", url=url, Warehouse_Key=None, Content_Type="text/html", Warehouse_Meta_A="1")
    [put] = server.verdicts.asked
    assert (put.key, put.attributes) == (None, NO_ATTRIBUTES)


def test_stored_chunk_is_202(server: Server) -> None:
    server.verdicts.judge = lambda _: {"state": "stored", "upload": "u", "index": 1}
    answer = server.put(FIRST, b"x")
    assert (answer.status, answer.json()["state"], answer.json()["crc32"]) == (202, "stored", 0x8CDC1683)


def test_lease_is_charged_for_all_that_was_begun(server: Server) -> None:
    """Two aborted in the middle and one that stands: the fourth has no room, one that is aborted at the tail has."""
    url = lease(count=3, max_bytes=400_000)
    wires = [server.wire() for _ in range(2)]
    sent = 0
    for number, wire in enumerate(wires):
        head = request("PUT", put_url(FIRST + number, url), Content_Length="400000")
        wire.send(head + bytes(300_000))
        sent += len(head) + 300_000
        server.wait_received(sent)
    assert server.put(FIRST + 2, b"x", url=url).status == 201
    for wire in wires:
        wire.reset()
    server.wait(lambda: not server.volume.claims, what="the aborts")
    assert server.put(FIRST, bytes(400_000), url=url).code == (403, "lease_exhausted")
    cut = server.wire().send(request("PUT", put_url(FIRST, url), Content_Length="399999") + bytes(10))
    server.wait(lambda: server.volume.claims, what="the reservation")
    cut.reset()
    server.wait(lambda: not server.volume.claims, what="the abort at the tail")
    assert server.put(FIRST, bytes(399_999), url=url).status == 201


# -- duplicates and verdicts -------------------------------------------------------------------------------------

SIZES = pytest.mark.parametrize("size", [10, 600_000], ids=["small", "large"])


@SIZES
def test_repeated_put_gets_the_same_answer_and_asks_again(server: Server, size: int) -> None:
    data = os.urandom(size)
    first = server.put(FIRST, data)
    before = trace(server)
    second = server.put(FIRST, data)
    assert (first.status, second.status, first.body) == (201, 201, second.body)
    assert trace(server) == before
    one, two = server.verdicts.asked
    assert (one.data_crc, one.appended_ms, one.meta) == (two.data_crc, two.appended_ms, two.meta)


@SIZES
def test_other_bytes_key_or_attributes_are_409(server: Server, size: int) -> None:
    data = os.urandom(size)
    server.put(FIRST, data)
    before = trace(server)
    last_changed = data[:-1] + bytes([data[-1] ^ 1])
    for body, headers in (
        (last_changed, {}),
        (data[:-1], {}),
        (data, {"Warehouse_Key": "other"}),
        (data, {"Content_Type": "text/plain"}),
        (data, {"Warehouse_Meta_A": "1"}),
        (data, {"If_None_Match": "*"}),
    ):
        assert server.put(FIRST, body, **headers).code == (409, "needle_taken")
    assert server.put(FIRST, data, url=lease(max_bytes=LARGE - 1)).code == (409, "needle_taken")
    assert trace(server) == before
    assert len(server.verdicts.asked) == 1


@SIZES
def test_same_needle_at_the_same_time(server: Server, size: int) -> None:
    """One is appended, the others wait for its sync: the same bytes get the same answer, others 409."""
    data, other = os.urandom(size), os.urandom(size)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: server.put(FIRST, data if number % 3 else other), range(12)))
    winner = server.get().body
    for number, answer in enumerate(answers):
        mine = data if number % 3 else other
        assert answer.status == (201 if mine == winner else 409)
    assert server.call(server.volume.report)["live_count"] == 1
    assert server.call(server.volume.report)["garbage_bytes"] == 0


def test_duplicate_waits_for_an_upload_that_dies_and_takes_its_place(server: Server) -> None:
    dying = server.wire().send(request("PUT", put_url(), Content_Length="600000") + bytes(500_000))
    server.wait(lambda: FIRST in server.volume.claims, what="the claim")
    waiting = server.wire().send(request("PUT", put_url(), b"y" * 700_000))
    server.wait(lambda: server.volume.claims[FIRST].waiters, what="the second to wait")
    dying.reset()
    assert waiting.answer().status == 201
    assert server.get().body == b"y" * 700_000


def test_waiting_duplicate_that_left_is_forgotten(server: Server) -> None:
    first = server.wire().send(request("PUT", put_url(), Content_Length="600000") + bytes(500_000))
    server.wait(lambda: FIRST in server.volume.claims, what="the claim")
    gone = server.wire().send(request("PUT", put_url(), b"y" * 10))
    server.wait(lambda: server.volume.claims[FIRST].waiters, what="the second to wait")
    gone.reset()
    server.wait(lambda: len(server.listener.connections) == 1, what="it to be gone")
    assert first.send(bytes(100_000)).answer().status == 201
    assert len(server.verdicts.asked) == 1


@SIZES
def test_refused_needle_is_buried_before_the_refusal_is_answered(server: Server, size: int) -> None:
    server.verdicts.judge = refused
    synced: list[int] = []
    server.files.before = lambda call: synced.append(len(server.verdicts.asked)) if call == "sync_data" else None
    answer = server.put(FIRST, bytes(size))
    assert answer.code == (412, "precondition_failed")
    assert (answer.json()["title"], answer.json()["detail"]) == ("No", "it changed")
    assert synced == [0, 1]  # one for the data, before the master was asked, and one for the tombstone
    assert server.call(lambda: server.volume.verdict_of_dead(FIRST)) == "412 precondition_failed"
    assert server.get().code == (404, "needle_unknown")


@SIZES
def test_refused_needle_keeps_its_verdict(server: Server, size: int) -> None:
    server.verdicts.judge = refused
    server.put(FIRST, bytes(size))
    server.verdicts.judge = lambda _: pytest.fail("it was judged before")
    assert server.put(FIRST, bytes(size)).code == (412, "precondition_failed")


def test_refused_twice_at_once_is_buried_once(server: Server) -> None:
    server.verdicts.judge = refused
    server.verdicts.hold = True
    wires = [server.wire().send(request("PUT", put_url(), b"x")) for _ in range(3)]
    server.wait(lambda: len(server.verdicts.asked) == 3, what="all to be asked for")
    server.call(server.verdicts.release)
    assert [wire.answer().code for wire in wires] == [(412, "precondition_failed")] * 3
    assert server.call(server.volume.report)["tombstone_count"] == 1


def test_deleted_needle_never_lives_again(server: Server) -> None:
    server.put(FIRST, b"x")
    assert admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]}).status == 200
    for size in (1, 600_000):
        assert server.put(FIRST, bytes(size)).code == (409, "needle_taken")


def test_client_that_left_before_the_verdict_harms_nobody(server: Server) -> None:
    server.verdicts.hold = True
    server.verdicts.judge = refused
    wire = server.wire().send(request("PUT", put_url(), b"x"))
    server.wait(lambda: server.verdicts.asked, what="the confirm")
    wire.reset()
    server.wait(lambda: not server.listener.connections, what="the connection to be gone")
    server.call(server.verdicts.release)
    server.wait(lambda: server.volume.index.get(FIRST) and not server.volume.stored_length(FIRST), what="the tombstone")


# -- failures ----------------------------------------------------------------------------------------------------


@SIZES
def test_full_disk_is_507_and_charges_nothing(server: Server, size: int) -> None:
    import errno

    before = trace(server)
    server.files.fail("write_at", errno.ENOSPC, part_bytes=20)
    url = lease(count=1, max_bytes=size)
    assert server.put(FIRST, bytes(size), url=url).code == (507, "disk_full")
    assert trace(server) == before
    assert server.put(FIRST, bytes(size), url=url).status == 201


def test_disk_that_fills_up_while_a_body_comes_in(server: Server) -> None:
    import errno

    before = trace(server)
    server.files.fail("write_at", errno.ENOSPC, after=1, part_bytes=1000)
    assert server.put(FIRST, bytes(LARGE)).code == (507, "disk_full")
    assert trace(server) == before
    assert server.put(FIRST, bytes(LARGE)).status == 201


def test_full_volume_is_507(server: Server) -> None:
    server.call(lambda: setattr(server.volume, "size_limit", 10_000))
    assert server.put(FIRST, bytes(5000)).code == (507, "volume_full")
    assert server.put(FIRST, bytes(600_000)).code == (507, "volume_full")
    assert server.put(FIRST, bytes(500)).status == 201


def test_failed_write_of_a_body_seals(server: Server) -> None:
    server.files.fail("write_at", after=1)
    assert server.put(FIRST, bytes(LARGE)).code == (503, "volume_sealed")
    assert server.put(FIRST + 1, b"x").code == (503, "volume_sealed")


def test_failed_fsync_answers_503_to_all_who_waited_and_confirms_nothing(server: Server) -> None:
    assert server.put(FIRST, b"before").status == 201
    server.files.fail("sync_data")
    wires = [server.wire().send(request("PUT", put_url(FIRST + number), b"x")) for number in range(1, 9)]
    assert [wire.answer().code for wire in wires] == [(503, "volume_sealed")] * 8
    assert len(server.verdicts.asked) == 1
    assert server.get().body == b"before"
    assert server.put(FIRST, b"before").status == 201  # what was synced is still confirmed
    assert server.call(lambda: server.volume.claims) == {}


@SIZES
def test_put_repeated_after_a_failed_fsync_and_a_restart_is_not_confirmed(tmp_path: Any, size: int) -> None:
    url = lease()
    with running(tmp_path) as server:
        server.files.fail("sync_data")
        assert server.put(FIRST, bytes(size), url=url).code == (503, "volume_sealed")
    with running(tmp_path, files=FaultyFiles()) as server:
        assert server.put(FIRST, bytes(size), url=url).code == (503, "volume_sealed")
        assert server.verdicts.asked == []


def test_tombstone_that_cannot_be_synced_is_no_refusal(server: Server) -> None:
    server.verdicts.judge = refused
    server.files.fail("sync_data", after=1)
    assert server.put(FIRST, b"x").code == (503, "volume_sealed")


# -- OPTIONS -----------------------------------------------------------------------------------------------------


def test_preflight_of_an_origin_that_is_allowed(server: Server) -> None:
    server.origins.allowed = frozenset({b"https://app.example"})
    for origin in (MASTER, "https://app.example"):
        answer = server.ask(
            "OPTIONS", PUT, Origin=origin, Access_Control_Request_Method="PUT",
            Access_Control_Request_Headers="warehouse-key, content-type",
        )  # fmt: skip
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == origin
        assert "PUT" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "warehouse-key, content-type"
        assert answer.headers["vary"] == "Origin"


def test_origin_that_is_not_allowed_gets_no_leave(server: Server) -> None:
    server.put(FIRST, DATA)
    for method, url in (("OPTIONS", PUT), ("GET", get_url()), ("GET", get_url(FIRST + 9))):
        answer = server.ask(method, url, Origin="https://evil.example", Access_Control_Request_Method="PUT")
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_to_an_allowed_origin_says_so(server: Server) -> None:
    def allowed(answer: Answer) -> bool:
        return answer.headers.get("access-control-allow-origin") == MASTER

    assert allowed(server.put(FIRST, DATA, Origin=MASTER))
    assert allowed(server.get(Origin=MASTER))
    assert allowed(server.get(Origin=MASTER, Range="bytes=0-1"))
    assert allowed(server.get(Origin=MASTER, Range="bytes=900-"))
    assert allowed(server.put(FIRST, b"other", Origin=MASTER))
    assert allowed(server.ask("GET", GET + "x", Origin=MASTER))


@pytest.mark.parametrize(
    ("method", "target"), [("OPTIONS", PUT), ("GET", GET), ("GET", "/healthz"), ("GET", "/metrics")]
)
def test_body_that_nobody_reads_is_never_taken_for_a_request(server: Server, method: str, target: str) -> None:
    smuggled = request("GET", "/healthz")
    wire = server.wire().send(request(method, target, smuggled) + request("GET", "/usage"))
    assert wire.answer().code == (400, "bad_request")
    assert wire.answer().code == (401, "signature_invalid")  # the request behind it, not the one in it


# -- the master's calls ------------------------------------------------------------------------------------------


def test_usage(server: Server) -> None:
    found = admin(server, "/usage", None, method="GET").json()
    assert found["server"] == server.store.identity.server
    assert [volume["volume"] for volume in found["volumes"]] == [1]
    assert found["free_bytes"] <= found["capacity_bytes"]
    assert found["disk"] == server.store.disk_id()


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": signing.TO_MASTER},
        {"body": b"other"},
        {"target": "/admin/seal"},
        {"method": "GET"},
        {"server": "x"},
    ],
)
def test_request_that_was_signed_as_another_is_401(server: Server, changes: dict[str, Any]) -> None:
    server.put(FIRST, DATA)
    answer = admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]}, signed_as=changes)
    assert answer.code == (401, "signature_invalid")
    assert server.get().status == 200


@pytest.mark.parametrize("off_ms", [-61_000, 61_000])
def test_request_signed_at_another_time_is_401(server: Server, off_ms: int) -> None:
    answer = admin(server, "/usage", None, method="GET", signed_as={"time_ms": server.clock.now_ms() + off_ms})
    assert answer.code == (401, "clock_skew")


@pytest.mark.parametrize("target", ["/usage", "/admin/delete", "/admin/seal", "/admin/x"])
def test_unsigned_request_is_401(server: Server, target: str) -> None:
    assert server.ask("POST", target, b"{}").code == (401, "signature_invalid")


def test_delete_tells_deleted_from_absent_and_can_be_repeated(server: Server) -> None:
    names = [f"{FIRST + number:016x}" for number in range(4)]
    for number in range(3):
        server.put(FIRST + number, b"x")
    body = {"volume": 1, "needles": [names[0], names[3], names[1], names[0]]}
    found = admin(server, "/admin/delete", body).json()
    assert (set(found["deleted"]), found["absent"]) == ({names[0], names[1]}, [names[3]])
    assert set(admin(server, "/admin/delete", body).json()["deleted"]) == {names[0], names[1]}
    assert [server.get(FIRST + number).status for number in range(3)] == [404, 404, 200]


def test_delete_is_answered_once_the_tombstones_are_durable(server: Server) -> None:
    server.put(FIRST, b"x")
    server.files.fail("sync_data")
    answer = admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]})
    assert answer.code == (503, "volume_sealed")


def test_needle_on_its_way_is_neither_deleted_nor_absent(server: Server) -> None:
    wire = server.wire().send(request("PUT", put_url(), Content_Length="600000") + bytes(10))
    server.wait(lambda: server.volume.claims, what="the claim")
    found = admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]}).json()
    assert found == {"deleted": [], "absent": []}
    wire.close()


@pytest.mark.parametrize(
    "body",
    [
        [], "x", {"volume": "1", "needles": []}, {"volume": 1}, {"volume": 1, "needles": [1]},
        {"volume": 1, "needles": ["1"]}, {"volume": 1, "needles": ["0" * 15 + "X"]},
        {"volume": 1, "needles": ["0" * 17]},
    ],
)  # fmt: skip
def test_bad_delete_is_400_and_deletes_nothing(server: Server, body: object) -> None:
    assert admin(server, "/admin/delete", body).code == (400, "bad_request")


def test_seal(server: Server) -> None:
    server.put(FIRST, DATA)
    assert admin(server, "/admin/seal", {"volume": 1}).json()["state"] == "sealed"
    assert server.put(FIRST + 1, b"x").code == (503, "volume_sealed")
    assert server.get().body == DATA
    assert admin(server, "/admin/seal", {"volume": 2}).code == (404, "volume_unknown")


def test_health_and_metrics(server: Server) -> None:
    server.put(FIRST, DATA)
    assert server.ask("GET", "/healthz").json() == {
        "status": "ok", "server": server.store.identity.server, "instance": "instance-of-this-test",
    }  # fmt: skip
    text = server.ask("GET", "/metrics").body.decode()
    assert 'warehouse_volume_live_count{volume="1"} 1\n' in text
    assert 'warehouse_answers_total{status="201"} 1\n' in text
    assert "# TYPE warehouse_volume_live_count gauge\n" in text
    assert server.ask("HEAD", "/metrics").body == b""


def test_request_id_is_taken_over_or_made(server: Server) -> None:
    assert server.ask("GET", "/healthz", X_Request_Id="abc-1.2_3").headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, "ä", ""):
        assert server.ask("GET", "/healthz", X_Request_Id=bad).headers["x-request-id"].startswith("instance-of-")
    assert server.ask("GET", "/nothing", X_Request_Id="mine").headers["x-request-id"] == "mine"


def test_largest_head_is_answered(server: Server) -> None:
    server.put(FIRST, DATA)
    assert server.get(A="a" * (MAX_HEADER_BYTES - 100)).status == 200
