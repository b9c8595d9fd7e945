"""Who waits for a volume's fdatasync, so that the loop need not: a process (`SyncProcess`) or a thread (`SyncThread`).

Both take a batch of what was written, sync, and hand the batch back on the loop with the error, if any; one sync of a
volume at a time.
"""

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from volume_server.errors import StoreError
from volume_server.sync_child import ERRNO, SYNC
from volume_server.volume import Claim, Volume

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("sync_child.py")

Waiting = list[tuple[Claim, Callable[[StoreError | None], None]]]
Done = Callable[["Syncs", Waiting, OSError | StoreError | None], None]
"""With the OSError of an fdatasync that failed, or why what is durable here is not on all copies."""
Opener = Callable[[asyncio.AbstractEventLoop, Volume, Done], "Syncs"]


class Syncs(Protocol):
    """The syncs of one volume."""

    volume: Volume
    waiting: Waiting
    """What the next sync will cover."""
    running: bool

    def start(self) -> None:
        """Sync what was written up to now; ``waiting`` is taken along and comes back with the outcome."""

    def close(self) -> None:
        """No more syncs. None may be under way."""


class SyncThread:
    """One volume's syncs in a thread of this process, through the volume's own file operations."""

    def __init__(self, loop: asyncio.AbstractEventLoop, volume: Volume, done: Done) -> None:
        self.loop = loop
        self.volume = volume
        self.waiting: Waiting = []
        self.running = False
        self._done = done
        self._batches: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"sync-{volume.number}", daemon=True)
        self._thread.start()

    def start(self) -> None:
        batch, self.waiting = self.waiting, []
        self._batches.put(batch)

    def close(self) -> None:
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            failure: OSError | None = None
            try:
                self.volume.sync_log()
            except OSError as error:
                failure = error
            self.loop.call_soon_threadsafe(self._done, self, batch, failure)


class SyncProcess:
    """The child process that syncs (see `sync_child`); `attach` gives a volume its channel to it.

    Should it die, nobody can say what its last syncs did: ``on_death`` is called, and whoever waits is never answered.
    """

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.on_death = on_death
        self.is_dead = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._child = subprocess.Popen([sys.executable, "-I", "-S", str(CHILD)], stdin=theirs.fileno())

    def attach(self, loop: asyncio.AbstractEventLoop, volume: Volume, done: Done) -> "SyncChannel":
        """Never fails: where the child is gone already, ``on_death`` is told, as by a channel that finds it dead."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [SYNC], [theirs.fileno(), volume.fd])
            except OSError:
                self.died()
        return SyncChannel(self, loop, volume, done, ours)

    def died(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            log.critical("the process that syncs has died; what it was doing is not known")
            self.on_death()

    def close(self) -> None:
        """End the child. All channels are closed."""
        self._control.close()
        self._child.wait()


class SyncChannel:
    """One volume's syncs, done by the child."""

    def __init__(
        self, process: SyncProcess, loop: asyncio.AbstractEventLoop, volume: Volume, done: Done, channel: socket.socket
    ) -> None:
        self.volume = volume
        self.waiting: Waiting = []
        self.running = False
        self._process = process
        self._loop = loop
        self._done = done
        self._batch: Waiting = []
        self._channel = channel
        channel.settimeout(0)
        loop.add_reader(channel, self._answered)

    def start(self) -> None:
        self._batch, self.waiting = self.waiting, []
        try:
            self._channel.send(SYNC)
        except OSError:
            self._process.died()

    def close(self) -> None:
        self._loop.remove_reader(self._channel)
        self._channel.close()

    def _answered(self) -> None:
        try:
            raw = self._channel.recv(ERRNO.size)
        except ConnectionError:
            raw = b""
        if not raw:
            self._loop.remove_reader(self._channel)
            self._process.died()
            return
        (error,) = ERRNO.unpack(raw)
        failure = None
        if error:
            failure = self.volume.sync_failure = OSError(error, f"fdatasync failed with error {error}")
        batch, self._batch = self._batch, []
        self._done(self, batch, failure)
