"""The process that waits for the disk in the volume server's place.

A thread that comes back from fdatasync wants the interpreter's lock from a loop that is busy, and the two wake each
other up over and over: measured, that was a quarter of the cost of a small durable PUT. A process of its own has a
lock of its own. It is given each volume's open file (the same one, SCM_RIGHTS, so that the kernel reports a failed
write-back to whoever asks first, as it would among threads) and a socket for it: one byte in, one fdatasync, the
errno out.

It is run by its path and imports next to nothing. It ends when its parent does: the sockets close.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
import threading

ERRNO = struct.Struct("<i")
SYNC = b"s"


def serve(channel: socket.socket, fd: int) -> None:
    """One volume's syncs, until the other side closes, or dies (then the channel is reset)."""
    with channel, contextlib.suppress(ConnectionError):
        while channel.recv(1):
            error = 0
            try:
                os.fdatasync(fd)
            except OSError as failure:
                error = failure.errno or -1
            channel.send(ERRNO.pack(error))
    os.close(fd)


def main() -> int:
    """Takes pairs of channel and volume file over the socket at descriptor 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent says when it is over
    control = socket.socket(fileno=0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return 0
        channel, fd = descriptors
        threading.Thread(target=serve, args=(socket.socket(fileno=channel), fd), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
