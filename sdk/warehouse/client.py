"""The client: buckets and objects of one store under one key."""

import builtins
import mimetypes
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from io import BufferedReader
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, overload

from warehouse._downloads import LOOKUP_KEYS, Downloader, Located, missing
from warehouse._groups import Group, copy_body, given, rename_body
from warehouse._http import Wire
from warehouse._leases import LeasePool, LeaseTooLarge
from warehouse._master import Master, bucket_path, key_path, percent_encoded, require_utf8
from warehouse._needles import NewNeedle, put_needle
from warehouse._parallel import as_done
from warehouse._retry import Backoff
from warehouse._sources import PutSource, Source, open_source
from warehouse._uploads import Uploader
from warehouse._version import __version__
from warehouse.errors import TooLarge, WarehouseError
from warehouse.transfer import Progress, TransferConfig
from warehouse.types import Bucket, ObjectInfo, Prefix, Share

__all__ = ["Client"]

_PAGE = 1000
_META_NAME = re.compile(r"[a-z0-9-]{1,64}")
_USER_AGENT = f"warehouse-sdk/{__version__}"

T = TypeVar("T")
Item = TypeVar("Item")
OnError = Callable[[str, Exception], None]


class Client:
    """A store, as one API key sees it.

        with Client("http://localhost:8000", "whk_…") as store:
            store.put("photos", "2024/cat.jpg", Path("cat.jpg"))
            data = store.get("photos", "2024/cat.jpg")

    Any number of threads may use one client at the same time; it keeps connections, a token and leases for them.
    Every method raises `warehouse.errors.WarehouseError` or one below it, and OSError for local files; `put` also
    ValueError and TypeError for what cannot be sent to any store: a header that breaks its line, text for a source.
    """

    def __init__(self, url: str, key: str, *, transfer: TransferConfig | None = None) -> None:
        self._config = transfer or TransferConfig()
        self._master = Master(url, key, self._config, user_agent=_USER_AGENT)
        self._wire = Wire(self._config, user_agent=_USER_AGENT)
        self._leases = LeasePool(self._master, limit_bytes=self._config.small_put_bytes)
        self._uploader = Uploader(
            self._master, self._wire, self._config, self._chunk_threads, self._leases.learn_chunk_size
        )
        self._downloader = Downloader(self._master, self._wire, self._config, self._chunk_threads)
        # Two sets of threads: an object's thread waits for its chunks' threads, never the other way round.
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._threads_lock = threading.Lock()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and end threads. Transfers in flight are waited for."""
        with self._threads_lock:
            threads, self._threads = self._threads, {}
        for name in ("objects", "chunks"):
            if name in threads:
                threads[name].shutdown(cancel_futures=True)
        self._wire.close()
        self._master.close()

    # Buckets

    def create_bucket(self, name: str, **settings: Any) -> Bucket:
        """Make a bucket. ``settings``: visibility, chunk_size, replication, quota_bytes,
        quota_objects, cors_origins."""
        body = {"name": name, **settings}
        return Bucket.from_json(self._master.call("POST", "buckets", body=body, repeatable=False))

    def bucket(self, name: str) -> Bucket:
        return Bucket.from_json(self._master.call("GET", bucket_path(name)))

    def list_buckets(self) -> Iterator[Bucket]:
        """All buckets that the key may see, by name."""
        for page in self._pages("buckets", {}):
            for row in page["results"]:
                yield Bucket.from_json(row)

    def delete_bucket(self, name: str, *, force: bool = False) -> Bucket | None:
        """Delete an empty bucket; Conflict for any other, unless ``force`` has it deleted with all that is in it.

        None when it is gone. A bucket that is closed, and is deleted in the background, comes back as it is now;
        `bucket` tells how far that is, and raises NotFound at the end.
        """
        params = {"force": "true"} if force else None
        left = self._master.call("DELETE", bucket_path(name), params=params, repeatable=False)
        return Bucket.from_json(left) if left else None

    # Putting

    def put(
        self,
        bucket: str,
        key: str,
        source: PutSource,
        *,
        size: int | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Put an object, whole or not at all; one of that key is overwritten.

        ``source`` is bytes, a path, or a binary file or stream, which is read from where it stands to its end;
        ``size`` need only be given for a large stream that should not go through a temporary file.
        ``content_type`` is guessed from the key when not given. ``metadata`` names are of a-z, 0-9 and `-`.
        ``if_match`` (an etag) puts only over that version, ``if_none_match`` only where there is no object;
        PreconditionFailed otherwise.
        """
        attributes = _attributes(
            key, content_type=content_type, metadata=metadata, if_match=if_match, if_none_match=if_none_match
        )
        with ExitStack() as stack:
            opened = open_source(source, size=size, config=self._config, stack=stack)
            verdict = self._put_small(
                bucket,
                key,
                opened,
                content_type=attributes["content_type"],
                metadata=attributes["metadata"],
                if_match=if_match,
                if_none_match=if_none_match,
                progress=progress,
            )
            if verdict is None:
                verdict = self._uploader.put(bucket, key, opened, attributes=attributes, progress=progress)
        if verdict is None:
            return self.stat(bucket, key)
        return ObjectInfo.from_json(verdict, content_type=attributes["content_type"], metadata=attributes["metadata"])

    def put_many(
        self,
        bucket: str,
        items: Iterable[tuple[str, PutSource]],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        progress: Progress | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[ObjectInfo]:
        """Put (key, source) pairs in parallel, as `put` does; yields each object as it is done, in no order.

        Nothing happens until the iterator is asked. The first failure ends it, unless ``on_error`` takes failures:
        it is called with the key and the exception, from several threads, and the rest goes on.
        """

        def put(item: tuple[str, PutSource]) -> ObjectInfo:
            key, source = item
            return self.put(
                bucket,
                key,
                source,
                content_type=content_type,
                metadata=metadata,
                if_none_match=if_none_match,
                progress=progress,
            )

        return self._many(put, items, key_of=lambda item: item[0], on_error=on_error)

    # Getting

    def get(self, bucket: str, key: str, *, progress: Progress | None = None) -> bytes:
        """All bytes of an object. For large ones see `download`, `open` and `iter_bytes`."""
        return self._downloader.read(bucket, self._downloader.locate(bucket, key), progress=progress)

    def get_many(
        self, bucket: str, keys: Iterable[str], *, on_error: OnError | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        """(key, bytes) in no order, read in parallel and looked up a thousand at a time; None where there is none."""

        def get(item: tuple[str, Located | None]) -> tuple[str, bytes | None]:
            key, located = item
            return key, None if located is None else self._downloader.read(bucket, located)

        return self._many(get, self._located(bucket, keys), key_of=lambda item: item[0], on_error=on_error)

    def download(
        self, bucket: str, key: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> ObjectInfo:
        """Write an object to a file, its chunks in parallel. The file takes its name when all of it is there and
        checked; until then, and when anything fails, what stood there before stays."""
        return self._downloader.download(bucket, self._downloader.locate(bucket, key), path, progress=progress)

    def download_many(
        self,
        bucket: str,
        items: Iterable[tuple[str, str | os.PathLike[str]]],
        *,
        progress: Progress | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[ObjectInfo]:
        """Write (key, path) pairs in parallel, as `download` does; yields each object as it is done, in no order.

        Directories must exist. Failures as in `put_many`; an object that is not there is one.
        """

        def download(item: tuple[tuple[str, Located | None], str | os.PathLike[str]]) -> ObjectInfo:
            (key, located), path = item
            if located is None:
                raise missing(bucket, key)
            return self._downloader.download(bucket, located, path, progress=progress)

        def located() -> Iterator[tuple[tuple[str, Located | None], str | os.PathLike[str]]]:
            for batch in _batches(items, LOOKUP_KEYS):
                yield from zip(
                    self._located(bucket, [key for key, _ in batch]), [path for _, path in batch], strict=True
                )

        return self._many(download, located(), key_of=lambda item: item[0][0], on_error=on_error)

    def iter_bytes(self, bucket: str, key: str) -> Iterator[bytes]:
        """The bytes of one version of an object, in pieces of up to 1 MiB; every chunk is checked before any of it
        is given. Raises ObjectChanged when the object is overwritten and gone before the end."""
        return self._downloader.iter_bytes(bucket, self._downloader.locate(bucket, key))

    def open(self, bucket: str, key: str) -> BufferedReader:
        """A seekable binary file over one version of an object, which reads whole chunks."""
        return self._downloader.open(bucket, self._downloader.locate(bucket, key))

    # Looking

    def stat(self, bucket: str, key: str) -> ObjectInfo:
        """What is known of an object. (``updated_at`` is None for keys with `.` or `..` segments.)"""
        path = key_path(key)
        if path is None:
            return self._downloader.locate(bucket, key).info
        return ObjectInfo.from_json(self._master.call("GET", bucket_path(bucket, "objects", path)))

    def stat_many(self, bucket: str, keys: Iterable[str]) -> Iterator[tuple[str, ObjectInfo | None]]:
        """(key, what is known of it), a thousand a call, in the order of the keys; None where there is none."""
        for batch in _batches(keys, _PAGE):
            answer = self._master.call("POST", bucket_path(bucket, "stat"), body={"keys": batch})
            found = {row["key"]: ObjectInfo.from_json(row) for row in answer["objects"]}
            yield from ((key, found.get(key)) for key in batch)

    @overload
    def list(self, bucket: str, prefix: str = "", *, delimiter: None = None) -> Iterator[ObjectInfo]: ...
    @overload
    def list(self, bucket: str, prefix: str = "", *, delimiter: str) -> Iterator[ObjectInfo | Prefix]: ...
    def list(
        self, bucket: str, prefix: str = "", *, delimiter: str | None = None
    ) -> Iterator[ObjectInfo] | Iterator[ObjectInfo | Prefix]:
        """All objects whose keys begin with ``prefix``, in byte order of their keys.

        With a delimiter, keys that have it after the prefix are folded into one `Prefix` each.
        """
        return self._list(bucket, prefix, delimiter)

    def search(
        self,
        bucket: str,
        text: str = "",
        *,
        prefix: str = "",
        min_size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        newest_first: bool = False,
    ) -> Iterator[ObjectInfo]:
        """Objects that have ``text`` somewhere in their key, whatever the case of ASCII letters, and fit all the rest.

        Sizes are inclusive, times are not (naive ones are local). ``content_type`` is a whole one or one like
        ``image/*``; of ``metadata`` every pair must be there. In byte order of the keys, or the newest first. The store
        looks through the bucket piece by piece, so that rare ones of many take a while to come.
        """
        params: dict[str, Any] = {
            "search": require_utf8(text, field="search"),
            "prefix": require_utf8(prefix, field="prefix"),
            "min_size": min_size,
            "max_size": max_size,
            "content_type": content_type,
            "updated_after": updated_after and updated_after.astimezone(UTC).isoformat(),
            "updated_before": updated_before and updated_before.astimezone(UTC).isoformat(),
            "metadata": [f"{name}:{require_utf8(value, field='metadata')}" for name, value in (metadata or {}).items()],
            "order": "newest" if newest_first else None,
            "limit": _PAGE,
        }
        given = {name: value for name, value in params.items() if value not in (None, "", [])}
        for page in self._pages(bucket_path(bucket, "objects"), given):
            for row in page["results"]:
                yield ObjectInfo.from_json(row)

    # Deleting

    def delete(self, bucket: str, key: str) -> bool:
        """Delete an object; False when there is none."""
        return key in self.delete_many(bucket, [key])

    def delete_many(self, bucket: str, keys: Iterable[str]) -> set[str]:
        """Delete objects, a thousand a call, or fewer where they are large; gives the keys that were there."""
        deleted: set[str] = set()
        for batch in _batches(keys, _PAGE):
            deleted.update(self._delete_batch(bucket, batch))
        return deleted

    def _delete_batch(self, bucket: str, keys: builtins.list[str]) -> builtins.list[str]:
        """By halves where the objects have more chunks than the store deletes in one commit."""
        try:
            answer = self._master.call("POST", bucket_path(bucket, "delete"), body={"keys": keys})
        except TooLarge as error:
            if error.code != "too_many_rows" or len(keys) == 1:
                raise
            half = len(keys) // 2
            return self._delete_batch(bucket, keys[:half]) + self._delete_batch(bucket, keys[half:])
        deleted: builtins.list[str] = answer["deleted"]
        return deleted

    # Copying and renaming: no bytes move

    def copy(
        self,
        bucket: str,
        key: str,
        to: str,
        *,
        to_bucket: str | None = None,
        from_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Copy an object to the key ``to``, of the same bucket unless said, over what is there.

        ``from_if_match`` copies only that version, ``if_match`` and ``if_none_match`` are about the target, as in
        `put`. ``content_type`` and ``metadata`` are taken over unless given.
        """
        body = copy_body(
            key,
            to,
            to_bucket=to_bucket,
            from_if_match=from_if_match,
            if_match=if_match,
            if_none_match=if_none_match,
            content_type=content_type,
            metadata=metadata,
        )
        answer = self._master.call("POST", bucket_path(bucket, "copy"), body={"copies": [body]}, repeatable=False)
        return _moved(answer["copied"])

    def rename(
        self,
        bucket: str,
        key: str,
        to: str,
        *,
        overwrite: bool = False,
        from_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        """Give an object another key. Conflict where there is an object of that key, unless ``overwrite``, or
        ``if_match`` that it matches."""
        body = rename_body(
            key, to, overwrite=overwrite, from_if_match=from_if_match, if_match=if_match, if_none_match=if_none_match
        )
        answer = self._master.call("POST", bucket_path(bucket, "rename"), body={"renames": [body]}, repeatable=False)
        return _moved(answer["renamed"])

    def rename_prefix(self, bucket: str, prefix: str, to_prefix: str, *, overwrite: bool = False) -> int:
        """Give all objects below a prefix another one, at once; how many there were.

        NotFound where there are none. Conflict, and nothing is done, where objects are in the way, unless
        ``overwrite``; TooLarge for more of them than the store renames in one commit.
        """
        body = given({"prefix": prefix, "to_prefix": to_prefix, "overwrite": overwrite})
        return int(self._master.call("POST", bucket_path(bucket, "rename"), body=body, repeatable=False)["count"])

    def group(self, bucket: str) -> Group:
        """Puts, deletes, copies and renames that others see all at once, or never:

            with store.group("photos") as group:
                group.put("cat.jpg", Path("cat.jpg"))
                group.rename("index.json", "index.old.json", overwrite=True)
                group.put("index.json", b"…")

        Nothing is done when the block ends in an exception. What a commit may refuse is raised at the end of the block.
        """
        return Group(
            bucket,
            master=self._master,
            uploader=self._uploader,
            config=self._config,
            attributes=_attributes,
            many=lambda job, items: self._many(job, items, key_of=lambda item: item[0], on_error=None),
            stat_many=self.stat_many,
        )

    # Sharing

    def share(
        self,
        bucket: str,
        key: str,
        *,
        expires_in_s: int | None = None,
        max_downloads: int | None = None,
        password: str | None = None,
        inline: bool = False,
        description: str = "",
    ) -> Share:
        """A link to an object, for somebody without a key; None: no end, no limit, no password.

        The link (``url``) is told here and never again. ``inline``: browsers show the object instead of saving it.
        """
        body: dict[str, Any] = {
            "bucket": require_utf8(bucket, field="bucket"),
            "key": require_utf8(key, field="key"),
            "max_downloads": max_downloads,
            "password": password,
            "inline": inline,
            "description": description,
        }
        if expires_in_s is not None:
            body["expires_in_seconds"] = expires_in_s
        return Share.from_json(self._master.call("POST", "shares", body=body, repeatable=False))

    def list_shares(self, bucket: str = "") -> Iterator[Share]:
        """The shares that the key has made (with ADMIN those of all keys), oldest first; of one bucket, or of all."""
        for page in self._pages("shares", {"bucket": require_utf8(bucket, field="bucket")} if bucket else {}):
            for row in page["results"]:
                yield Share.from_json(row)

    def revoke_share(self, share_id: int) -> None:
        """End a share for good; its link has ended at once."""
        self._master.call("DELETE", f"shares/{share_id:d}")

    def _put_small(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        if_match: str | None,
        if_none_match: bool,
        progress: Progress | None,
    ) -> Mapping[str, Any] | None:
        """The verdict of a put under a lease, or None where the object is too large for that."""
        headers = {"Warehouse-Key": percent_encoded(key, field="key"), "Content-Type": content_type}
        headers |= {
            f"Warehouse-Meta-{name}": percent_encoded(value, field="metadata") for name, value in metadata.items()
        }
        if if_match is not None:
            headers["If-Match"] = if_match if if_match == "*" else f'"{if_match}"'
        if if_none_match:
            headers["If-None-Match"] = "*"
        body = None
        backoff = Backoff(self._config)
        while True:
            try:
                url, lease = self._leases.take(bucket, key, source.size)
            except LeaseTooLarge:
                return None
            if body is None:
                body = source.body(0, source.size)
            try:
                return put_needle(self._wire, url, headers, body, config=self._config, progress=progress)
            except NewNeedle as failure:
                self._leases.drop(lease)
                if not backoff.pause():
                    raise failure.error from failure
                if failure.code in ("key_revoked", "signature_invalid"):
                    self._master.renew_token()

    def _located(self, bucket: str, keys: Iterable[str]) -> Iterator[tuple[str, Located | None]]:
        for batch in _batches(keys, LOOKUP_KEYS):
            found = self._downloader.locate_many(bucket, batch)
            yield from ((key, found.get(key)) for key in batch)

    def _list(self, bucket: str, prefix: str, delimiter: str | None) -> Iterator[ObjectInfo | Prefix]:
        params: dict[str, Any] = {"limit": _PAGE}
        if prefix:
            params["prefix"] = require_utf8(prefix, field="prefix")
        if delimiter:
            params["delimiter"] = require_utf8(delimiter, field="delimiter")
        for page in self._pages(bucket_path(bucket, "objects"), params):
            entries: builtins.list[ObjectInfo | Prefix] = [ObjectInfo.from_json(row) for row in page["results"]]
            if folders := page.get("prefixes"):
                entries += [Prefix(folder) for folder in folders]
                entries.sort(key=lambda entry: entry.key.encode())
            yield from entries

    def _pages(self, path: str, params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        after = None
        while True:
            page = self._master.call("GET", path, params={**params, "after": after} if after else params)
            yield page
            after = page.get("next_after")
            if not after:
                return

    def _many(
        self,
        job: Callable[[Item], T],
        items: Iterable[Item],
        *,
        key_of: Callable[[Item], str],
        on_error: OnError | None,
    ) -> Iterator[T]:
        def guarded(item: Item) -> T | Exception:
            try:
                return job(item)
            except (WarehouseError, OSError, ValueError) as error:
                if on_error is None:
                    raise
                on_error(key_of(item), error)
                return error

        done = as_done(
            self._executor("objects", self._config.many_concurrency),
            guarded,
            items,
            limit=self._config.many_concurrency * 4,
            stop=threading.Event(),
        )
        for result in done:
            if not isinstance(result, Exception):
                yield result

    def _chunk_threads(self) -> Executor:
        return self._executor("chunks", self._config.concurrency)

    def _executor(self, name: str, count: int) -> ThreadPoolExecutor:
        with self._threads_lock:
            if name not in self._threads:
                self._threads[name] = ThreadPoolExecutor(count, thread_name_prefix=f"warehouse-{name}")
            return self._threads[name]


def _attributes(
    key: str,
    *,
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    if_match: str | None,
    if_none_match: bool,
) -> dict[str, Any]:
    """The optional fields of an upload's body. Raises ValueError."""
    metadata = dict(metadata or {})
    for name in metadata:
        if not _META_NAME.fullmatch(name):
            raise ValueError(f"metadata names are 1 to 64 of a-z, 0-9 and '-', not {name!r}")
    attributes: dict[str, Any] = {"content_type": content_type or guess_content_type(key), "metadata": metadata}
    if if_match is not None:
        attributes["if_match"] = if_match
    if if_none_match:
        attributes["if_none_match"] = True
    return attributes


def _moved(rows: Sequence[Mapping[str, Any]]) -> ObjectInfo:
    """The object that one copy or rename made."""
    return ObjectInfo.from_json({**rows[0], "key": rows[0]["to"]})


def guess_content_type(key: str) -> str:
    """The media type that a key's extension stands for."""
    extension = posixpath.splitext(key)[1]
    kind, encoding = mimetypes.guess_type("file" + extension)
    if encoding is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
            encoding, "application/octet-stream"
        )
    return kind or "application/octet-stream"


def _batches(items: Iterable[T], size: int) -> Iterator[builtins.list[T]]:
    iterator = iter(items)
    while batch := builtins.list(islice(iterator, size)):
        yield batch
