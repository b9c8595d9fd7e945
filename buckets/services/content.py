"""The bytes of an object of several chunks, or of many objects, as one stream through the master.

The one exception to the rule that bytes do not pass through here, so it is kept small: a quarter of the threads may
do it at a time.
"""

import logging
import threading
import zlib
from collections.abc import Generator, Iterator

from django.conf import settings

from buckets.errors import Busy, NeedleUnreadable
from buckets.selectors.objects import Found, FoundChunk
from buckets.services.downloads import sign_online, url_expiry
from keys.rights import KeyRights
from volumes.client import open_needle
from volumes.errors import VolumeServerError

log = logging.getLogger(__name__)

_streams = threading.BoundedSemaphore(max(1, settings.WAREHOUSE_THREADS // 4))


class Stream(Iterator[bytes]):
    """Bytes on their way through the master, in one of the few places for that. Close it when done."""

    def __init__(self, pieces: Generator[bytes]) -> None:
        """Raises Busy, and what goes wrong before the first piece can be had."""
        if not _streams.acquire(blocking=False):
            raise Busy("All threads that may stream objects are in use; try again, or read the chunks themselves.")
        self._is_open = True
        self._pieces = pieces
        try:
            self._head = [next(self._pieces)]
        except BaseException:
            self.close()
            raise

    def __next__(self) -> bytes:
        return self._head.pop() if self._head else next(self._pieces)

    def close(self) -> None:
        """Ends the stream, at whatever byte; may be called twice."""
        if self._is_open:
            self._is_open = False
            self._pieces.close()
            _streams.release()


class ObjectStream(Stream):
    """Bytes ``first`` to ``last``, inclusive, of an object, piece by piece (256 KiB of memory)."""

    def __init__(self, found: Found, *, reader: KeyRights, first: int, last: int) -> None:
        """Raises Busy, and NeedleUnreadable when not even the first piece can be had."""
        super().__init__(read_object(found, reader=reader, first=first, last=last))


def read_object(found: Found, *, reader: KeyRights, first: int, last: int) -> Generator[bytes]:
    """Bytes ``first`` to ``last`` of an object.

    A chunk's last piece is only given out when the CRC of the whole chunk is right, and an error ends the stream, so a
    reader who counts bytes never takes wrong ones for an object. A replica that fails is left for the next one, at the
    byte where it failed; one whose server is offline is not asked. Of a chunk that is read in part the CRC can't be
    known. Raises NeedleUnreadable.
    """
    start = 0
    for chunk in found.chunks:
        end = start + chunk.size
        if start <= last and first < end:
            yield from _read_chunk(found, chunk, reader, max(first - start, 0), min(last - start, chunk.size - 1))
        start = end


def _read_chunk(found: Found, chunk: FoundChunk, reader: KeyRights, first: int, last: int) -> Generator[bytes]:
    is_whole = first == 0 and last == chunk.size - 1
    # Signed when its turn comes: what came before may have taken longer than a URL lives.
    alone = found._replace(chunks=[chunk])
    [urls] = sign_online([alone], reader=reader, expires_at=url_expiry())
    at, crc, held = first, 0, b""
    for url in urls:
        try:
            part = {} if is_whole and at == 0 else {"first": at, "last": last}
            with open_needle(url, **part) as pieces:
                for piece in pieces:
                    at += len(piece)
                    crc = zlib.crc32(piece, crc)
                    if held:
                        yield held
                    held = piece
        except VolumeServerError as error:
            log.warning("needle %016x of volume %d: %s", chunk.needle, chunk.volume_id, error.detail)
        if at > last:
            break
    if at != last + 1:
        raise NeedleUnreadable(f"No replica of chunk {chunk.position} can be read at byte {at}.")
    if is_whole and crc != chunk.crc32:
        log.error("needle %016x of volume %d: its bytes have another CRC", chunk.needle, chunk.volume_id)
        raise NeedleUnreadable(f"The bytes of chunk {chunk.position} have another CRC than the stored ones had.")
    yield held
