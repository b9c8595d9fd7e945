"""One chaos run: a cluster under load, a storm of faults, healing, and the oracle's word."""

import filecmp
import json
import operator
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from tests.support import chaos_plan
from tests.support.api import Api, read_chunk
from tests.support.chaos_cluster import FILESYSTEM, SQLITE, Cluster, Process
from tests.support.chaos_content import Mixed, identify
from tests.support.chaos_load import Config, Log
from tests.support.chaos_oracle import DONE, NOTHING, UNKNOWN, Judge
from tests.support.chaos_plan import Step, make_plan, weather_of
from tests.support.chaos_proxy import Weather
from tests.support.loop_disk import why_no_loop_disks
from tests.support.programs import ROOT, clean_environment, start
from tests.support.waiting import look_until, wait_until

TICK_S = 0.25
_PROOF_PAUSE_S = 2.0
"""Between two checks: each reads every row and every volume's index."""
_LOAD_ENDS_S = 90.0
"""Longer than any operation of a client takes."""
_LOOK_UP_KEYS = 500
_LEAST_COUNT = 20
"""So many changes and reads must have succeeded, else a run says nothing."""
_CLEAN = (0, -signal.SIGTERM)
"""Exit codes of a clean stop; of a process that was just about to start, too."""
_ERROR = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)+(\S.*)$", re.MULTILINE)
"""The last line of a traceback, which names the error."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. ``buckets``: copies that the objects of each have; ``heal_s``: how long healing may take.

    ``prove_s``: how long it may take until nothing is wrong any more: what was put half-way in the storm's last moment
    is swept when its lease is over for a minute and a half.
    """

    seed: int
    storm_s: float
    broker: str
    database: str = SQLITE
    servers: int = 4
    buckets: tuple[int, ...] = (2, 2, 1)
    processes: int = 2
    clients: int = 5
    pause_s: float = 0.2
    disk_bytes: int = 512 << 20
    heal_s: float = 180.0
    prove_s: float = 300.0
    env: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a run came to; `failures` is empty when all held."""

    failures: list[str]
    remarks: list[str]
    summary: str


class Run:
    """One run in a directory of its own. ``say`` is told how it goes."""

    def __init__(self, options: Options, directory: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.directory = directory
        self.say = say
        self.judge = Judge()
        self.failures: list[str] = []
        self.remarks: list[str] = []
        self.faults: Counter[str] = Counter()
        self.emptied = 0
        self.healed_s = 0.0
        self.proven_s: float | None = None
        self._logs: dict[Path, TextIO] = {}
        self._rests: dict[Path, str] = {}
        self._judged = 0
        self._hit: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._emptying = threading.Lock()
        self._began = self._ended = 0.0
        self._given_up = threading.Event()

    def run(self) -> Outcome:
        """The whole of it. The cluster is gone when it returns."""
        options = self.options
        without = set(options.without)
        disk_bytes: int | None = options.disk_bytes
        if (reason := why_no_loop_disks()) is not None:
            self._remark(f"no disk is filled up, since there are no loop-mounted ones here: {reason}")
            without.add(f"{chaos_plan.SERVERS} {chaos_plan.FILL}")
            disk_bytes = None
        for part, is_files in (
            (chaos_plan.BROKER, options.broker == FILESYSTEM),
            (chaos_plan.DATABASE, options.database == SQLITE),
        ):
            if is_files:  # they have no process
                without |= {f"{part} {what}" for what in (chaos_plan.KILL, chaos_plan.PAUSE, chaos_plan.STOP)}
        if min(options.buckets) < 2:  # what has no copies would be lost with the disk
            without.add(f"{chaos_plan.SERVERS} {chaos_plan.EMPTY}")
        self.cluster = Cluster(
            self.directory,
            servers=options.servers,
            broker=options.broker,
            database=options.database,
            disk_bytes=disk_bytes,
            env=options.env,
        )
        copies: dict[int, list[Path]] = {}
        with self.cluster as cluster:
            try:
                cluster.start()
                buckets = self._make_buckets()
                steps = make_plan(
                    seed=options.seed,
                    seconds=options.storm_s,
                    servers=cluster.server_names,
                    links=cluster.links,
                    without=without,
                )
                self._write_plan(steps)
                with self._load(buckets) as loads:
                    self._storm(steps, loads)
                self._heal()
                self._verify(buckets)
                self._prove()
                copies = self._copies()
            except Exception:  # noqa: BLE001 - whatever it is, the run has failed, and its data are kept
                self._fail(traceback.format_exc())
            finally:
                self._stop()
            self._compare(copies)
            if self.failures:
                cluster.keep_disks()
        (self.directory / "summary.txt").write_text(self._summary())
        return Outcome(self.failures, self.remarks, self._summary())

    # -- before ------------------------------------------------------------------------------------------------------

    def _make_buckets(self) -> list[str]:
        api = self.cluster.api()
        names = []
        for number, copies in enumerate(self.options.buckets):
            settings = {"replication": copies} if copies > 1 else {}
            names.append(api.make_bucket(f"chaos-{number}-of-{copies}", **settings))
        return names

    def _write_plan(self, steps: Iterable[Step]) -> None:
        with (self.directory / "plan.jsonl").open("w") as file:
            for step in steps:
                file.write(json.dumps(step.to_json()) + "\n")

    @contextmanager
    def _load(self, buckets: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
        """The processes of clients; at the end they are asked to finish what they are at."""
        options, cluster = self.options, self.cluster
        direct = {cluster.links[f"clients>{name}"].port: cluster.ports[name] for name in cluster.server_names}
        loads = []
        for number in range(options.processes):
            log = self.directory / f"load-{number}.jsonl"
            log.touch()
            self._logs[log] = log.open()
            config = Config(
                name=f"w{number}", log=str(log), url=cluster.client_url, key=cluster.key, seed=options.seed,
                clients=options.clients, buckets=tuple(buckets), direct=direct, pause_s=options.pause_s,
            )  # fmt: skip
            path = self.directory / f"load-{number}.json"
            path.write_text(config.to_json())
            loads.append(
                start(
                    [sys.executable, "-m", "tests.support.chaos_load", str(path)],
                    log=self.directory / "logs" / f"load-{number}.log",
                    env=clean_environment(PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "sdk")))),
                )
            )
        try:
            yield loads
            for load in loads:
                load.send_signal(signal.SIGTERM)
            give_up_at = time.monotonic() + _LOAD_ENDS_S
            for load in loads:
                try:
                    code = load.wait(max(0.1, give_up_at - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._fail("clients hang: they did not end in time")
                else:
                    if code != 0:
                        self._fail(f"a process of clients ended with {code}: see logs/load-*.log")
            self._read_logs()
        finally:
            for load in loads:
                load.kill()
                load.wait()

    # -- the storm ---------------------------------------------------------------------------------------------------

    def _storm(self, steps: list[Step], loads: list[subprocess.Popen[str]]) -> None:
        options = self.options
        log = Log(self.directory / "faults.jsonl")
        waiting = list(steps)
        under_way: list[Future[None]] = []
        wait_until(partial(self._is_busy, loads), what="the clients to be at work")
        self._began = time.time()
        next_word_s = 10.0
        with ThreadPoolExecutor(16, thread_name_prefix="fault") as pool, self._until_given_up():
            while (passed_s := time.time() - self._began) < options.storm_s:
                while waiting and waiting[0].at_s <= passed_s:
                    under_way.append(pool.submit(self._play, waiting.pop(0), log))
                self._watch(loads)
                if passed_s >= next_word_s:
                    next_word_s += max(10.0, options.storm_s / 30)
                    self._progress(passed_s)
                self._pause(TICK_S)
        for future in under_way:
            future.result()
        self._ended = time.time()
        self._progress(options.storm_s)
        for kind, gaps in (("changes", self.judge.writes), ("reads", self.judge.reads)):
            if (count := gaps.count(self._began, self._ended)) < _LEAST_COUNT:
                self._fail(f"the storm proves nothing: only {count} {kind} succeeded in it")

    @contextmanager
    def _until_given_up(self) -> Iterator[None]:
        """After an error no pause lasts any longer: faults under way end, so that the error is told."""
        try:
            yield
        except BaseException:
            self._given_up.set()
            raise

    def _pause(self, seconds: float) -> None:
        """The storm's own schedule."""
        self._given_up.wait(seconds)

    def _is_busy(self, loads: list[subprocess.Popen[str]]) -> bool:
        self._watch(loads)
        return min(len(self.judge.writes.times), len(self.judge.reads.times)) >= _LEAST_COUNT

    def _play(self, step: Step, log: Log) -> None:
        """One fault from its beginning to its end."""
        with self._hit[step.name]:  # a clean stop may take longer than was planned
            if time.time() - self._began > self.options.storm_s:
                return
            log.write(do="begins", fault=str(step), kind=step.kind)
            try:
                undo = self._begin(step)
                self.faults[step.kind] += 1
                if undo is not None:
                    self._pause(step.lasts_s)
                    undo()
            except Exception as error:  # noqa: BLE001 - whatever it is, the run has failed
                self._fail(f"the fault itself went wrong: {step}: {type(error).__name__}: {error}")
            log.write(do="ends", fault=str(step), kind=step.kind)

    def _begin(self, step: Step) -> Callable[[], None] | None:
        """Make it happen; what undoes it, or None where there is nothing to undo."""
        cluster = self.cluster
        if step.target == chaos_plan.LINK:
            link = cluster.links[step.name]
            link.turn(weather_of(step))
            if step.what not in {"cut off", "stalled", "delayed", "throttled", "corrupted"}:
                return partial(link.turn, Weather())
            return partial(self._clear, step.name)
        if step.what == chaos_plan.DAMAGE:
            cluster.damage_broker()
            return None
        if step.what in {chaos_plan.COMPACT, chaos_plan.SCRUB}:
            self._ask_for_job(step)
            return None
        if step.what == chaos_plan.FILL:
            return cluster.fill(step.name, left_bytes=step.detail["left_bytes"])
        if step.what in {chaos_plan.DRAIN, chaos_plan.MAINTAIN}:
            return self._take_away(step)
        if step.what == chaos_plan.EMPTY:
            self.cluster.processes[step.name].kill()
            return partial(self._come_back_empty, step.name)
        processes = [cluster.processes[name] for name in _processes_of(step)]
        if step.what == chaos_plan.PAUSE:
            for process in processes:
                process.signal(signal.SIGSTOP)
            return partial(_each, processes, lambda process: process.signal(signal.SIGCONT))
        for process in processes:
            if step.what == chaos_plan.KILL:
                process.kill(family=step.detail["family"] or step.target != chaos_plan.SERVERS)
            elif (code := process.stop()) not in _CLEAN:
                self._fail(f"{process.name} was stopped and ended with {code}")
        return partial(self._start_again, processes)

    def _start_again(self, processes: Iterable[Process]) -> None:
        """Until they take connections, so that the next fault of the same kind meets them at work."""
        for process in processes:
            process.start()
            self.cluster.wait_for(process.name)

    def _come_back_empty(self, name: str) -> None:
        """A server that has been dead for a while has lost all its data, if that is no more than one loss too many."""
        with self._emptying:
            if self.cluster.is_spare(name):
                self.cluster.empty(name)
                self.emptied += 1
        self._start_again([self.cluster.processes[name]])

    def _clear(self, name: str) -> None:
        link = self.cluster.links[name]
        link.turn(Weather())
        link.reset()

    def _ask_for_job(self, step: Step) -> None:
        """A compaction or a scrub of some volume. The store may be in no state to do it."""
        verb = {chaos_plan.COMPACT: "compact", chaos_plan.SCRUB: "scrub"}[step.what]
        with suppress(OSError, HTTPException, AssertionError):
            api = self.cluster.api()
            volumes = self._volumes()
            number = volumes[int(step.detail["draw"] * len(volumes))]["id"]
            api.request("POST", f"volumes/{number}/{verb}", {})

    def _take_away(self, step: Step) -> Callable[[], None]:
        """The operator wants a server drained or left alone, and changes his mind later."""
        wanted = {chaos_plan.DRAIN: "draining", chaos_plan.MAINTAIN: "maintenance"}[step.what]
        self.cluster.set_admin_state(step.name, wanted)
        return partial(self.cluster.set_admin_state, step.name, "active")

    def _watch(self, loads: list[subprocess.Popen[str]]) -> None:
        self._read_logs()
        for load in loads:
            if (code := load.poll()) is not None:
                raise AssertionError(f"a process of clients ended with {code}: see logs/load-*.log")
        for process, code in self.cluster.unwanted_ends():
            text = f"{process.name} ended by itself with {code} ({time.strftime('%H:%M:%S', time.gmtime())})"
            if process.name in {"worker", "beat"}:
                self._remark(text)
            else:
                self._fail(text)
            process.start()

    def _read_logs(self) -> None:
        """Hands new whole lines of the clients' logs to the judge."""
        for path, file in self._logs.items():
            text = self._rests.get(path, "") + file.read()
            *lines, self._rests[path] = text.split("\n")
            for line in lines:
                self.judge.take(json.loads(line))
        for contradiction in self.judge.contradictions[self._judged :]:
            self._fail(contradiction)
        self._judged = len(self.judge.contradictions)

    def _progress(self, passed_s: float) -> None:
        counts = Counter[str]()
        for (_, outcome), count in self.judge.counts.items():
            counts[outcome] += count
        self.say(
            f"{passed_s:5.0f} s: {counts[DONE]} changes done, {counts[UNKNOWN]} in doubt, {counts[NOTHING]} refused; "
            f"{counts['seen']} reads, {counts['failed']} failed; {self.faults.total()} faults; "
            f"{len(self.failures)} failures"
        )

    # -- after -------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """Fair weather: all must be whole again in a bounded time."""
        self.cluster.proxy.clear()
        since = time.monotonic()
        ill = look_until(self._ills_of_now, operator.not_, patience_s=self.options.heal_s, poll_s=TICK_S)
        self.healed_s = time.monotonic() - since
        if ill:
            self._fail(f"not healed {self.healed_s:.0f} s after the storm: " + "; ".join(ill[:20]))
        else:
            self.say(f"healed {self.healed_s:.1f} s after the storm")

    def _ills_of_now(self) -> list[str]:
        """As `_ills`; who does not answer is ill, and who died is started again."""
        for process, code in self.cluster.unwanted_ends():
            self._remark(f"{process.name} ended by itself with {code} after the storm")
            process.start()
        try:
            return self._ills()
        except (OSError, HTTPException, AssertionError) as error:
            return [f"the master does not answer: {error}"]

    def _ills(self) -> list[str]:
        """What is not as it should be; empty when all is whole."""
        ill = [
            f"{name} is {row['status']}" for name, row in self.cluster.servers().items() if row["status"] != "online"
        ]
        for volume in self._volumes():
            if self._is_lost(volume):
                continue
            copies, wanted = len(volume["replicas"]), volume.get("replication", 1)
            is_whole = volume.get("redundancy", "whole") == "whole"
            if not is_whole or copies < wanted:
                ill.append(f"volume {volume['id']} is not whole: {copies} of {wanted} copies, {volume}")
        return ill

    def _is_lost(self, volume: dict[str, Any]) -> bool:
        """Of single copies, on a server that was emptied. No object was in it: all have copies."""
        holders = {replica["server"] for replica in volume["replicas"]}
        return bool(volume["replication"] == 1 and holders <= self.cluster.lost_ids)

    def _verify(self, buckets: list[str]) -> None:
        """Every key that was ever written, through the API: lists, sizes, bytes of every copy, kept counts."""
        self.judge.settle()
        self._read_logs()
        api = self.cluster.api()
        for bucket, copies in zip(buckets, self.options.buckets, strict=True):
            listed = _list_all(api, bucket)
            for contradiction in self.judge.ledger.listed(f"{bucket}:", listed):
                self._fail(f"the last list: {contradiction}")
            told = api.get(f"buckets/{bucket}")
            kept, there = (told["object_count"], told["total_bytes"]), (len(listed), sum(listed.values()))
            if kept != there:
                self._fail(f"{bucket} counts {kept} objects and bytes; there are {there}")
            keys = sorted(key for key in self.judge.ledger.ever if key.startswith(f"{bucket}:"))
            for begin in range(0, len(keys), _LOOK_UP_KEYS):
                self._verify_bytes(api, bucket, copies, keys[begin : begin + _LOOK_UP_KEYS])
        self._judged = len(self.judge.contradictions)
        for key in list(self.judge.ledger.doubts):
            values = self.judge.ledger.may_be(key)
            if len(set(values)) > 1:
                self._fail(f"{key} is still in doubt: {values}")

    def _verify_bytes(self, api: Api, bucket: str, copies: int, keys: list[str]) -> None:
        found = api.look_up(bucket, *(key.partition(":")[2] for key in keys))
        for key in keys:
            one = found.get(key.partition(":")[2])
            if one is None:
                self._judge(key, None)
                continue
            for copy in range(copies):
                try:
                    body = b"".join(_read_copy(chunk, copy, copies) for chunk in one["chunks"])
                except (AssertionError, OSError, HTTPException) as error:
                    self._fail(f"LOST: copy {copy} of {key} cannot be read after the storm: {error}")
                else:
                    self._judge(key, body)

    def _judge(self, key: str, body: bytes | None) -> None:
        line: dict[str, Any] = {"do": "saw", "op": "last look", "t": time.time(), "key": key, "value": None}
        if body is not None:
            line |= _identified(body)
        before = len(self.judge.contradictions)
        self.judge.take(line)
        for contradiction in self.judge.contradictions[before:]:
            self._fail(contradiction)

    def _prove(self) -> None:
        """`manage.py fsck` comes to be clean, once the needles of puts that were cut off half-way are swept."""
        since = time.monotonic()
        prove_s = self.options.prove_s
        checked = look_until(
            self._sweep_and_check, lambda done: self._is_sound(done.stdout), patience_s=prove_s, poll_s=_PROOF_PAUSE_S
        )
        if not self._is_sound(checked.stdout):
            told = checked.stdout[-3000:] + checked.stderr[-1000:]
            self._fail(f"fsck is not clean after {prove_s:.0f} s:\n{told}")
        self.proven_s = time.monotonic() - since
        self.say(f"fsck was done {self.proven_s:.1f} s later")

    def _is_sound(self, proof: str) -> bool:
        """Whether a check found nothing wrong, but that servers which were emptied cannot be asked."""
        lost = {volume["id"] for volume in self._volumes() if self._is_lost(volume)}
        try:
            told = json.loads(proof)
        except ValueError:
            return False
        self.say(f"fsck: {told['verdict']}")
        wrong = {name for name in ("missing", "orphaned", "divergent", "miscounted") if told[name]}
        return not wrong and {one["volume"] for one in told["findings"]} <= lost

    def _sweep_and_check(self) -> subprocess.CompletedProcess[str]:
        self.cluster.manage("sweep", "--delete")
        return self.cluster.manage("fsck", "--json")

    def _copies(self) -> dict[int, list[Path]]:
        """The files of each volume, one at each of its servers."""
        names = {row["id"]: name for name, row in self.cluster.servers().items()}
        files: dict[int, list[Path]] = {}
        for volume in self._volumes():
            if self._is_lost(volume):
                continue
            number, holders = volume["id"], [replica["server"] for replica in volume["replicas"]]
            files[number] = [self.cluster.server_data(names[holder]) / f"{number:010}.vol" for holder in holders]
            if len(holders) > (wanted := volume.get("replication", 1)):
                self._remark(f"volume {number} has {len(holders)} copies, though {wanted} are wanted")
        return files

    def _compare(self, copies: Mapping[int, list[Path]]) -> None:
        """All copies of a volume are the same, byte for byte. All processes have ended."""
        for volume, (first, *others) in copies.items():
            for other in others:
                try:
                    same = filecmp.cmp(first, other, shallow=False)
                except OSError as error:
                    self._fail(f"a copy of volume {volume} is not there: {error}")
                else:
                    if not same:
                        self._fail(f"DIVERGENT: {first} and {other} are not the same")

    def _volumes(self) -> list[dict[str, Any]]:
        """All volumes as the API shows them."""
        api = self.cluster.api()
        volumes: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = api.get(f"volumes?limit=1000&after={after}")
            volumes += page["results"]
            after = page["next_after"]
        return volumes

    def _stop(self) -> None:
        """A clean stop of everything, the broker last."""
        for process in list(self.cluster.processes.values()):
            process.signal(signal.SIGCONT)
        order = ["worker", "beat", *self.cluster.server_names, "master", "broker", "database"]
        for name in order:
            if name not in self.cluster.processes:
                continue
            try:
                code = self.cluster.processes[name].stop()
            except AssertionError as error:
                self._fail(str(error))
            else:
                if code not in _CLEAN:
                    self._fail(f"{name} ended its last stop with {code}")
        for log in sorted((self.directory / "logs").glob("*.log")):
            for raised, count in Counter(_ERROR.findall(log.read_text(errors="replace"))).most_common():
                self._remark(f"logs/{log.name} has {count} times a traceback of {raised[:200]}")

    # -- words -------------------------------------------------------------------------------------------------------

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        if len(self.failures) <= 20:
            self.say(f"FAILURE: {text}")
        with (self.directory / "failures.txt").open("a") as file:
            file.write(f"{time.time():.3f} {text}\n")

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.say(f"note: {text}")

    def _summary(self) -> str:
        judge = self.judge
        lines = [f"{'operation':<16}{'done':>8}{'in doubt':>10}{'refused':>9}{'seen':>9}{'failed':>8}"]
        columns = (DONE, UNKNOWN, NOTHING, "seen", "failed")
        for name in sorted({name for name, _ in judge.counts}):
            cells = [judge.counts[name, column] or "" for column in columns]
            lines.append(f"{name:<16}{cells[0]:>8}{cells[1]:>10}{cells[2]:>9}{cells[3]:>9}{cells[4]:>8}")
        lines.append("\nwhat was not done, and why")
        for (name, why), count in judge.reasons.most_common(25):
            lines.append(f"{count:>8}  {name}: {why}")
        lines.append("\nfaults")
        lines += [f"{count:>8}  {kind}" for kind, count in sorted(self.faults.items())]
        if self.emptied:
            lines.append(f"{self.emptied:>8}  of these servers lost their data")
        begin, end = self._began, self._ended
        if end:
            lines.append(f"\nlongest time without any read:  {judge.reads.longest_s(begin, end):6.1f} s")
            lines.append(f"longest time without any write: {judge.writes.longest_s(begin, end):6.1f} s")
            lines.append(f"healed after {self.healed_s:.1f} s")
        if self.proven_s is not None:
            lines.append(f"fsck clean {self.proven_s:.1f} s later")
        return "\n".join(lines)


def _processes_of(step: Step) -> list[str]:
    if step.target == chaos_plan.WORKER:
        return ["worker", "beat"]
    return [step.name]


def _each(processes: Iterable[Process], act: Callable[[Process], None]) -> None:
    for process in processes:
        act(process)


def _list_all(api: Api, bucket: str) -> dict[str, int]:
    """Size of every object by `bucket:key`."""
    sizes: dict[str, int] = {}
    after = ""
    while True:
        page = api.get(f"buckets/{bucket}/objects?limit=1000&after={quote(after, safe='')}")
        sizes |= {f"{bucket}:{one['key']}": one["size"] for one in page["results"]}
        after = page["next_after"]
        if not after:
            return sizes


def _read_copy(chunk: dict[str, Any], copy: int, copies: int) -> bytes:
    """One copy of a chunk, checked. AssertionError when there are fewer."""
    servers = {urlsplit(url).netloc for url in chunk["urls"]}
    assert len(servers) >= copies, f"{len(servers)} copies instead of {copies}"
    return read_chunk({**chunk, "urls": chunk["urls"][copy : copy + 1]})


def _identified(body: bytes) -> dict[str, Any]:
    try:
        return {"value": str(identify(body))}
    except Mixed as error:
        return {"mixed": str(error)}


def run(options: Options, directory: Path, say: Callable[[str], None]) -> Outcome:
    """One run below ``directory``, which is removed when all held."""
    outcome = Run(options, directory, say).run()
    if not outcome.failures:
        shutil.rmtree(directory)
    return outcome


def draw_seed() -> int:
    return random.randrange(1_000_000_000)
