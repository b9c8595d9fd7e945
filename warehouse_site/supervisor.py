"""Child processes: started, watched, started again after a growing pause when they die, stopped.

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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 60.0
"""A part that ran this long is well: its earlier deaths are forgotten, and its next pause is the first one again."""
_TAIL_BYTES = 4096


@dataclass(slots=True)
class Part:
    """One child: what it is called, how it is run, and the file its output goes to (None: our stderr).

    `final_codes` are the exit codes after which another start would change nothing, each with its reason.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None = None
    final_codes: Mapping[int, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    reported: bool = False
    started_at: float = 0.0
    deaths: int = 0
    """In a row, none of the lives between them being a healthy one."""
    pause_s: float = 0.0
    due_at: float | None = None
    """When it is started again; None: it runs, or stays dead."""

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

    def why_final(self) -> str | None:
        """Why another start would change nothing; None when it may help."""
        return None if self.process is None else self.final_codes.get(self.process.returncode)

    def last_lines(self, count: int = 5) -> list[str]:
        """The end of its log file; nothing where it has none, or it cannot be read."""
        if self.log is None:
            return []
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError as error:
            return [f"(the log cannot be read: {error})"]


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

    def __init__(self, signals: Signals, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.signals = signals
        self.folder = folder
        self.clock = clock
        self.parts: list[Part] = []

    def start(self, part: Part) -> None:
        """Start a part for the first time, with an empty log."""
        self._spawn(part)
        self.parts.append(part)

    def restart_later(self, part: Part) -> float:
        """Have a dead part started again after a pause, in seconds, that doubles while it does not get well."""
        now = self.clock()
        if now - part.started_at >= HEALTHY_S:
            part.deaths, part.pause_s = 0, 0.0
        part.deaths += 1
        part.pause_s = min(2 * part.pause_s, LONGEST_PAUSE_S) or FIRST_PAUSE_S
        part.due_at = now + part.pause_s
        return part.pause_s

    def due(self) -> list[Part]:
        """Parts whose pause is over."""
        now = self.clock()
        return [part for part in self.parts if part.due_at is not None and part.due_at <= now]

    def seconds_to_next(self) -> float | None:
        """Until the next pause is over; None when no part waits."""
        waiting = [part.due_at for part in self.parts if part.due_at is not None]
        return max(0.0, min(waiting) - self.clock()) if waiting else None

    def restart(self, part: Part) -> None:
        """Start a dead part again; its log goes on. Raises OSError when the machine does not let us."""
        self._spawn(part)
        part.due_at = None
        part.reported = False

    def _spawn(self, part: Part) -> None:
        part.started_at = self.clock()  # a start that fails is a short life too
        command = [sys.executable, "-m", "warehouse_site.with_parent", str(os.getpid()), *part.command]
        with _output(part.log, fresh=part.process is None) as output:
            part.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(part.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

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
def _output(path: Path | None, *, fresh: bool) -> Iterator[IO[bytes]]:
    """The log file; a fresh one is empty, and the one before is kept beside it. Our stderr where there is no path."""
    if path is None:
        yield sys.stderr.buffer
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        with contextlib.suppress(FileNotFoundError):
            path.replace(path.with_suffix(".old.log"))
    with path.open("ab", buffering=0) as file:
        yield file
