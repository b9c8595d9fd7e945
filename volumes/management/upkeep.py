"""What `compact` and `scrub` have in common: choose volumes, start one on each server at a time, watch them."""

import argparse
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.errors import WarehouseError
from volumes import selectors
from volumes.errors import VolumeServerError
from volumes.management.progress import Board, bar, percent, size_text
from volumes.models import MAX_VOLUME, JobState, Replica, Server
from volumes.reports import Figures, Job
from volumes.services.upkeep import ask_figures

POLL_S = 0.5
ANSWER_S = 5.0
"""A server that is silent for so long has not answered this time; the others are not kept waiting for it."""
SILENT_S = 60.0
"""A server that has not answered for so long is not waited for any longer."""
AT_ONCE = 16
"""Servers that are asked at the same time."""
PLAIN_STEP = 10
"""Percent between two lines where there is no terminal."""
USAGE = 2
"""Exit code of a command line that cannot be meant, as argparse gives it."""
INTERRUPTED = 130
"""Exit code of a program that SIGINT ended, as shells count them."""


class Stage(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


@dataclass(slots=True)
class Work:
    """One copy of a volume to be worked on; ``figures`` as last heard from its server."""

    server: Server
    figures: Figures
    name: str
    """``volume 3``; and on which server, where others are worked on as well."""
    stage: Stage = Stage.WAITING
    told_percent: int = 0
    heard_at: float = 0.0
    """Monotonic seconds."""

    @property
    def volume(self) -> int:
        return self.figures.volume


class UpkeepCommand(BaseCommand):
    """A job on volumes, with progress. Exit code 1 when any of it failed."""

    noun: str
    """What runs: ``compaction``."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("volumes", nargs="*", type=volume_number, metavar="VOLUME", help="the volume's number")
        parser.add_argument("--all", action="store_true", dest="all_volumes", help="all volumes of the store")
        parser.add_argument(
            "--no-wait", action="store_true", help="ask for all and return; each server takes one after the other"
        )

    @abstractmethod
    def start(self, work: Work, options: dict[str, Any]) -> Figures:
        """Has the job begin; its figures then."""

    @abstractmethod
    def job(self, figures: Figures) -> Job | None:
        """The job in a volume's figures."""

    @abstractmethod
    def succeeded(self, work: Work, job: Job) -> str:
        """What to say of a job that is done. Raises WarehouseError."""

    def copies(self, volumes: Iterable[int] | None) -> list[Replica]:
        """What is worked on: of these volumes, or of all."""
        return selectors.list_primaries(volumes)

    def reason_to_skip(self, figures: Figures, options: dict[str, Any]) -> str:
        """Why a volume needs no work; empty when it does."""
        return ""

    def summary(self) -> str:
        """What to say at the end, besides how many volumes were done."""
        return ""

    def handle(self, *args: Any, **options: Any) -> None:
        self.board = Board(self.stdout)
        self.done: set[int] = set()
        self.failed: set[int] = set()
        """Volumes; one of which a copy failed is not done."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ask-server") as self._askers:
            works = self._look(self._chosen(options), options)
            if options["no_wait"]:
                for work in works:
                    if self._start(work, options):
                        self.board.say(f"{work.name}: the {self.noun} runs")
            else:
                self._run(works, options)
        if not options["no_wait"]:
            done = count_text(len(self.done - self.failed))
            self.board.say(f"{done} done{self.summary()}, {len(self.failed)} failed")
        if self.failed:
            raise CommandError(f"The {self.noun} of {count_text(len(self.failed))} failed; see above.")

    def _chosen(self, options: dict[str, Any]) -> list[Replica]:
        wanted = set(options["volumes"])
        if bool(wanted) == options["all_volumes"]:
            said = (
                "Name volumes, or give --all, not both." if wanted else "Name volumes by their numbers, or give --all."
            )
            raise CommandError(said, returncode=USAGE)
        if options["all_volumes"]:
            # One that is still to be made has nothing in it.
            return [one for one in self.copies(None) if one.state != Replica.State.EXPECTED]
        found = self.copies(wanted)
        unknown = wanted - {one.volume_id for one in found}
        if unknown:
            raise CommandError(f"Not in this store: {volumes_text(unknown)}.")
        return found

    def _look(self, replicas: list[Replica], options: dict[str, Any]) -> list[Work]:
        """Asks every server for its figures, and gives what there is to do."""
        works: list[Work] = []
        # The rows were read a moment ago; none is judged by its last heartbeat after others were waited for.
        offline = {one.server_id for one in replicas if not one.server.is_alive()}
        answers = self._ask(one.server for one in replicas if one.server_id not in offline)
        copies = Counter(one.volume_id for one in replicas)
        for replica in replicas:
            server = replica.server
            name = f"volume {replica.volume_id}" + (f" on {server}" if copies[replica.volume_id] > 1 else "")
            if server.pk in offline:
                self._fail(
                    replica.volume_id, name, f"its server {server} is offline; start that server and run this again"
                )
                continue
            answer = answers[server.pk]
            if isinstance(answer, VolumeServerError):
                self._fail(replica.volume_id, name, answer.detail)
            elif replica.volume_id not in answer:
                self._fail(replica.volume_id, name, f"server {server} does not list it; look at that server's log")
            elif reason := self.reason_to_skip(answer[replica.volume_id], options):
                self.board.say(f"{name}: skipped, {reason}")
            else:
                works.append(Work(server, answer[replica.volume_id], name))
        return works

    def _ask(self, servers: Iterable[Server]) -> dict[UUID, dict[int, Figures] | VolumeServerError]:
        """The figures of each server, or why there are none; all are asked at once, so that one that hangs costs the
        others no more than ANSWER_S."""
        wanted = {server.pk: server for server in servers}
        return dict(zip(wanted, self._askers.map(_figures_or_error, wanted.values()), strict=True))

    def _run(self, works: list[Work], options: dict[str, Any]) -> None:
        """One volume of each server at a time, until all are over."""
        try:
            while any(work.stage != Stage.OVER for work in works):
                busy = {work.server.pk for work in works if work.stage == Stage.RUNNING}
                for work in works:
                    if work.stage != Stage.WAITING or work.server.pk in busy:
                        continue
                    if self._start(work, options):
                        busy.add(work.server.pk)
                self._draw(works)
                if busy:
                    time.sleep(POLL_S)
                running = [work for work in works if work.stage == Stage.RUNNING]
                answers = self._ask(work.server for work in running)
                for work in running:
                    self._watch(work, answers[work.server.pk])
        except KeyboardInterrupt:
            self.board.clear()
            raise CommandError(self._interrupted(works), returncode=INTERRUPTED) from None
        self.board.clear()

    def _start(self, work: Work, options: dict[str, Any]) -> bool:
        work.stage = Stage.RUNNING  # before it is asked for: after Ctrl-C in between it may well run
        try:
            work.figures = self.start(work, options)
        except WarehouseError as error:
            work.stage = Stage.OVER
            self._fail(work.volume, work.name, error.detail)
            return False
        work.heard_at = time.monotonic()
        return True

    def _watch(self, work: Work, answer: dict[int, Figures] | VolumeServerError) -> None:
        """Takes in how far a volume is, and says so when that is over."""
        if isinstance(answer, VolumeServerError) or work.volume not in answer:
            if time.monotonic() - work.heard_at >= SILENT_S:
                reason = answer.detail if isinstance(answer, VolumeServerError) else "its server no longer lists it"
                work.stage = Stage.OVER
                self._fail(work.volume, work.name, f"lost sight of it, the {self.noun} may go on: {reason}")
            return
        work.figures = answer[work.volume]
        work.heard_at = time.monotonic()
        job = self.job(work.figures)
        if job is not None and job.state == JobState.RUNNING:
            self._tell_plainly(work, job)
            return
        work.stage = Stage.OVER
        if job is None:
            reason = f"its server was started anew, which ended the {self.noun}; run this again"
            self._fail(work.volume, work.name, reason)
        elif job.state == JobState.FAILED:
            self._fail(work.volume, work.name, job.detail or "its server does not say why")
        else:
            self._succeed(work, job)

    def _succeed(self, work: Work, job: Job) -> None:
        try:
            told = self.succeeded(work, job)
        except WarehouseError as error:
            self._fail(work.volume, work.name, error.detail)
        else:
            self.done.add(work.volume)
            self.board.say(f"{work.name}: {told}")

    def _tell_plainly(self, work: Work, job: Job) -> None:
        now = percent(job.done_bytes, job.total_bytes) // PLAIN_STEP * PLAIN_STEP
        if not self.board.is_live and now > work.told_percent:
            work.told_percent = now
            self.board.say(f"{work.name}: {now} %")

    def _draw(self, works: list[Work]) -> None:
        lines = []
        done_bytes = total_bytes = over = 0
        for work in works:
            done, total = self._bytes(work)
            if work.stage == Stage.RUNNING:
                lines.append(f"{work.name:<14} {bar(done, total)}  {size_text(done)} of {size_text(total)}")
            over += work.stage == Stage.OVER
            done_bytes, total_bytes = done_bytes + done, total_bytes + total
        lines.append(f"{'in all':<14} {bar(done_bytes, total_bytes)}  {over} of {self._works_text(works)}")
        self.board.draw(lines)

    def _bytes(self, work: Work) -> tuple[int, int]:
        """What is done of a volume, and what there is to do; all of it when it is over, however it ended."""
        job = None if work.stage == Stage.WAITING else self.job(work.figures)
        total = work.figures.size_bytes if job is None else job.total_bytes
        if work.stage == Stage.OVER:
            return total, total
        return (0 if job is None else min(job.done_bytes, total)), total

    def _works_text(self, works: list[Work]) -> str:
        is_one_each = len({work.volume for work in works}) == len(works)
        return count_text(len(works)) if is_one_each else f"{len(works)} copies"

    def _fail(self, volume: int, name: str, reason: str) -> None:
        self.failed.add(volume)
        self.board.say(f"{name}: failed, {reason}")

    def _interrupted(self, works: list[Work]) -> str:
        told = "Interrupted."
        if running := [work.volume for work in works if work.stage == Stage.RUNNING]:
            told += f" The {self.noun} of {volumes_text(running)} goes on; run the command again to watch it."
        if waiting := [work.volume for work in works if work.stage == Stage.WAITING]:
            told += f" Not started: {volumes_text(waiting)}."
        return told


def _figures_or_error(server: Server) -> dict[int, Figures] | VolumeServerError:
    try:
        return ask_figures(server=server, timeout_s=ANSWER_S)
    except VolumeServerError as error:
        return error


def volume_number(text: str) -> int:
    """An argument that is a volume's number."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_VOLUME:
        raise argparse.ArgumentTypeError(f"{text!r} is no volume number")
    return int(text)


def count_text(count: int) -> str:
    return f"{count} volume{'' if count == 1 else 's'}"


def volumes_text(volumes: Iterable[int]) -> str:
    """``volume 3`` or ``volumes 3, 5``."""
    numbers = sorted(set(volumes))
    return f"volume{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
