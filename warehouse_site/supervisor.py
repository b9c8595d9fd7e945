"""Child processes: started, watched, stopped. Nothing is restarted here: that is a service manager's work.

Children stay in this session but get process groups of their own, so that a Ctrl-C at the terminal reaches this
process alone and the order of stopping is ours. On Linux they end with this process, however it ends.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Part:
    """One child: what it is called, how it is run, and the file its output goes to (None: our stderr)."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    reported: bool = False

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ending(self) -> str:
        """How it ended, in words."""
        code = None if self.process is None else self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"
        where = "its log is above" if self.log is None else f"its log is {self.log}"
        return f"{self.name} {how}; {where}"


class Signals:
    """Counts the signals that ask us to stop, and wakes a wait up when one comes or a child ends."""

    def __init__(self) -> None:
        self.asked_to_stop = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)

    @contextlib.contextmanager
    def caught(self) -> Iterator["Signals"]:
        """Takes the signals over for a while (main thread only)."""
        before = {number: signal.signal(number, self._on_stop) for number in STOP_SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._on_child)
        wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._reader.close()
            self._writer.close()

    def wait(self, timeout_s: float | None) -> None:
        """Until a signal comes, or the time is over."""
        if select.select([self._reader], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._reader.recv(4096):
                    pass

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop += 1

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        """Only wakes the wait up: which child it was is asked there."""


class Supervisor:
    """The parts of a running store, in the order in which they were started."""

    def __init__(self, signals: Signals, folder: Path) -> None:
        self.signals = signals
        self.folder = folder
        self.parts: list[Part] = []

    def start(self, part: Part) -> None:
        command = [sys.executable, "-m", "warehouse_site.with_parent", str(os.getpid()), *part.command]
        with _output(part.log) as output:
            part.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(part.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        self.parts.append(part)

    def newly_dead(self) -> list[Part]:
        """Parts that ended since this was last asked."""
        dead = [part for part in self.parts if not part.reported and not part.is_running]
        for part in dead:
            part.reported = True
        return dead

    def stop(self, parts: Iterable[Part]) -> None:
        """Ask these parts to end, and wait until they have. Asked to stop a second time, kill them all."""
        stopping = [part for part in parts if part.is_running]
        for part in stopping:
            _send(part, signal.SIGTERM)
        while any(part.is_running for part in stopping):
            if self.signals.asked_to_stop > 1:
                self.kill()
                return
            self.signals.wait(None)

    def kill(self) -> None:
        """End every part at once, with all that it started itself."""
        for part in self.parts:
            if part.is_running and part.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(part.pid, signal.SIGKILL)
        for part in self.parts:
            if part.process is not None:
                part.process.wait()


def _send(part: Part, number: signal.Signals) -> None:
    if part.process is not None:
        part.process.send_signal(number)


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """An empty log file, the one of the run before being kept beside it; our stderr where there is no path."""
    if path is None:
        yield sys.stderr.buffer
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_suffix(".old.log"))
    with path.open("ab", buffering=0) as file:
        yield file
