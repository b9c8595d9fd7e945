"""What a store does for its client. Run against the fake, and against a real store: so the fake cannot lie.

Each function takes a client, the name of an empty bucket and the store's chunk size.
"""

import gzip
import io
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until
from warehouse import Client, Conflict, NotFound, ObjectInfo, PreconditionFailed, Prefix

Check = Callable[[Client, str, int, Path], None]


def sizes_around_chunks(client: Client, bucket: str, chunk: int, _: Path) -> None:
    for size in (0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 7):
        body = os.urandom(size)
        key = f"size/{size}"
        told = client.put(bucket, key, body, metadata={"colour": "grün"}, content_type="image/x-test")
        assert (told.key, told.size, told.content_type) == (key, size, "image/x-test")
        assert client.get(bucket, key) == body
        assert b"".join(client.iter_bytes(bucket, key)) == body
        found = client.stat(bucket, key)
        assert (found.size, found.etag, found.metadata) == (size, told.etag, {"colour": "grün"})
        assert found.updated_at == told.updated_at


def every_kind_of_source(client: Client, bucket: str, chunk: int, tmp_path: Path) -> None:
    body = os.urandom(2 * chunk + 5)
    path = tmp_path / "source"
    path.write_bytes(body)
    packed = tmp_path / "source.gz"
    packed.write_bytes(gzip.compress(body))
    client.put(bucket, "bytes", body)
    client.put(bucket, "bytearray", bytearray(body))
    spread = bytearray(2 * len(body))
    spread[::2] = body
    client.put(bucket, "memoryview", memoryview(spread)[::2])
    client.put(bucket, "path", path)
    client.put(bucket, "str", str(path))
    with path.open("rb") as file:
        file.read(1)
        client.put(bucket, "rest of a file", file)
        assert file.read() == b""
    client.put(bucket, "BytesIO", io.BytesIO(body))
    with gzip.open(packed) as stream:
        client.put(bucket, "stream", stream)  # type: ignore[arg-type]  # a GzipFile is one, but for typeshed
    with gzip.open(packed) as stream:
        client.put(bucket, "stream of known size", stream, size=len(body))  # type: ignore[arg-type]
    got = dict(client.get_many(bucket, [info.key for info in client.list(bucket)]))
    assert got.pop("rest of a file") == body[1:]
    assert len(got) == 8
    assert set(got.values()) == {body}


def odd_keys(client: Client, bucket: str, _: int, __: Path) -> None:
    keys = ["a b", "ü/é/漢字", "../up", "a/./b", "/absolute", "a//b", "100%", "q?x=1&y#z", "a\nb", "x" * 1024, "+", '"']
    for key in keys:
        client.put(bucket, key, key.encode())
    assert {info.key for info in client.list(bucket)} == set(keys)
    for key in keys:
        assert client.get(bucket, key) == key.encode()
        assert client.stat(bucket, key).size == len(key.encode())
    assert client.delete_many(bucket, keys) == set(keys)
    assert list(client.list(bucket)) == []


def lists_are_in_byte_order(client: Client, bucket: str, _: int, __: Path) -> None:
    keys = ["Z", "a", "a/1", "a/2/3", "b/1", "é", "\uffff", "\U0001f600"]
    for _info in client.put_many(bucket, ((key, b"x") for key in keys)):
        pass
    assert [info.key for info in client.list(bucket)] == sorted(keys, key=str.encode)
    assert [info.key for info in client.list(bucket, "a/")] == ["a/1", "a/2/3"]
    folded = list(client.list(bucket, delimiter="/"))
    assert [entry.key for entry in folded] == ["Z", "a", "a/", "b/", "é", "\uffff", "\U0001f600"]
    assert [type(entry) for entry in folded[:4]] == [ObjectInfo, ObjectInfo, Prefix, Prefix]


def lists_longer_than_a_page(client: Client, bucket: str, _: int, __: Path) -> None:
    keys = [f"{number:05}" for number in range(2003)]
    assert len(list(client.put_many(bucket, ((key, key.encode()) for key in keys)))) == len(keys)
    assert [info.key for info in client.list(bucket)] == keys
    assert dict(client.get_many(bucket, [*keys, "none"])) == {**{key: key.encode() for key in keys}, "none": None}
    assert client.delete_many(bucket, [*keys, "none"]) == set(keys)


def preconditions(client: Client, bucket: str, chunk: int, _: Path) -> None:
    for key, body in (("small", b"1"), ("large", os.urandom(chunk * 2))):
        first = client.put(bucket, key, body, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            client.put(bucket, key, body, if_none_match=True)
        second = client.put(bucket, key, body, if_match=first.etag)
        assert second.etag != first.etag
        with pytest.raises(PreconditionFailed):
            client.put(bucket, key, b"other", if_match=first.etag)
        assert client.get(bucket, key) == body


def what_is_not_there(client: Client, bucket: str, _: int, tmp_path: Path) -> None:
    absent: list[Callable[[], object]] = [
        lambda: client.get(bucket, "none"),
        lambda: client.stat(bucket, "none"),
        lambda: client.stat(bucket, "../none"),
        lambda: client.download(bucket, "none", tmp_path / "none"),
        lambda: client.open(bucket, "none"),
        lambda: client.put("no-such-bucket", "k", b""),
        lambda: client.bucket("no-such-bucket"),
        lambda: next(client.list("no-such-bucket")),
    ]
    for ask in absent:
        with pytest.raises(NotFound):
            ask()
    assert client.delete(bucket, "none") is False
    assert list(tmp_path.iterdir()) == []


def buckets(client: Client, bucket: str, _: int, __: Path) -> None:
    assert bucket in [one.name for one in client.list_buckets()]
    with pytest.raises(Conflict):
        client.create_bucket(bucket)
    client.put(bucket, "k", b"1")
    with pytest.raises(Conflict):
        client.delete_bucket(bucket)
    told = client.bucket(bucket)
    assert (told.object_count, told.total_bytes) == (1, 1)
    assert client.delete(bucket, "k") is True
    client.delete_bucket(bucket)
    with pytest.raises(NotFound):
        client.bucket(bucket)
    client.create_bucket(bucket)


def searches(client: Client, bucket: str, chunk: int, _: Path) -> None:
    client.put(bucket, "notes/Cat.txt", b"1", metadata={"colour": "grün"})
    client.put(bucket, "pictures/cat+1.png", os.urandom(chunk + 1))
    client.put(bucket, "pictures/dog.png", b"22")

    def keys(*text: str, **filters: Any) -> list[str]:
        return [info.key for info in client.search(bucket, *text, **filters)]

    assert keys("CAT") == ["notes/Cat.txt", "pictures/cat+1.png"]
    assert keys("cat", prefix="p") == keys("+1") == ["pictures/cat+1.png"]
    assert keys(content_type="image/*", max_size=2) == ["pictures/dog.png"]
    assert keys(min_size=2) == ["pictures/cat+1.png", "pictures/dog.png"]
    assert keys(metadata={"colour": "grün"}) == ["notes/Cat.txt"]
    assert keys() == [info.key for info in client.list(bucket)]
    assert keys("none") == []
    last = client.stat(bucket, "pictures/dog.png").updated_at
    assert last is not None
    assert keys(updated_after=last) == []
    assert "pictures/dog.png" in keys(updated_after=last - timedelta(microseconds=1))


def buckets_by_force(client: Client, bucket: str, _: int, __: Path) -> None:
    for number in range(3):
        client.put(bucket, str(number), b"x")
    closed = client.delete_bucket(bucket, force=True)
    assert closed is not None
    assert (closed.object_count, closed.settings["deleting"]) == (3, True)
    with pytest.raises(NotFound):
        client.get(bucket, "0")

    def is_gone() -> bool:
        try:
            client.bucket(bucket)
        except NotFound:
            return True
        return False

    wait_until(is_gone, what="the end of the bucket")
    client.create_bucket(bucket)
    assert client.delete_bucket(bucket, force=True) is None


def files_come_back(client: Client, bucket: str, chunk: int, tmp_path: Path) -> None:
    body = os.urandom(5 * chunk + 1)
    client.put(bucket, "k", body)
    target = tmp_path / "target"
    target.write_bytes(b"before")
    moved: list[int] = []
    client.download(bucket, "k", target, progress=moved.append)
    assert target.read_bytes() == body
    assert sum(moved) == len(body)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def an_open_object_is_a_file(client: Client, bucket: str, chunk: int, _: Path) -> None:
    body = os.urandom(2 * chunk + 100)
    client.put(bucket, "k", body)
    with client.open(bucket, "k") as file:
        assert file.read(10) == body[:10]
        file.seek(-50, os.SEEK_END)
        assert file.read() == body[-50:]
        file.seek(chunk - 5)
        assert file.read(10) == body[chunk - 5 : chunk + 5]


def readers_see_one_version(client: Client, bucket: str, chunk: int, _: Path) -> None:
    versions = [bytes([number]) * (2 * chunk + number) for number in range(8)]
    client.put(bucket, "k", versions[0])
    over = threading.Event()
    mixed: list[bytes] = []

    def read() -> None:
        while not over.is_set():
            body = client.get(bucket, "k")
            if body not in versions:
                mixed.append(body[:20])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in versions:
            client.put(bucket, "k", version)
    finally:
        over.set()
        reader.join()
    assert mixed == []
    assert client.get(bucket, "k") == versions[-1]


def many_are_looked_at_by_one_call(client: Client, bucket: str, chunk: int, _: Path) -> None:
    told = client.put(bucket, "../a", os.urandom(chunk + 1), metadata={"x": "y"})
    client.put(bucket, "b", b"1")
    found = dict(client.stat_many(bucket, ["b", "none", "../a"]))
    assert list(found) == ["b", "none", "../a"]
    assert found["none"] is None
    large = found["../a"]
    assert large is not None
    assert (large.size, large.etag, large.metadata) == (chunk + 1, told.etag, {"x": "y"})


def copies(client: Client, bucket: str, chunk: int, _: Path) -> None:
    body = os.urandom(2 * chunk + 1)
    first = client.put(bucket, "a", body, content_type="image/x-test", metadata={"x": "y"})
    made = client.copy(bucket, "a", "b/c")
    assert (made.key, made.size, made.content_type, made.metadata) == (
        "b/c",
        len(body),
        "image/x-test",
        {"x": "y"},
    )
    assert made.etag != first.etag
    other = client.copy(bucket, "a", "d", from_if_match=first.etag, content_type="a/b", metadata={})
    assert (client.stat(bucket, "d").etag, other.content_type, other.metadata) == (other.etag, "a/b", {})
    assert client.get(bucket, "b/c") == client.get(bucket, "d") == body
    for refused in (
        {"if_none_match": True},
        {"if_match": first.etag},
        {"from_if_match": made.etag},
    ):
        with pytest.raises(PreconditionFailed):
            client.copy(bucket, "a", "d", **refused)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        client.copy(bucket, "none", "d")
    with pytest.raises(NotFound):
        client.copy(bucket, "a", "a", to_bucket="no-such-bucket")
    client.delete(bucket, "a")
    assert client.get(bucket, "d") == body


def renames(client: Client, bucket: str, _: int, __: Path) -> None:
    for key in ("a", "b", "f/1", "f/2", "g/2"):
        client.put(bucket, key, key.encode())
    assert client.rename(bucket, "a", "c").key == "c"
    with pytest.raises(Conflict):
        client.rename(bucket, "c", "b")
    with pytest.raises(NotFound):
        client.rename(bucket, "a", "z")
    client.rename(bucket, "c", "b", overwrite=True)
    assert client.get(bucket, "b") == b"a"
    with pytest.raises(Conflict):
        client.rename_prefix(bucket, "f/", "g/")
    assert client.rename_prefix(bucket, "f/", "g/", overwrite=True) == 2
    with pytest.raises(NotFound):
        client.rename_prefix(bucket, "f/", "h/")
    assert [info.key for info in client.list(bucket)] == ["b", "g/1", "g/2"]
    assert client.get(bucket, "g/2") == b"f/2"


def groups_are_seen_whole_or_not_at_all(client: Client, bucket: str, chunk: int, _: Path) -> None:
    large = os.urandom(2 * chunk + 3)
    for key in ("old", "index", "source"):
        client.put(bucket, key, key.encode())
    before = [info.key for info in client.list(bucket)]
    with client.group(bucket) as group:
        group.put("large", large, metadata={"x": "y"})
        group.put_many([("small/1", b"1"), ("small/2", b"2")], content_type="a/b")
        group.delete("old")
        group.delete("was never there")
        group.rename("index", "index.before")
        group.put("index", b"new")
        group.copy("source", "copy")
        assert [info.key for info in client.list(bucket)] == before
        assert group.objects == {}
    after = ["copy", "index", "index.before", "large", "small/1", "small/2", "source"]
    assert [info.key for info in client.list(bucket)] == after
    assert sorted(group.objects) == [key for key in after if key != "source"]
    assert (group.objects["large"].size, group.objects["large"].metadata) == (len(large), {"x": "y"})
    assert group.objects["small/1"].content_type == "a/b"
    assert client.get(bucket, "large") == large
    assert client.get(bucket, "index") == b"new"
    assert client.get(bucket, "index.before") == b"index"

    def refused() -> None:
        with client.group(bucket) as group:
            group.delete("large")
            group.put("new", b"1")
            group.put("index", b"2", if_none_match=True)

    with pytest.raises(PreconditionFailed):
        refused()

    def broken_off() -> None:
        with client.group(bucket) as group:
            group.put("new", b"1")
            group.delete("large")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert [info.key for info in client.list(bucket)] == after
    with client.group(bucket):
        pass


def shares_are_made_listed_and_revoked(client: Client, bucket: str, _: int, __: Path) -> None:
    client.put(bucket, "a b/ü", b"x")
    with pytest.raises(NotFound):
        client.share(bucket, "none")
    plain = client.share(bucket, "a b/ü")
    strict = client.share(
        bucket, "a b/ü", expires_in_s=3600, max_downloads=2, password="p", inline=True, description="for Ana"
    )
    assert plain.url.rsplit("/", 1)[0] == strict.url.rsplit("/", 1)[0]
    assert plain.url != strict.url
    assert (plain.expires_at, plain.max_downloads, plain.has_password) == (None, None, False)
    assert strict.expires_at is not None
    assert (strict.max_downloads, strict.has_password, strict.description) == (2, True, "for Ana")
    third = client.share(bucket, "a b/ü")
    client.revoke_share(plain.id)
    found = list(client.list_shares(bucket))
    assert [share.id for share in found] == [plain.id, strict.id, third.id]
    assert [share.state for share in found] == ["revoked", "live", "live"]
    assert {share.url for share in found} == {""}
    assert {(share.bucket, share.key, share.download_count) for share in found} == {(bucket, "a b/ü", 0)}
    assert {share.id for share in found} <= {share.id for share in client.list_shares()}
    with pytest.raises(NotFound):
        client.revoke_share(10**9)


CHECKS: list[Check] = [
    sizes_around_chunks,
    every_kind_of_source,
    odd_keys,
    lists_are_in_byte_order,
    lists_longer_than_a_page,
    preconditions,
    what_is_not_there,
    buckets,
    searches,
    buckets_by_force,
    files_come_back,
    an_open_object_is_a_file,
    readers_see_one_version,
    many_are_looked_at_by_one_call,
    copies,
    renames,
    groups_are_seen_whole_or_not_at_all,
    shares_are_made_listed_and_revoked,
]
