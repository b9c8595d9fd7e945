"""Run a command that ends when its parent does: `python -m warehouse_site.with_parent PID COMMAND…`.

On Linux the kernel is asked to send SIGTERM when the parent is gone, however it went; the command then takes this
process over. On other systems a parent that is killed leaves the command running.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    parent, command = int(argv[1]), argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")
    if os.getppid() != parent:
        sys.exit(0)  # it went before the kernel knew what we want
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv)
