"""Bad input at the volume server: a problem document with a stable code each time, and no trace."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.api import Answer, Api, Lease, put_headers, send
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until


@contextmanager
def no_trace(store: Store, bucket: str) -> Iterator[None]:
    """Neither a byte in any volume nor an object in the list may come of what is done inside."""
    api = store.api()
    before: tuple[dict[Path, int], list[str]] = (store.volume_files(), api.list(bucket))
    yield
    # An upload that broke off gives its space back when the server has noticed.
    wait_until(lambda: store.volume_files() == before[0], what="volume files as they were")
    assert api.list(bucket) == before[1]


def flipped(digit: str) -> str:
    """Another character of the same alphabet."""
    return {"0": "1", "a": "b", "A": "B"}.get(digit, "0" if digit.isdigit() else "a" if digit.islower() else "A")


def with_query(url: str, **changed: str | None) -> str:
    """The URL with parameters replaced, or dropped (None), everything else as it stands."""
    head, _, query = url.partition("?")
    kept = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name in changed:
            new = changed[name]
            if new is None:
                continue
            value = new
        kept.append(f"{name}={value}")
    return head + "?" + "&".join(kept)


def parameters(url: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in urlsplit(url).query.split("&"))


def tampered_put_urls(lease: Lease) -> Iterator[tuple[str, str]]:
    url = lease.url_of(0)
    signed = parameters(url)
    signature, intent = signed["sig"], signed["intent"]
    head, query = url.split("?")
    yield "another volume", url.replace(f"/{lease.volume}/", f"/{lease.volume + 1}/")
    yield "volume with a leading zero", url.replace(f"/{lease.volume}/", f"/0{lease.volume}/")
    yield "needle after the lease", lease.url_of(lease.count)
    yield "needle before the lease", lease.url.replace("{needle}", f"{lease.first - 1:016x}")
    yield "needle of another lease", lease.url.replace("{needle}", f"{lease.first + (1 << 16):016x}")
    yield "later expiry", with_query(url, exp=str(int(signed["exp"]) + 1))
    yield "expiry with a leading zero", with_query(url, exp="0" + signed["exp"])
    yield "another secret id", with_query(url, kid=str(int(signed["kid"]) + 1))
    yield "no signature", with_query(url, sig=None)
    yield "empty signature", with_query(url, sig="")
    yield "first digit of the signature", with_query(url, sig=flipped(signature[0]) + signature[1:])
    yield "last digit of the signature", with_query(url, sig=signature[:-1] + flipped(signature[-1]))
    yield "signature cut short", with_query(url, sig=signature[:-1])
    yield "signature too long", with_query(url, sig=signature + "0")
    yield "signature in capitals", with_query(url, sig=signature.upper())
    yield "no intent", with_query(url, intent=None)
    for at in (0, len(intent) // 4, len(intent) // 2, len(intent) - 1):
        yield f"intent at {at}", with_query(url, intent=intent[:at] + flipped(intent[at]) + intent[at + 1 :])
    yield "intent padded", with_query(url, intent=intent + "=")
    yield "a parameter more", f"{head}?x=1&{query}"
    yield "a parameter more, at the end", f"{url}&x=1"
    yield "a parameter twice", f"{head}?exp={signed['exp']}&{query}"
    yield "another order", f"{head}?intent={intent}&exp={signed['exp']}&kid={signed['kid']}&sig={signature}"
    yield "another spelling", url.replace("exp=", "%65xp=")


def test_tampered_put_url_is_refused_and_writes_nothing(store: Store, bucket: str) -> None:
    lease = store.api().lease(bucket, count=2)
    with no_trace(store, bucket):
        for what, url in tampered_put_urls(lease):
            answer = send("PUT", url, b"stolen", put_headers("k"))
            assert answer.status == 403, (what, answer)
            assert answer.code in {"signature_invalid", "needle_outside_lease"}, what
    assert lease.put(0, "k", b"mine").status == 201, "the URL as it was given is still good"


def test_put_url_serves_no_other_method_and_a_get_url_no_put(store: Store, bucket: str) -> None:
    api = store.api()
    api.put(bucket, "k", b"mine")
    get_url = api.look_up(bucket, "k")["k"]["chunks"][0]["urls"][0]
    put_url = api.lease(bucket).url_of(0)
    with no_trace(store, bucket):
        assert send("GET", put_url).code == "signature_invalid"
        assert send("HEAD", put_url).status == 403
        refused = send("PUT", get_url, b"stolen", put_headers("k"))
        assert (refused.status, refused.code) == (403, "signature_invalid")
        for method in ("POST", "DELETE", "PATCH"):
            for url in (put_url, get_url):
                answer = send(method, url)
                assert 400 <= answer.status < 500, (method, answer)
                assert answer.code
    assert send("GET", get_url).body == b"mine"


def test_tampered_get_url_is_refused(store: Store, bucket: str) -> None:
    api = store.api()
    api.put(bucket, "k", b"mine")
    api.put(bucket, "k2", b"other")
    url, other = (api.look_up(bucket, key)[key]["chunks"][0]["urls"][0] for key in ("k", "k2"))
    signed = parameters(url)
    needle = urlsplit(url).path.rpartition("/")[2]
    other_needle = urlsplit(other).path.rpartition("/")[2]
    for what, changed in {
        "another needle": url.replace(needle, other_needle),
        "needle without its zeros": url.replace(needle, needle.lstrip("0")),
        "later expiry": with_query(url, exp=str(int(signed["exp"]) + 60)),
        "another etag": with_query(url, etag=signed["etag"] + "0"),
        "on behalf of another key": with_query(url, key="0.0"),
        "shown inline": url.replace("etag=", "cd=inline&etag="),
        "another type": with_query(url, ct="text%2Fhtml") if "ct" in signed else url.replace("?", "?ct=text%2Fhtml&"),
        "no signature": with_query(url, sig=None),
        "signature": with_query(url, sig=flipped(signed["sig"][0]) + signed["sig"][1:]),
        "a parameter more": url + "&x=1",
    }.items():
        for method in ("GET", "HEAD"):
            answer = send(method, changed)
            assert answer.status == 403, (what, method, answer)
            assert b"mine" not in answer.body
    assert send("GET", url).body == b"mine"


def test_put_past_the_size_of_its_lease(store: Store, bucket: str) -> None:
    lease = store.api().lease(bucket, max_bytes=100)
    with no_trace(store, bucket):
        answer = lease.put(0, "k", b"x" * 101)
        assert (answer.status, answer.code) == (413, "payload_too_large")
    assert lease.put(0, "k", b"x" * 100).status == 201


def test_chunk_of_another_size_than_its_own(store: Store, bucket: str) -> None:
    api = store.api()
    upload = api.post(f"buckets/{bucket}/uploads", {"key": "k", "size": 2 * CHUNK_SIZE})
    url = upload["chunks"][0]["url"]
    with no_trace(store, bucket):
        short = send("PUT", url, b"x" * (CHUNK_SIZE - 1))
        assert (short.status, short.code) == (400, "size_mismatch")
        long = send("PUT", url, b"x" * (CHUNK_SIZE + 1))
        assert (long.status, long.code) in {(413, "payload_too_large"), (400, "size_mismatch")}


def test_put_with_a_wrong_crc(store: Store, bucket: str) -> None:
    lease = store.api().lease(bucket, count=4)
    with no_trace(store, bucket):
        answer = lease.put(0, "k", b"hello", Warehouse_CRC32="00000000")
        assert (answer.status, answer.code) == (400, "crc_mismatch")
        misspelt = lease.put(1, "k", b"hello", Warehouse_CRC32="3610A686")
        assert (misspelt.status, misspelt.code) == (400, "bad_request")
    assert lease.put(0, "k", b"hello", Warehouse_CRC32="3610a686").status == 201


def test_put_without_a_length(store: Store, bucket: str) -> None:
    lease = store.api().lease(bucket)
    with no_trace(store, bucket):
        bare = raw_put(lease.url_of(0), [b"Warehouse-Key: k"], b"")
        assert (bare.status, bare.code) == (411, "length_required")
        chunked = raw_put(
            lease.url_of(0), [b"Warehouse-Key: k", b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"
        )
        assert (chunked.status, chunked.code) == (411, "length_required")


@pytest.mark.parametrize("length", [b"-1", b"+5", b"5, 5", b"0x5", b"5 5", b" ", b"\xd9\xa5", b"99999999999999999999"])
def test_put_with_a_length_that_is_none(store: Store, bucket: str, length: bytes) -> None:
    lease = store.api().lease(bucket)
    with no_trace(store, bucket):
        answer = raw_put(lease.url_of(0), [b"Warehouse-Key: k", b"Content-Length: " + length], b"hello")
        assert answer.status in {400, 411, 413}, answer
        assert answer.code


def test_put_cut_off_half_way(store: Store, bucket: str) -> None:
    api = store.api()
    lease = api.lease(bucket, count=4, max_bytes=1 << 20)
    body = b"z" * (1 << 20)
    with no_trace(store, bucket):
        url = urlsplit(lease.url_of(0))
        with socket.create_connection((url.hostname, url.port)) as half:
            half.sendall(raw_request(lease.url_of(0), [b"Warehouse-Key: k", b"Content-Length: %d" % len(body)]))
            half.sendall(body[: len(body) // 2])
    wait_until(lambda: lease.put(0, "k", body).status == 201, what="the same PUT, whole this time")
    assert api.read(bucket, "k") == body


@pytest.mark.parametrize(
    ("key", "codes"),
    [
        (None, {"key_invalid", "bad_request"}),
        ("", {"key_invalid"}),
        ("x" * 1025, {"key_invalid"}),
        ("nul\0", {"key_invalid"}),
    ],
)
def test_key_that_is_none(store: Store, bucket: str, key: str | None, codes: set[str]) -> None:
    lease = store.api().lease(bucket)
    with no_trace(store, bucket):
        answer = send("PUT", lease.url_of(0), b"x", put_headers(key))
        assert answer.status == 400, answer
        assert answer.code in codes


@pytest.mark.parametrize("key", [b"%ff", b"%zz", b"%"])
def test_key_that_is_no_percent_encoded_utf8(store: Store, bucket: str, key: bytes) -> None:
    lease = store.api().lease(bucket)
    with no_trace(store, bucket):
        answer = raw_put(lease.url_of(0), [b"Warehouse-Key: " + key, b"Content-Length: 1"], b"x")
        assert (answer.status, answer.code) == (400, "key_invalid")


def test_unknown_volume_and_unknown_needle(store: Store, bucket: str) -> None:
    """Signed by a secret of the server itself, so that nothing but the volume or the needle is wrong."""
    api = store.api()
    api.put(bucket, "k", b"mine")
    server = store.server_of(api.look_up(bucket, "k")["k"]["chunks"][0]["urls"][0])
    known = int(urlsplit(api.look_up(bucket, "k")["k"]["chunks"][0]["urls"][0]).path.split("/")[1])
    volume = send("GET", store.signed_get(server, volume=4_000_000, needle=1 << 16))
    assert (volume.status, volume.code) == (404, "volume_unknown")
    needle = send("GET", store.signed_get(server, volume=known, needle=(1 << 47) - 1))
    assert (needle.status, needle.code) == (404, "needle_unknown")


def test_internal_routes_want_a_signature(store: Store) -> None:
    for part in store.servers:
        base = f"http://127.0.0.1:{part.port}"
        for method, path in (("GET", "/usage"), ("POST", "/admin/delete"), ("POST", "/admin/seal")):
            answer = send(method, base + path, b"{}" if method == "POST" else b"")
            assert answer.status in {401, 403}, (method, path, answer)
            assert answer.code
    for path in ("register", "heartbeat", "deregister", "confirm"):
        answer = send("POST", f"{store.url}/api/v1/internal/{path}", b"{}", {"Content-Type": "application/json"})
        assert 400 <= answer.status < 500, (path, answer)
        assert answer.code


def test_deleted_bucket_takes_no_more_needles(store: Store, bucket: str) -> None:
    api: Api = store.api()
    lease = api.lease(bucket)
    assert api.request("DELETE", f"buckets/{bucket}").status == 204
    answer = lease.put(0, "k", b"x")
    assert (answer.status, answer.code) == (404, "bucket_unknown")


def test_deleted_key_writes_no_more(store: Store, bucket: str) -> None:
    admin = store.api()
    grant = {"bucket": bucket, "prefix": "mine/", "permissions": 3}
    made = admin.post("keys", {"name": "short-lived", "permissions": 0, "grants": [grant]})
    lease = store.api(made["key"]).lease(bucket, count=4096, prefix="mine/")
    assert lease.put(0, "mine/0", b"x").status == 201
    assert admin.request("DELETE", f"keys/{made['id']}").status == 204

    written = admin.list(bucket)

    def refused() -> Answer | None:
        slot = len(written)
        answer = lease.put(slot, f"mine/{slot}", b"x")
        if answer.status == 201:  # the last second of the rights that were
            written.append(f"mine/{slot}")
            return None
        return answer

    answer = wait_until(refused, what="the refusal")
    assert (answer.status, answer.code) in {(403, "permission_denied"), (403, "key_revoked")}
    assert sorted(admin.list(bucket)) == sorted(written)


def raw_request(url: str, header_lines: list[bytes]) -> bytes:
    parts = urlsplit(url)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
    return head + b"".join(line + b"\r\n" for line in header_lines) + b"\r\n"


def raw_put(url: str, header_lines: list[bytes], body: bytes) -> Answer:
    """A PUT that no HTTP library would send."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(raw_request(url, header_lines) + body)
        response = HTTPResponse(connection, method="PUT")
        response.begin()
        return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())
