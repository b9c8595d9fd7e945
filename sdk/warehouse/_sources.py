"""What is put: bytes, files and streams, cut into bodies that can be sent more than once."""

import io
import os
import stat
import tempfile
import threading
import zlib
from contextlib import ExitStack
from typing import BinaryIO, ClassVar, Protocol, TypeAlias, cast

from warehouse._http import BLOCK_BYTES, Body, Transport
from warehouse.errors import SourceChanged
from warehouse.transfer import TransferConfig

PutSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""Bytes, a path, or a binary file or stream (from where it stands to its end)."""

_COPY_BYTES = 1 << 20
_SCRATCH_BYTES = 1 << 20
_scratch = threading.local()


class Source(Protocol):
    """Bytes of a known number."""

    holds_pieces: ClassVar[bool]
    """Whether a piece takes as much memory as it has bytes, for as long as its body is there."""

    @property
    def size(self) -> int: ...

    def body(self, offset: int, size: int) -> Body:
        """A piece; pieces are asked for in order and do not overlap."""


class BufferBody:
    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def size(self) -> int:
        return len(self._view)

    def small(self) -> memoryview | None:
        return self._view if len(self._view) <= BLOCK_BYTES else None

    def crc32(self) -> int:
        return zlib.crc32(self._view)

    def send(self, transport: Transport) -> None:
        transport.send_body(self._view)


class BufferSource:
    holds_pieces: ClassVar[bool] = False

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def size(self) -> int:
        return len(self._view)

    def body(self, offset: int, size: int) -> Body:
        return BufferBody(self._view[offset : offset + size])


class FileBody:
    """A piece of a file. Its CRC is read first, which also brings it into the page cache, from where it is sent."""

    def __init__(self, source: "FileSource", offset: int, size: int) -> None:
        self._source = source
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def small(self) -> memoryview | None:
        return None

    def crc32(self) -> int:
        buffer = scratch()
        crc, offset, end = 0, self._offset, self._offset + self._size
        while offset < end:
            got = os.preadv(self._source.fd, [buffer[: min(len(buffer), end - offset)]], offset)
            if not got:
                raise SourceChanged("the file became shorter while it was being put")
            crc = zlib.crc32(buffer[:got], crc)
            offset += got
        self._source.check_unchanged()
        return crc

    def send(self, transport: Transport) -> None:
        transport.send_file(self._source.fd, self._offset, self._size)


class FileSource:
    """A real file from ``start`` on, as it is now."""

    holds_pieces: ClassVar[bool] = False

    def __init__(self, fd: int, *, start: int = 0) -> None:
        self.fd = fd
        self._start = start
        self._stat = os.fstat(fd)

    @property
    def size(self) -> int:
        return max(self._stat.st_size - self._start, 0)

    def body(self, offset: int, size: int) -> Body:
        offset += self._start
        if size > BLOCK_BYTES:
            return FileBody(self, offset, size)
        data = os.pread(self.fd, size, offset)
        self.check_unchanged()
        if len(data) != size:
            raise SourceChanged("the file became shorter while it was being put")
        return BufferBody(memoryview(data))

    def check_unchanged(self) -> None:
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise SourceChanged("the file was written to while it was being put")


class StreamSource:
    """A stream whose size is told beforehand."""

    holds_pieces: ClassVar[bool] = True

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def body(self, offset: int, size: int) -> Body:
        buffer = bytearray(size)
        at = 0
        while at < size:
            piece = _read(self._stream, min(_COPY_BYTES, size - at))
            if not piece:
                raise SourceChanged(f"the stream ended after {offset + at} of {self._size} bytes")
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        # Judged before the last piece is sent, because that one makes the object.
        if offset + size == self._size and _read(self._stream, 1):
            raise SourceChanged(f"the stream goes on after its {self._size} bytes")
        return BufferBody(memoryview(buffer))


def open_source(source: PutSource, *, size: int | None, config: TransferConfig, stack: ExitStack) -> Source:
    """A source ready to be read; what had to be opened for it is closed with ``stack``.

    Raises OSError for files, TypeError for what is no source, ValueError for a ``size`` that is not its size.
    """
    opened = _open(source, size, config, stack)
    if size is not None and opened.size != size:
        raise ValueError(f"size is given as {size}, but the source has {opened.size} bytes")
    return opened


def scratch() -> memoryview:
    """This thread's block buffer."""
    buffer: memoryview | None = getattr(_scratch, "buffer", None)
    if buffer is None:
        buffer = _scratch.buffer = memoryview(bytearray(_SCRATCH_BYTES))
    return buffer


def _open(source: PutSource, size: int | None, config: TransferConfig, stack: ExitStack) -> Source:
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source)
        return BufferSource(view.cast("B") if view.c_contiguous else memoryview(bytes(view)))
    if isinstance(source, str | os.PathLike):
        file = stack.enter_context(open(source, "rb", buffering=0))  # noqa: SIM115 - the stack closes it
        found = os.fstat(file.fileno())
        # The kernel's own files (/proc) say 0 and have bytes all the same.
        if stat.S_ISREG(found.st_mode) and found.st_size:
            return FileSource(file.fileno())
        return _from_stream(cast("BinaryIO", file), size, config, stack)
    if isinstance(source, io.BytesIO):
        view = source.getbuffer()
        stack.callback(view.release)
        start = min(source.tell(), len(view))
        source.seek(0, os.SEEK_END)
        return BufferSource(view[start:])
    # Only these are known to give the descriptor's own bytes; a GzipFile, say, has a descriptor too.
    if isinstance(source, io.FileIO | io.BufferedReader | io.BufferedRandom) and _is_real_file(source):
        if isinstance(source, io.BufferedRandom):
            source.flush()
        start = source.tell()
        source.seek(0, os.SEEK_END)
        return FileSource(source.fileno(), start=start)
    if not hasattr(source, "read"):
        raise TypeError(f"bytes, a path or a binary file can be put, not {type(source).__name__}")
    return _from_stream(source, size, config, stack)


def _from_stream(stream: BinaryIO, size: int | None, config: TransferConfig, stack: ExitStack) -> Source:
    if size is not None:
        return StreamSource(stream, size)
    start = bytearray()
    while len(start) <= config.spool_bytes:
        piece = _read(stream, _COPY_BYTES)
        if not piece:
            return BufferSource(memoryview(start))
        start += piece
    spool = stack.enter_context(tempfile.TemporaryFile(prefix="warehouse-"))  # noqa: SIM115 - the stack closes it
    spool.write(start)
    del start
    while piece := _read(stream, _COPY_BYTES):
        spool.write(piece)
    spool.flush()
    return FileSource(spool.fileno())


def _read(stream: BinaryIO, size: int) -> bytes:
    piece = stream.read(size)
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(f"the stream gives {type(piece).__name__}, not bytes: is it open in text mode?")
    return bytes(piece)


def _is_real_file(file: io.FileIO | io.BufferedReader | io.BufferedRandom) -> bool:
    raw = file if isinstance(file, io.FileIO) else file.raw
    if not isinstance(raw, io.FileIO) or not file.seekable():
        return False
    found = os.fstat(raw.fileno())
    return stat.S_ISREG(found.st_mode) and found.st_size > 0
