"""Background work in a child process: the parent's side. The child's is `volume_server.child`.

The loop needs the interpreter's lock; a thread that walks over records would take half of it away. So work of that kind
gets an interpreter of its own, `python -m volume_server.MODULE`, with a low priority for processor and disk.

The two talk over an AF_UNIX SOCK_SEQPACKET pair: one message is one JSON object of at most 64 KiB. The first one to the
child says what is to be done and brings open files (SCM_RIGHTS), so that a child needs no path and opens nothing twice.
The last one from it is ``{"end": true}``, or ``{"failed": REASON}``.

A child outlives its parent by no more than the time to its next message, since the socket closes: it says something
every second (`PROGRESS_S`).
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from volume_server.child import MAX_MESSAGE_BYTES, Message, decode, encode

PACKAGE_ROOT = Path(__file__).parent.parent


@dataclass(slots=True)
class Job:
    """Background work on a volume as it is reported (docs/protocol.md, section 5)."""

    state: str
    """running, done or failed"""
    done_bytes: int
    total_bytes: int
    detail: str
    """Why it failed."""
    started_ms: int
    ended_ms: int | None = None


class ChildJob:
    """A child process at work. Made and used on the loop, and nothing here blocks it.

    ``on_message`` gets each message. ``on_end`` is called exactly once, when the child is gone and reaped: with None
    where it said that its work is done or exited with 0, else with the reason.

    Raises OSError where it cannot be started; ``on_end`` is not called then. ValueError: ``first`` is too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        module: str,
        first: Message,
        *,
        fds: Sequence[int] = (),
        on_message: Callable[[Message], None],
        on_end: Callable[[str | None], None],
        package: str = "volume_server",
    ) -> None:
        self.name = module
        self.ended = asyncio.Event()
        """Set after ``on_end`` was called."""
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._said_end = False
        self._failure: str | None = None
        self._unsent: deque[bytes] = deque()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._socket.settimeout(0)
                # It waits in the socket's buffer: no child that is gone already can make this fail.
                socket.send_fds(self._socket, [encode(first)], list(fds))
                self._child = _start(f"{package}.{module}", theirs)
            try:
                self._pidfd = os.pidfd_open(self._child.pid)
            except OSError:
                self._child.kill()
                self._child.wait()
                raise
        except BaseException:
            self._socket.close()
            raise
        self._reading = True
        loop.add_reader(self._socket, self._readable)
        loop.add_reader(self._pidfd, self._exited)

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, message: Message) -> None:
        """Send, or keep it until the child has room for it. A child that is gone gets nothing; ``on_end`` tells.

        Raises ValueError for a message that is too long.
        """
        raw = encode(message)
        if self.ended.is_set():
            return
        self._unsent.append(raw)
        if len(self._unsent) == 1:
            self._send_unsent()

    def kill(self) -> None:
        """End it at once (SIGKILL); ``on_end`` is still called."""
        self._child.kill()

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._send_unsent)
            return
        except ConnectionError:
            self._unsent.clear()
        self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take one message. False: there is none."""
        try:
            raw = self._socket.recv(MAX_MESSAGE_BYTES + 1)
        except BlockingIOError:
            return False
        except ConnectionError:
            raw = b""
        if not raw:
            self._stop_reading()
            return False
        message = decode(raw)
        if message is None:
            self._failure = "it sent what is no message"
            self._stop_reading()
            self.kill()
            return False
        if "failed" in message:
            self._failure = str(message["failed"])
        elif message.get("end") is True:
            self._said_end = True
        else:
            self._on_message(message)
        return True

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._child.wait()
        try:
            while self._reading and self._receive():
                pass
        finally:
            self._stop_reading()
            self._loop.remove_writer(self._socket)
            self._unsent.clear()
            self._socket.close()
            try:
                self._on_end(self._reason(status))
            finally:
                self.ended.set()

    def _reason(self, status: int) -> str | None:
        if self._failure is not None:
            return self._failure
        if self._said_end or status == 0:
            return None
        return f"it was killed by signal {-status}" if status < 0 else f"it exited with code {status}"


def _start(module: str, channel: socket.socket) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-S", "-m", module],  # the standard library and this package are all that it needs
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # what is typed at the parent's terminal is not for it
    )
