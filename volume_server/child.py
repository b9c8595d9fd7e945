"""Background work in a child process: the child's side. The parent's is `volume_server.jobs`, which says how they talk.

Apart from it, since a child needs no event loop, and is to start fast.
"""

import ctypes
import json
import logging
import os
import platform
import signal
import socket
from collections.abc import Callable
from typing import Any

from volume_server.logs import configure_logging

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 10
MAX_FDS = 16
PROGRESS_S = 1.0
"""How often a child is to say something."""
NICENESS = 10
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
"""The number of the system call, which neither Python nor the C library gives a name."""
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
"""The class of those who get the disk when nobody else wants it."""

Message = dict[str, Any]


class ParentGone(Exception):
    """Nobody waits for this work any more."""


class Parent:
    """The parent, as its child sees it: the socket at descriptor 0. Every method raises ParentGone."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel

    def first(self) -> tuple[Message, list[int]]:
        """What is to be done, and the open files for it."""
        try:
            raw, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_FDS)
        except ConnectionError as error:
            raise ParentGone from error
        return _from_parent(raw), fds

    def send(self, message: Message) -> None:
        """Waits while the parent is behind. Raises ValueError for a message that is too long."""
        try:
            self._socket.send(encode(message))
        except ConnectionError as error:
            raise ParentGone from error

    def receive(self) -> Message:
        """The next message; waits for it."""
        return self._receive(0)

    def poll(self) -> Message | None:
        """The next message, None where none has come yet."""
        try:
            return self._receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _receive(self, flags: int) -> Message:
        try:
            raw = self._socket.recv(MAX_MESSAGE_BYTES, flags)
        except ConnectionError as error:
            raise ParentGone from error
        return _from_parent(raw)


def run_child(main: Callable[[Parent], None]) -> int:
    """What a child module does: ``sys.exit(run_child(main))``. The exit code: 0 also where the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent says when it is over
    configure_logging(os.environ.get("WAREHOUSE_LOG", "text"))
    _give_way()
    parent = Parent(socket.socket(fileno=0))
    try:
        try:
            main(parent)
        except ParentGone:
            raise
        except Exception as error:
            log.exception("the work failed")
            parent.send({"failed": (str(error) or type(error).__name__)[:1000]})
            return 1
        parent.send({"end": True})
    except ParentGone:
        pass  # nobody is there to be told
    return 0


def _give_way() -> None:
    """Let others have the processor and the disk first. Where the kernel says no to that, the work is done as well."""
    os.nice(NICENESS)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


def encode(message: Message) -> bytes:
    raw = json.dumps(message, separators=(",", ":")).encode()
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(raw)} bytes")
    return raw


def decode(raw: bytes) -> Message | None:
    try:
        message = json.loads(raw) if len(raw) <= MAX_MESSAGE_BYTES else None
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _from_parent(raw: bytes) -> Message:
    if not raw:
        raise ParentGone
    message: Message = json.loads(raw)
    return message
