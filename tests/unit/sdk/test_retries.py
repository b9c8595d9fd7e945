"""The rules of repeating: never twice under two needles, never the wrong bytes, never more calls than needed."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.unit.sdk.conftest import QUICK
from tests.unit.sdk.fake_store import BEHEAD, CHUNK_SIZE, CUT, HANG_UP, KEY, FakeStore, Refusal
from warehouse import (
    ChecksumMismatch,
    Client,
    ConnectionFailed,
    Invalid,
    NoSpace,
    NotFound,
    ObjectChanged,
    ObjectDamaged,
    ObjectLost,
    OutcomeUnknown,
    PermissionDenied,
    SourceChanged,
    TooLarge,
    TransferError,
    Unauthorized,
    Unavailable,
)

LARGE = 3 * CHUNK_SIZE + 9


def flip(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


# Leases


def test_a_loop_of_small_puts_costs_a_call_per_lease(fake: FakeStore, client: Client) -> None:
    for number in range(1000):
        client.put("b", str(number), b"small")
    assert [lease["count"] for lease in fake.leases] == [64, 256, 1024]
    assert fake.calls["POST tokens"] == 1
    assert len({needle for needle, _, _ in fake.puts}) == 1000


def test_threads_share_leases(fake: FakeStore, client: Client) -> None:
    start = threading.Barrier(8)

    def put(thread: int) -> None:
        start.wait()
        for number in range(40):
            client.put("b", f"{thread}/{number}", b"small")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(8)))
    assert len(fake.leases) == 2
    assert fake.calls["POST tokens"] == 1
    assert len(fake.buckets["b"]) == 320


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(507, "volume_full"),
        Refusal(507, "disk_full"),
        Refusal(503, "volume_sealed"),
        Refusal(503, "volume_degraded"),
        Refusal(403, "expired"),
        Refusal(403, "lease_exhausted"),
        Refusal(404, "volume_unknown"),
        Refusal(409, "needle_taken"),
        Refusal(409, "epoch_stale"),
        Refusal(403, "intent_forged"),
    ],
    ids=lambda refusal: refusal.code,
)
def test_where_nothing_was_kept_a_new_lease_is_taken(fake: FakeStore, client: Client, refusal: Refusal) -> None:
    fake.fail("PUT needle", refusal)
    client.put("b", "k", b"body")
    assert len(fake.leases) == 2
    (first, _, _), (second, _, _) = fake.puts
    assert first >> 16 != second >> 16
    assert fake.buckets["b"]["k"].body == b"body"


def test_a_refusal_of_the_object_is_raised_at_once(fake: FakeStore, client: Client) -> None:
    fake.fail("PUT needle", Refusal(507, "quota_exceeded"))
    with pytest.raises(NoSpace, match="quota_exceeded"):
        client.put("b", "k", b"body")
    assert len(fake.puts) == 1
    fake.fail("PUT needle", Refusal(403, "permission_denied"))
    with pytest.raises(PermissionDenied):
        client.put("b", "k", b"body")
    assert len(fake.puts) == 2


def test_a_revoked_lease_is_asked_for_again_with_a_new_token(fake: FakeStore, client: Client) -> None:
    client.put("b", "k", b"1")
    fake.fail("PUT needle", Refusal(403, "key_revoked"))
    client.put("b", "k", b"2")
    assert fake.calls["POST tokens"] == 2
    assert fake.buckets["b"]["k"].body == b"2"


def test_rights_that_end_at_a_prefix(fake: FakeStore, client: Client) -> None:
    fake.writable_prefix = "team/a/"
    for number in range(100):
        client.put("b", f"team/a/deep/{number}", b"x")
    assert {lease["prefix"] for lease in fake.leases} == {"team/a/"}
    # "" and "team/" were refused once each, not once a put; two leases were given.
    assert fake.calls["POST leases"] == 4
    with pytest.raises(PermissionDenied):
        client.put("b", "team/b/1", b"x")


def test_rights_that_end_inside_a_name(fake: FakeStore, client: Client) -> None:
    fake.writable_prefix = "team/logs-"
    client.put("b", "team/logs-1", b"1")
    client.put("b", "team/logs-2", b"2")
    assert [(lease["prefix"], lease["count"]) for lease in fake.leases] == [("team/logs-1", 1), ("team/logs-2", 1)]


def test_objects_are_cut_at_the_stores_chunk_size() -> None:
    with FakeStore(chunk_size=1000) as fake, Client(fake.url, KEY, transfer=QUICK) as client:
        fake.buckets["b"] = {}
        body = os.urandom(3500)
        client.put("b", "first", body)
        for number in range(20):
            client.put("b", str(number), b"x" * 1000)
        client.put("b", "last", body)
        assert [len(fake.buckets["b"][key].chunks) for key in ("first", "1", "last")] == [4, 1, 4]
        assert client.get("b", "first") == client.get("b", "last") == body
        assert (fake.calls["POST uploads"], fake.calls["POST leases"]) == (2, 2)


def test_a_bucket_of_small_chunks_is_no_other_ones_limit(fake: FakeStore, client: Client) -> None:
    body = b"x" * 3500
    fake.chunk_size = 1000
    client.put("b", "k", body)
    fake.chunk_size, fake.buckets["c"] = CHUNK_SIZE, {}
    client.put("c", "k", body)
    client.put("c", "k2", body)
    assert [len(fake.buckets[bucket]["k"].chunks) for bucket in ("b", "c")] == [4, 1]
    assert (fake.calls["POST uploads"], fake.calls["POST leases"]) == (1, 2)


def test_a_store_that_gives_only_small_leases(fake: FakeStore, client: Client) -> None:
    fake.max_lease_bytes = 1 << 16
    client.put("b", "k", b"x" * (1 << 17))
    assert (fake.calls["POST uploads"], fake.calls["POST leases"]) == (1, 1)


# Repeating a PUT


@pytest.mark.parametrize("code", ["master_unavailable", "outcome_unknown"])
def test_without_a_verdict_the_same_put_is_repeated(fake: FakeStore, client: Client, code: str) -> None:
    fake.fail("PUT needle", Refusal(503, code), Refusal(503, code))
    client.put("b", "k", b"body", metadata={"a": "1"}, if_none_match=True)
    assert len(fake.puts) == 3
    assert fake.puts[0] == fake.puts[1] == fake.puts[2]
    assert len(fake.leases) == 1


def test_a_lost_answer_is_asked_for_by_the_same_put(fake: FakeStore, client: Client) -> None:
    """The first try commits: were the second a new needle, `if_none_match` would refuse the object to itself."""
    fake.fail("PUT needle", CUT)
    client.put("b", "k", b"body", if_none_match=True)
    assert len(fake.puts) == 2
    assert fake.puts[0] == fake.puts[1]


def test_after_a_lost_answer_no_other_needle_is_tried(fake: FakeStore, client: Client) -> None:
    fake.fail("PUT needle", CUT, Refusal(403, "expired"))
    with pytest.raises(OutcomeUnknown, match="expired"):
        client.put("b", "k", b"body")
    assert len({needle for needle, _, _ in fake.puts}) == 1
    assert len(fake.leases) == 1


def test_a_lost_answer_on_a_volume_that_then_lost_a_copy(fake: FakeStore, client: Client) -> None:
    """The needle may be in it, and committed: it is put there again until the volume takes records."""
    fake.fail("PUT needle", CUT, *[Refusal(503, "volume_degraded")] * 3)
    client.put("b", "k", b"body", if_none_match=True)
    assert len(fake.puts) == 5
    assert len({needle for needle, _, _ in fake.puts}) == 1
    assert len(fake.leases) == 1
    assert fake.buckets["b"]["k"].body == b"body"


def test_a_volume_that_stays_degraded_after_a_lost_answer(fake: FakeStore) -> None:
    with Client(fake.url, KEY, transfer=replace(QUICK, retry_s=0.05)) as client:
        fake.fail("PUT needle", CUT, *[Refusal(503, "volume_degraded")] * 1000)
        with pytest.raises(OutcomeUnknown, match="volume_degraded"):
            client.put("b", "k", b"body")
    assert len({needle for needle, _, _ in fake.puts}) == 1
    assert len(fake.leases) == 1


def test_all_volumes_are_degraded(fake: FakeStore) -> None:
    """Other leases are taken until patience ends, and nothing was kept."""
    with Client(fake.url, KEY, transfer=replace(QUICK, retry_s=0.1)) as client:
        fake.fail("PUT needle", *[Refusal(503, "volume_degraded")] * 1000)
        with pytest.raises(Unavailable, match="volume_degraded"):
            client.put("b", "k", b"body")
    assert len({needle >> 16 for needle, _, _ in fake.puts}) == len(fake.puts) > 1


def test_patience_ends(fake: FakeStore) -> None:
    with Client(fake.url, KEY, transfer=replace(QUICK, retry_s=0.05)) as client:
        fake.fail("PUT needle", *[Refusal(503, "master_unavailable")] * 1000)
        with pytest.raises(OutcomeUnknown, match="master_unavailable"):
            client.put("b", "k", b"body")
    assert len(fake.puts) > 1
    assert len({needle for needle, _, _ in fake.puts}) == 1


def test_bytes_damaged_on_the_way_are_sent_once_more(fake: FakeStore, client: Client) -> None:
    fake.fail("PUT needle", Refusal(400, "crc_mismatch"))
    client.put("b", "k", b"body")
    fake.fail("PUT needle", Refusal(400, "crc_mismatch"), Refusal(400, "crc_mismatch"))
    with pytest.raises(ChecksumMismatch):
        client.put("b", "k", b"body")


def test_a_header_cannot_be_smuggled(fake: FakeStore, client: Client) -> None:
    for attributes in ({"content_type": "a/b\r\nX: y"}, {"if_match": "\n"}, {"metadata": {"a\r\nb": "c"}}):
        with pytest.raises(ValueError, match=r"header|metadata"):
            client.put("b", "k", b"body", **attributes)
    assert fake.puts == []


def test_text_that_utf8_cannot_hold(fake: FakeStore, client: Client) -> None:
    wrong = "\ud800"
    calls: dict[str, list[Callable[[], object]]] = {
        "key": [
            lambda: client.put("b", wrong, b"small"),
            lambda: client.put("b", wrong, bytes(LARGE)),
            lambda: client.stat("b", wrong),
        ],
        "bucket": [
            lambda: client.bucket(wrong),
            lambda: client.delete_bucket(wrong),
            lambda: client.get(wrong, "k"),
            lambda: client.delete(wrong, "k"),
            lambda: client.put(wrong, "k", b""),
        ],
        "metadata": [lambda: client.put("b", "k", b"", metadata={"a": wrong})],
        "prefix": [lambda: list(client.list("b", wrong))],
        "delimiter": [lambda: list(client.list("b", delimiter=wrong))],
    }
    for field, asks in calls.items():
        for ask in asks:
            with pytest.raises(Invalid) as caught:
                ask()
            assert (caught.value.status, list(caught.value.errors)) == (400, [field])
    assert fake.puts == []


def test_what_is_too_much_for_one_commit_is_deleted_by_halves(fake: FakeStore, client: Client) -> None:
    keys = {str(number) for number in range(11)}
    for key in keys:
        client.put("b", key, b"small")
    fake.keys_a_delete = 3
    assert client.delete_many("b", [*keys, "none"]) == keys
    assert list(client.list("b")) == []
    fake.keys_a_delete = 0
    with pytest.raises(TooLarge):
        client.delete_many("b", ["0", "1"])


# Large puts


def test_chunks_are_repeated_by_the_same_rules(fake: FakeStore, client: Client) -> None:
    body = os.urandom(LARGE)
    fake.fail("PUT needle", Refusal(503, "master_unavailable"), HANG_UP, CUT, Refusal(507, "volume_full"))
    moved: list[int] = []
    client.put("b", "k", body, progress=moved.append)
    assert fake.buckets["b"]["k"].body == body
    assert sum(moved) == len(body)
    assert fake.calls["POST uploads"] == 1


@pytest.mark.parametrize("refusal", [Refusal(403, "expired"), Refusal(503, "volume_degraded")])
def test_an_upload_goes_on_with_new_urls(fake: FakeStore, client: Client, refusal: Refusal) -> None:
    fake.fail("PUT needle", refusal)
    client.put("b", "k", os.urandom(LARGE))
    assert fake.calls["GET uploads"] == 1
    assert fake.calls["PUT needle"] == 5


def test_the_last_answer_of_an_upload_may_be_lost(fake: FakeStore) -> None:
    """The chunk's own repeat brings the verdict."""
    with Client(fake.url, KEY, transfer=replace(QUICK, concurrency=1)) as client:
        body = os.urandom(2 * CHUNK_SIZE)
        fake.fail("PUT needle", lambda body: body, CUT)
        told = client.put("b", "k", body, if_none_match=True)
    assert (told.size, told.etag) == (len(body), fake.buckets["b"]["k"].etag)


def test_a_failed_upload_is_aborted(fake: FakeStore, client: Client) -> None:
    fake.fail("PUT needle", Refusal(507, "quota_exceeded"))
    with pytest.raises(NoSpace):
        client.put("b", "k", os.urandom(LARGE))
    assert [upload.state for upload in fake.uploads.values()] == ["aborted"]
    assert fake.buckets["b"] == {}


def test_an_upload_that_someone_aborts(fake: FakeStore) -> None:
    """Nothing of it is missing then, which must not be taken for complete."""
    with Client(fake.url, KEY, transfer=replace(QUICK, concurrency=1)) as client:
        fake.fail("PUT needle", lambda body: body, Refusal(507, "volume_full"))
        fake.before["GET uploads"] = lambda: fake.abort(next(iter(fake.uploads)))
        with pytest.raises(TransferError, match="aborted"):
            client.put("b", "k", os.urandom(2 * CHUNK_SIZE))
    assert fake.buckets["b"] == {}


def test_a_chunk_that_is_there_is_not_sent_again(fake: FakeStore) -> None:
    """Both answers of the last chunk are lost, and then it is not missing."""
    with Client(fake.url, KEY, transfer=replace(QUICK, concurrency=1, retry_s=0.3)) as client:
        body = os.urandom(2 * CHUNK_SIZE)
        fake.fail("PUT needle", lambda body: body, CUT, *[Refusal(403, "expired")] * 9)
        told = client.put("b", "k", body)
    assert told.etag == fake.buckets["b"]["k"].etag
    assert fake.calls["PUT needle"] == 3


def test_a_file_that_changes_is_no_version(fake: FakeStore, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(LARGE))

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    fake.before["POST uploads"] = grow
    with pytest.raises(SourceChanged):
        client.put("b", "k", path)
    assert fake.buckets["b"] == {}


def test_a_file_that_is_written_over_while_it_is_put(fake: FakeStore, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * CHUNK_SIZE))

    def overwrite() -> None:
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(1, 1))

    fake.before["POST uploads"] = overwrite
    with pytest.raises(SourceChanged):
        client.put("b", "k", path)
    assert fake.buckets["b"] == {}


class Pieces:
    """A stream that gives a few bytes at a time."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        piece, self._body = self._body[: min(size, 70_001)], self._body[min(size, 70_001) :]
        return piece


@pytest.mark.parametrize("told", [LARGE - 1, LARGE + 1])
def test_a_stream_must_be_as_long_as_it_is_said_to_be(fake: FakeStore, client: Client, told: int) -> None:
    with pytest.raises(SourceChanged):
        client.put("b", "k", Pieces(os.urandom(LARGE)), size=told)  # type: ignore[arg-type]
    assert fake.buckets["b"] == {}


def test_a_stream_beyond_memory_goes_through_a_file(fake: FakeStore) -> None:
    body = os.urandom(LARGE)
    with Client(fake.url, KEY, transfer=replace(QUICK, spool_bytes=1000)) as client:
        client.put("b", "k", Pieces(body))  # type: ignore[arg-type]
    assert fake.buckets["b"]["k"].body == body


def test_what_is_no_source(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    with path.open() as text, pytest.raises(TypeError, match="text mode"):
        client.put("b", "k", text)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.put("b", "k", 5)  # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError):
        client.put("b", "k", tmp_path)
    with pytest.raises(ValueError, match="size"):
        client.put("b", "k", b"12", size=3)


# Tokens


def test_a_dead_token_is_renewed_once_for_all_threads(fake: FakeStore, client: Client) -> None:
    client.put("b", "k", b"body")
    fake.tokens.clear()
    start = threading.Barrier(8)

    def stat(_: int) -> int:
        start.wait()
        return client.stat("b", "k").size

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(stat, range(8))) == [4] * 8
    assert fake.calls["POST tokens"] == 2


def test_a_token_is_renewed_before_it_ends() -> None:
    with FakeStore(token_life_s=0) as fake, Client(fake.url, KEY, transfer=QUICK) as client:
        list(client.list_buckets())
        list(client.list_buckets())
        assert fake.calls["POST tokens"] == 2
        assert fake.calls["GET buckets"] == 2


def test_a_token_that_is_refused_twice_is_not_renewed_for_ever(fake: FakeStore, client: Client) -> None:
    fake.fail("GET buckets", Refusal(401, "token_invalid"), Refusal(401, "token_invalid"))
    with pytest.raises(Unauthorized):
        list(client.list_buckets())
    assert fake.calls["POST tokens"] == 2


def test_a_wrong_key(fake: FakeStore) -> None:
    with Client(fake.url, "whk_2_wrong") as client, pytest.raises(Unauthorized):
        list(client.list_buckets())
    assert fake.calls["POST tokens"] == 1


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:1", KEY, transfer=QUICK) as client, pytest.raises(ConnectionFailed, match="refused"):
        list(client.list_buckets())


def test_a_master_that_is_away_for_a_moment(fake: FakeStore, client: Client) -> None:
    fake.fail("GET buckets", Refusal(503, "unavailable"), Refusal(503, "unavailable"))
    assert [bucket.name for bucket in client.list_buckets()] == ["b"]


def test_what_cannot_be_repeated_is_not(fake: FakeStore, client: Client) -> None:
    fake.fail("POST buckets", CUT)
    with pytest.raises(OutcomeUnknown):
        client.create_bucket("other")
    assert fake.calls["POST buckets"] == 1


def test_an_answer_that_ends_within_its_head_is_none(fake: FakeStore, client: Client) -> None:
    client.put("b", "k", b"x")
    fake.fail("POST delete", BEHEAD)
    assert client.delete("b", "k") is False  # the first call has deleted it, and its answer was lost
    assert fake.calls["POST delete"] == 2
    fake.fail("POST buckets", BEHEAD)
    with pytest.raises(OutcomeUnknown):
        client.create_bucket("other")


# Gets


@pytest.mark.parametrize("size", [100, LARGE])
def test_the_next_replica_is_asked(fake: FakeStore, client: Client, size: int, tmp_path: Path) -> None:
    fake.replicas = 3
    body = os.urandom(size)
    client.put("b", "k", body)
    ways: list[Callable[[], bytes]] = [
        lambda: client.get("b", "k"),
        lambda: b"".join(client.iter_bytes("b", "k")),
        lambda: client.open("b", "k").read(),
        lambda: (client.download("b", "k", tmp_path / "k"), (tmp_path / "k").read_bytes())[1],
    ]
    for way in ways:
        for fault in (flip, CUT, HANG_UP, Refusal(500, "needle_damaged")):
            fake.fail("GET needle", fault)
            assert way() == body
    assert fake.calls["POST downloads"] == 16


@pytest.mark.parametrize("size", [100, LARGE])
def test_wrong_bytes_everywhere(fake: FakeStore, client: Client, size: int, tmp_path: Path) -> None:
    fake.replicas = 2
    client.put("b", "k", os.urandom(size))
    handed_on: list[bytes] = []
    ways: list[Callable[[], object]] = [
        lambda: client.get("b", "k"),
        lambda: handed_on.extend(client.iter_bytes("b", "k")),
        lambda: client.open("b", "k").read(),
        lambda: client.download("b", "k", tmp_path / "k"),
    ]
    for way in ways:
        fake.faults.clear()
        fake.fail("GET needle", *[flip] * 100)
        with pytest.raises(ChecksumMismatch):
            way()
    assert handed_on == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [100, LARGE])
def test_damage_is_final_and_names_the_object(fake: FakeStore, client: Client, size: int, tmp_path: Path) -> None:
    fake.replicas = 2
    client.put("b", "k", os.urandom(size))
    ways: list[Callable[[], object]] = [
        lambda: client.get("b", "k"),
        lambda: list(client.iter_bytes("b", "k")),
        lambda: client.open("b", "k").read(),
        lambda: client.download("b", "k", tmp_path / "k"),
    ]
    for way in ways:
        fake.faults.clear()
        fake.calls.clear()
        fake.fail("GET needle", *[Refusal(500, "needle_damaged")] * 100)
        with pytest.raises(ObjectDamaged) as caught:
            way()
        error = caught.value
        assert (error.bucket, error.key, error.server) == ("b", "k", urlsplit(fake.url).netloc)
        assert "the bytes of 'k' in 'b' (chunk" in str(error)
        assert f"damaged on the volume server {error.server}: put the object again" in str(error)
        # No replica of any chunk was asked twice.
        assert fake.calls["GET needle"] <= 2 * len(fake.buckets["b"]["k"].chunks)
        assert fake.calls["POST downloads"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_replica_that_cannot_read_now_is_asked_again_beside_one_that_is_damaged(
    fake: FakeStore, client: Client
) -> None:
    fake.replicas = 2
    client.put("b", "k", b"body")
    fake.fail("GET needle", Refusal(500, "needle_damaged"), *[Refusal(503, "read_failed")] * 2)
    assert client.get("b", "k") == b"body"
    assert fake.calls["GET needle"] == 4


def test_wrong_bytes_here_and_damage_there_are_damage(fake: FakeStore, client: Client) -> None:
    fake.replicas = 2
    client.put("b", "k", b"body")
    fake.fail("GET needle", flip, Refusal(500, "needle_damaged"))
    with pytest.raises(ObjectDamaged):
        client.get("b", "k")


@pytest.mark.parametrize("size", [100, LARGE])
def test_lost_bytes_are_not_told_as_an_object_that_is_not_there(
    fake: FakeStore, client: Client, size: int, tmp_path: Path
) -> None:
    fake.replicas = 2
    client.put("b", "k", os.urandom(size))
    refused: dict[str, Exception] = {}
    ways: list[Callable[[], object]] = [
        lambda: client.get("b", "k"),
        lambda: list(client.iter_bytes("b", "k")),
        lambda: client.open("b", "k").read(),
        lambda: client.download("b", "k", tmp_path / "k"),
        lambda: list(client.get_many("b", ["k"])),
        lambda: list(client.download_many("b", [("k", tmp_path / "k")])),
    ]
    for way in ways:
        fake.faults.clear()
        fake.calls.clear()
        fake.fail("GET needle", *[Refusal(404, "needle_unknown")] * 100)
        with pytest.raises(ObjectLost) as caught:
            way()
        error = caught.value
        assert isinstance(error, ObjectDamaged)
        assert (error.bucket, error.key, error.server) == ("b", "k", urlsplit(fake.url).netloc)
        assert "manage.py fsck" in str(error)
        assert fake.calls["POST downloads"] >= 2  # it may have been overwritten
    fake.fail("GET needle", *[Refusal(404, "volume_unknown")] * 100)
    assert list(client.get_many("b", ["k"], on_error=refused.__setitem__)) == []
    assert isinstance(refused["k"], ObjectLost)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [100, LARGE])
def test_a_copy_that_is_away_for_a_moment_is_waited_for_beside_one_that_lost_the_bytes(
    fake: FakeStore, client: Client, size: int
) -> None:
    fake.replicas = 2
    body = os.urandom(size)
    client.put("b", "k", body)
    ways: list[Callable[[], bytes]] = [lambda: client.get("b", "k"), lambda: b"".join(client.iter_bytes("b", "k"))]
    for way in ways:
        fake.lost_in.add(1)
        fake.fail("GET needle", *[HANG_UP] * 2)
        assert way() == body


def test_expired_urls_are_asked_for_again(fake: FakeStore, client: Client) -> None:
    client.put("b", "k", b"body")
    fake.fail("GET needle", Refusal(403, "expired"))
    assert client.get("b", "k") == b"body"
    assert fake.calls["POST downloads"] == 2
    fake.fail("GET needle", *[Refusal(403, "expired")] * 10)
    with pytest.raises(PermissionDenied):
        client.get("b", "k")


def overwrite_at_next_get(fake: FakeStore, body: bytes | None) -> None:
    """The version that is being read is gone for good, as after its tombstones."""

    def overwrite() -> None:
        gone = fake.buckets["b"].pop("k")
        for needle in gone.chunks:
            del fake.needles[needle]
        if body is not None:
            pieces = [body[at : at + CHUNK_SIZE] for at in range(0, len(body), CHUNK_SIZE)]
            fake.needles.update(enumerate(pieces, start=1))
            fake.make_object("b", "k", list(range(1, len(pieces) + 1)), "", {}, None, False)

    fake.before["GET needle"] = overwrite


def test_an_object_that_is_overwritten_is_read_whole_again(fake: FakeStore, client: Client, tmp_path: Path) -> None:
    client.put("b", "k", os.urandom(LARGE))
    overwrite_at_next_get(fake, b"new")
    assert client.get("b", "k") == b"new"
    client.put("b", "k", os.urandom(LARGE))
    overwrite_at_next_get(fake, b"newer")
    client.download("b", "k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == b"newer"
    overwrite_at_next_get(fake, None)
    with pytest.raises(NotFound):
        client.get("b", "k")


def test_what_was_handed_on_is_not_mixed_with_a_new_version(fake: FakeStore) -> None:
    with Client(fake.url, KEY, transfer=replace(QUICK, concurrency=1)) as client:
        body = os.urandom(LARGE)
        client.put("b", "k", body)
        pieces = client.iter_bytes("b", "k")
        handed_on = next(pieces)
        overwrite_at_next_get(fake, os.urandom(LARGE))
        more: list[bytes] = []
        with pytest.raises(ObjectChanged):
            more.extend(pieces)
        assert body.startswith(handed_on + b"".join(more))


def test_an_interrupted_download_leaves_what_was_there(fake: FakeStore, tmp_path: Path) -> None:
    target = tmp_path / "k"
    with Client(fake.url, KEY, transfer=replace(QUICK, retry_s=0.05)) as client:
        client.put("b", "k", os.urandom(LARGE))
        for before in (None, b"before"):
            if before is not None:
                target.write_bytes(before)
            fake.fail("GET needle", *[CUT] * 1000)
            with pytest.raises(TransferError):
                client.download("b", "k", target)
            assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_full_disk_is_the_callers_to_hear_of(
    fake: FakeStore, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("b", "k", os.urandom(LARGE))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        client.download("b", "k", tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


def test_fsync_comes_before_the_name(fake: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there_at_sync: list[bool] = []
    sync = os.fsync

    def fsync(fd: int) -> None:
        there_at_sync.append((tmp_path / "k").exists())
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with Client(fake.url, KEY, transfer=replace(QUICK, fsync=True)) as client:
        client.put("b", "k", b"body")
        client.download("b", "k", tmp_path / "k")
    assert there_at_sync == [False, True]  # the file; then, under its name, the directory


def test_a_download_does_not_replace_a_device(client: Client) -> None:
    client.put("b", "k", b"body")
    with pytest.raises(FileExistsError):
        client.download("b", "k", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_written_through(client: Client, tmp_path: Path) -> None:
    client.put("b", "k", b"body")
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "link").symlink_to("file")
    client.download("b", "k", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"body"


def test_many_go_on_after_one_failed(fake: FakeStore, client: Client, tmp_path: Path) -> None:
    failed: list[str] = []
    items = [("a", b"1"), ("b", tmp_path / "none"), ("c", b"3")]
    done = client.put_many("b", items, on_error=lambda key, _: failed.append(key))  # type: ignore[arg-type]
    assert {info.key for info in done} == {"a", "c"}
    assert failed == ["b"]
    with pytest.raises(FileNotFoundError):
        list(client.put_many("b", items))  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        list(client.download_many("b", [("none", tmp_path / "none")]))


def test_a_closed_client_says_so(fake: FakeStore) -> None:
    client = Client(fake.url, KEY, transfer=replace(QUICK, retry_s=0))
    client.put("b", "k", b"body")
    client.close()
    with pytest.raises(TransferError, match="closed"):
        client.put("b", "k", b"body")


def test_a_group_whose_answer_is_lost_was_carried_out_once(fake: FakeStore, client: Client) -> None:
    fake.fail("POST commits", CUT)
    with client.group("b") as group:
        group.put("k", b"1")
    assert fake.calls["POST commits"] == 2
    assert group.objects["k"].etag == fake.buckets["b"]["k"].etag
    assert fake.calls["DELETE uploads"] == 0


def test_what_is_not_the_same_twice_is_not_asked_twice(fake: FakeStore, client: Client) -> None:
    for key in ("a", "b"):
        client.put("b", key, b"1")

    def group_without_a_put() -> None:
        with client.group("b") as group:
            group.delete("b")

    for name, ask in (
        ("POST copy", lambda: client.copy("b", "a", "c")),
        ("POST rename", lambda: client.rename("b", "c", "d")),
        ("POST commits", group_without_a_put),
    ):
        fake.fail(name, CUT)
        with pytest.raises(OutcomeUnknown):
            ask()
        assert fake.calls[name] == 1
    assert sorted(fake.buckets["b"]) == ["a", "d"]
