"""How bytes are moved: parallelism, memory, patience.

Memory of one transfer, at most:

    put of bytes, a path or a real file        concurrency × 1 MiB (and the bytes themselves)
    put of a stream whose size is given        stream_chunks × the store's chunk size
    put of a stream of unknown length          spool_bytes; beyond that an unlinked temporary file
    download to a path                         concurrency × 1 MiB
    get                                        the object, twice for a moment
    iter_bytes, open                           two chunks, one chunk
    get_many                                   many_concurrency × 4 objects

The transfers of one client share its threads: `concurrency` for chunks of large objects, `many_concurrency` for the
objects of a `*_many` call.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "TransferConfig"]

Progress = Callable[[int], None]
"""Called with the bytes moved since the last call, from several threads; negative when a piece must be sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    concurrency: int = 8
    """Chunks of large objects that are moved at the same time: while some wait for the disk, others are under way."""
    stream_chunks: int = 4
    """Chunks of a put stream that are held in memory at the same time."""
    many_concurrency: int = 32
    """Objects that `put_many`, `get_many` and `download_many` move at the same time. Volume servers and master commit
    what comes at the same time together, so small objects gain from more."""
    small_put_bytes: int = 8 << 20
    """Up to this size an object is put by one request under a shared lease, above it as an upload of chunks."""
    spool_bytes: int = 8 << 20
    """A stream of unknown length is held in memory up to this size, then in a temporary file."""
    connect_timeout_s: float = 10.0
    """How long one connection may take to be made."""
    io_timeout_s: float = 60.0
    """How long a connection may stand still."""
    retry_s: float = 60.0
    """For how long a request is repeated while there is no definite answer."""
    backoff_s: float = 0.1
    """The first pause between repeats; each further one is twice as long, up to `backoff_max_s`, with jitter."""
    backoff_max_s: float = 5.0
    fsync: bool = False
    """Whether a downloaded file is on the disk before it takes its name. Without it a file is whole or not there after
    anything but a crash of the machine itself, as with cp."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "stream_chunks", "many_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("small_put_bytes", "spool_bytes", "retry_s", "backoff_s", "backoff_max_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("connect_timeout_s", "io_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above zero")
