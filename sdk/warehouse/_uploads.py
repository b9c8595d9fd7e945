"""Large puts: chunks in parallel, each confirmed on its own; the last one confirmed makes the object."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from warehouse._http import Body, Wire
from warehouse._master import Master, bucket_path
from warehouse._needles import NewNeedle, put_needle
from warehouse._parallel import as_done
from warehouse._retry import Backoff
from warehouse._sources import Source
from warehouse.errors import NotFound, OutcomeUnknown, ProtocolError, TransferError, WarehouseError
from warehouse.transfer import Progress, TransferConfig


@dataclass(frozen=True, slots=True)
class _Chunk:
    index: int
    offset: int
    size: int
    url: str


class Uploader:
    def __init__(
        self,
        master: Master,
        wire: Wire,
        config: TransferConfig,
        executor: Callable[[], Executor],
        on_chunk_size: Callable[[str, int], None],
    ) -> None:
        self._on_chunk_size = on_chunk_size
        self._master = master
        self._wire = wire
        self._config = config
        self._executor = executor

    def put(
        self, bucket: str, key: str, source: Source, *, attributes: Mapping[str, Any], progress: Progress | None
    ) -> Mapping[str, Any] | None:
        """The committing verdict, or None when the object was made but the answer that said so was lost.

        ``attributes`` are the body's optional fields. An upload that fails is aborted, so that its space comes back.
        """
        return self._upload(bucket, key, source, attributes=attributes, progress=progress)[1]

    def hold(
        self, bucket: str, key: str, source: Source, *, attributes: Mapping[str, Any], progress: Progress | None
    ) -> str:
        """The id of an upload that is ready for a group; else as `put`."""
        return self._upload(bucket, key, source, attributes={**attributes, "held": True}, progress=progress)[0]

    def state(self, upload: str) -> str:
        """open, ready, completed or aborted. Raises NotFound once an upload is forgotten."""
        return str(self._master.call("GET", _upload_path(upload))["state"])

    def abort(self, upload: str) -> None:
        """End an upload, so that its space comes back; one that is not ended so expires. Raises WarehouseError."""
        self._master.call("DELETE", _upload_path(upload), repeatable=False)

    def _upload(
        self, bucket: str, key: str, source: Source, *, attributes: Mapping[str, Any], progress: Progress | None
    ) -> tuple[str, Mapping[str, Any] | None]:
        """The upload's id, and the verdict that made the object."""
        answer = self._master.call(
            "POST", bucket_path(bucket, "uploads"), body={"key": key, "size": source.size, **attributes}
        )
        upload, chunks = str(answer["id"]), _chunks(answer["chunks"])
        self._on_chunk_size(bucket, int(answer["chunk_size"]))
        if sum(chunk.size for chunk in chunks) != source.size:
            raise ProtocolError("the chunks of the upload do not add up to its size")
        stop = threading.Event()

        def send(piece: tuple[_Chunk, Body]) -> Mapping[str, Any] | None:
            return self._send(upload, *piece, object_size=source.size, progress=progress, stop=stop)

        # Bodies are cut in this thread and in order, as a stream needs it; that no more than `limit` of them are taken
        # ahead is what bounds a stream's memory.
        limit = self._config.concurrency
        if source.holds_pieces:
            limit = min(limit, self._config.stream_chunks)
        pieces: Iterator[tuple[_Chunk, Body]] = ((chunk, source.body(chunk.offset, chunk.size)) for chunk in chunks)
        committed = None
        try:
            for verdict in as_done(self._executor(), send, pieces, limit=limit, stop=stop):
                if verdict is not None and verdict["state"] == "committed":
                    committed = verdict
        except BaseException as error:
            # What is held makes no object by itself, whatever has become of its last chunk.
            if "held" in attributes or not isinstance(error, OutcomeUnknown):
                with contextlib.suppress(WarehouseError):
                    self.abort(upload)
            raise
        return upload, committed

    def _send(
        self,
        upload: str,
        chunk: _Chunk,
        body: Body,
        *,
        object_size: int,
        progress: Progress | None,
        stop: threading.Event,
    ) -> Mapping[str, Any] | None:
        """The verdict on one chunk, or None when the master says it has the chunk already.

        Unlike an object's needle a chunk may be sent under a new needle at any time: whichever needle comes first is
        the chunk, and a set of chunks becomes an object only once.
        """
        backoff = Backoff(self._config, stop=stop)
        while True:
            reason: WarehouseError
            try:
                return put_needle(
                    self._wire,
                    chunk.url,
                    {},
                    body,
                    config=self._config,
                    object_size=object_size,
                    progress=progress,
                    stop=stop,
                )
            except NewNeedle as failure:
                reason = failure.error
                if failure.code in ("key_revoked", "signature_invalid"):
                    self._master.renew_token()
            except OutcomeUnknown as failure:
                reason = failure
            if not backoff.pause():
                raise reason
            fresh = self._missing(upload, chunk.index)
            if fresh is None:
                if progress is not None:
                    progress(body.size)
                return None
            chunk = fresh

    def _missing(self, upload: str, index: int) -> _Chunk | None:
        """The chunk with a new URL, or None when it is not missing."""
        try:
            answer = self._master.call("GET", _upload_path(upload))
        except NotFound as error:
            raise OutcomeUnknown("the upload is over, and how is no longer known") from error
        if answer.get("state") == "aborted":
            raise TransferError("the upload was aborted, or it expired")
        return next((chunk for chunk in _chunks(answer["missing"]) if chunk.index == index), None)


def _upload_path(upload: str) -> str:
    return "uploads/" + quote(upload, safe="")


def _chunks(rows: list[Mapping[str, Any]]) -> list[_Chunk]:
    return [_Chunk(int(row["index"]), int(row["offset"]), int(row["size"]), str(row["url"])) for row in rows]
