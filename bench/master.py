"""The master's figures (`make bench-master`), on SQLite and on PostgreSQL, among ten thousand and a million objects.

Two stores run side by side, each started by `manage.py up` with one volume server: one with few objects, one with many
(`bench.crowd`). Each round asks both for everything, in turn. Reads and leases come by wrk over a few connections;
confirms as a volume server's lane sends them, one after the other over one connection. PostgreSQL is a throw-away
server that syncs what it commits; SQLite is as the product sets it up, `synchronous=FULL`.
"""

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlsplit

from bench import wrk
from bench.crowd import GROUPS, key_of
from bench.table import Effort, Figure
from tests.support.api import Api
from tests.support.postgres import Postgres
from tests.support.programs import ROOT
from tests.support.store import Store
from volume_server.answers import AnswerReader
from volume_server.clock import Clock
from volume_server.lane import CONFIRM_DEADLINE_MS, ConfirmLane
from volume_server.master import Credentials
from volume_server.store import Identity

BUCKET = "bench"
FEW = 10_000
BATCH = 200
"""Needles of a confirm, and keys of a call for downloads."""
BATCHES = 30
SINGLES = 300
"""Confirms of one needle in a round."""
LEASE_COUNT = 4000
"""Needles of a lease: twenty batches."""
PAGE = 1000
CONNECTIONS = 4
KEYS_A_DELETE = 1000
READ_BYTES = 1 << 18

MOST_A_SECOND = {"quick": 8000, "slow": 800}
"""Requests that wrk is given for each second; the file must not end before the time does."""


class Crowd:
    """A running store with ``count`` objects, and what it is asked for. All rates are per second."""

    def __init__(self, store: Store, count: int, effort: Effort) -> None:
        self.store = store
        self.count = count
        self.effort = effort
        self.api = Api(store.url, store.key)
        self.draw = random.Random(count)
        self.files: dict[str, Path] = {}
        self.made = 0
        [server] = store.servers
        kid, secret, server_id = server.identity()
        credentials = Credentials(Identity(server=server_id, secrets={str(kid): secret.hex()}, kid=kid), Clock())
        self.lane = ConfirmLane(store.url, credentials, asyncio.new_event_loop())
        self.lane.loop.close()  # it only spells requests here

    @property
    def name(self) -> str:
        return f"{self.count:,} objects"

    def fill(self) -> None:
        self.api.make_bucket(BUCKET)
        env = {**self.store.env, "WAREHOUSE_DATA": str(self.store.data)}
        subprocess.run([sys.executable, "-m", "bench.crowd", BUCKET, str(self.count)], env=env, cwd=ROOT, check=True)

    # -- confirms ------------------------------------------------------------------------------------------------------

    def confirm(self, *, size: int, confirms: int, anywhere: bool = False) -> float:
        """Objects a second; afterwards they are deleted again.

        The new keys go on where those of each group end, or they are ``anywhere`` between the others.
        """
        keys = [self._new_key(anywhere=anywhere) for _ in range(size * confirms)]
        requests = self._confirms(keys, size)
        reader, answers = AnswerReader(), []
        with socket.create_connection(("127.0.0.1", self.store.port)) as lane:
            began = time.perf_counter()
            for request in requests:
                lane.sendall(request)
                while (answer := reader.feed(lane.recv(READ_BYTES))) is None:
                    pass
                answers.append(answer)
            took_s = time.perf_counter() - began
        for status, body in answers:
            if status != 200 or body.count(b'"committed"') != size:
                raise RuntimeError(f"a confirm of {size}: {status} {body[:300]!r}")
        for at in range(0, len(keys), KEYS_A_DELETE):
            self.api.post(f"buckets/{BUCKET}/delete", {"keys": keys[at : at + KEYS_A_DELETE]}, status=200)
        return len(keys) / took_s

    def _new_key(self, *, anywhere: bool) -> str:
        self.made += 1
        if anywhere:
            return f"{key_of(self.draw.randrange(self.count))}.{self.made}"
        return key_of(self.count + self.made)

    def _confirms(self, keys: list[str], size: int) -> list[bytes]:
        requests: list[bytes] = []
        for first in range(0, len(keys), LEASE_COUNT):
            lease = self.api.lease(BUCKET, count=LEASE_COUNT, max_bytes=1 << 20)
            intent = dict(pair.split("=", 1) for pair in urlsplit(lease.url).query.split("&"))["intent"]
            now_ms = int(time.time() * 1000)
            rows = [
                (0, f"{lease.first + slot:016x}", 1024, slot, key, "image/jpeg", None, None, False, now_ms)
                for slot, key in enumerate(keys[first : first + LEASE_COUNT])
            ]
            for at in range(0, len(rows), size):
                body = {
                    "deadline_ms": now_ms + 6 * CONFIRM_DEADLINE_MS,
                    "intents": [intent],
                    "needles": rows[at : at + size],
                }
                requests.append(self.lane.request(json.dumps(body).encode()))
        return requests

    # -- what clients ask ----------------------------------------------------------------------------------------------

    def downloads(self, *, keys: int) -> float:
        """Keys a second, ``keys`` of them a call, from anywhere in the bucket."""

        def call() -> tuple[str, str, object]:
            numbers = self.draw.sample(range(self.count), keys)
            return "POST", f"buckets/{BUCKET}/downloads", {"keys": [key_of(number) for number in numbers]}

        return keys * self._drive(f"downloads-{keys}", call, speed="quick" if keys == 1 else "slow")

    def list_by_key(self) -> float:
        """Whole pages a second, that begin anywhere."""
        in_a_group = self.count // GROUPS

        def call() -> tuple[str, str, object]:
            group, number = divmod(self.draw.randrange(max(self.count - PAGE, 1)), in_a_group)
            after = key_of(number * GROUPS + group)
            return "GET", f"buckets/{BUCKET}/objects?limit={PAGE}&after={quote(after, safe='')}", None

        return self._drive("list", call, speed="slow")

    def list_groups(self) -> float:
        path = f"buckets/{BUCKET}/objects?delimiter=/&limit={PAGE}"
        return self._drive("groups", lambda: ("GET", path, None), speed="quick")

    def list_newest(self) -> float:
        """Pages a second, that of the newest objects and the one behind it."""
        path = f"buckets/{BUCKET}/objects?order=newest&limit={PAGE}"
        behind = self.api.get(path)["next_after"]
        paths = [path, f"{path}&after={behind}"]
        return self._drive("newest", lambda: ("GET", self.draw.choice(paths), None), speed="slow")

    def lease(self) -> float:
        return self._drive("lease", lambda: ("POST", f"buckets/{BUCKET}/leases", LEASE_BODY), speed="quick")

    def empty(self) -> float:
        """Views that do nothing, asked in the same words."""
        return self._drive("empty", lambda: ("POST", "bench/empty", LEASE_BODY), speed="quick")

    def unguarded(self) -> float:
        return self._drive("open", lambda: ("POST", "bench/open", LEASE_BODY), speed="quick")

    def _drive(self, name: str, call: Callable[[], tuple[str, str, object]], *, speed: str) -> float:
        """Requests a second; the same ones in each round."""
        if name not in self.files:
            path = self.files[name] = self.store.directory / name
            with path.open("wb") as out:
                for _ in range(MOST_A_SECOND[speed] * self.effort.seconds):
                    request = self._request(*call())
                    out.write(b"%d\n%s" % (len(request), request))
        load = wrk.drive(self.store.url, "raw", self.files[name], connections=CONNECTIONS, seconds=self.effort.seconds)
        return load.per_second

    def _request(self, method: str, path: str, body: object) -> bytes:
        raw = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} /api/v1/{path} HTTP/1.1",
            f"Host: {urlsplit(self.store.url).netloc}",
            f"Authorization: Bearer {self.api.access}",
            "Accept: application/json",
        ]
        if raw:
            lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


LEASE_BODY = {"count": 1000, "max_bytes": 1 << 16}

ASKED: dict[str, Callable[[Crowd], float]] = {
    "confirm": partial(Crowd.confirm, size=1, confirms=SINGLES),
    "confirm batch": partial(Crowd.confirm, size=BATCH, confirms=BATCHES),
    "confirm anywhere": partial(Crowd.confirm, size=BATCH, confirms=BATCHES, anywhere=True),
    "download": partial(Crowd.downloads, keys=1),
    "download batch": partial(Crowd.downloads, keys=BATCH),
    "list": Crowd.list_by_key,
    "groups": Crowd.list_groups,
    "newest": Crowd.list_newest,
    "lease": Crowd.lease,
    "empty": Crowd.empty,
    "open": Crowd.unguarded,
}


def on_sqlite(directory: Path, effort: Effort) -> list[Figure]:
    return _measure(directory, effort, {}, {})


def on_postgresql(directory: Path, effort: Effort) -> list[Figure]:
    """RuntimeError where PostgreSQL is not installed."""
    if not Postgres.is_installed():
        raise RuntimeError("PostgreSQL is not installed (apt-get install postgresql)")
    with Postgres(fsync=True) as server:
        few, many = (server.new_database(name) for name in ("few", "many"))
        return _measure(directory, effort, {"DATABASE_URL": few}, {"DATABASE_URL": many})


def _measure(directory: Path, effort: Effort, few_env: dict[str, str], many_env: dict[str, str]) -> list[Figure]:
    with (
        _crowd(directory / "few", few_env, min(FEW, effort.objects), effort) as few,
        _crowd(directory / "many", many_env, effort.objects, effort) as many,
    ):
        rates: dict[tuple[str, Crowd], list[float]] = defaultdict(list)
        for _ in range(effort.rounds):
            for name, ask in ASKED.items():
                for crowd in (few, many):
                    rates[name, crowd].append(ask(crowd))
        return _figures(few, many, lambda name, crowd: median(rates[name, crowd]))


@contextlib.contextmanager
def _crowd(directory: Path, env: dict[str, str], count: int, effort: Effort) -> Iterator[Crowd]:
    # A token for the whole run; the product's own last five minutes.
    settings = {"DJANGO_SETTINGS_MODULE": "bench.master_settings", "WAREHOUSE_ACCESS_SECONDS": "3600"}
    with Store(directory, env=settings | env, volume_servers=1, worker=False) as store:
        crowd = Crowd(store, count, effort)
        crowd.fill()
        yield crowd


def _figures(few: Crowd, many: Crowd, rate: Callable[[str, Crowd], float]) -> list[Figure]:
    made: list[Figure] = []
    for crowd in (few, many):
        made.append(
            Figure(
                f"confirm in batches of {BATCH}, {crowd.name}",
                "confirms of one object",
                *(rate("confirm batch", crowd), rate("confirm", crowd)),
                "objects/s",
                least=20,
            )
        )
    what = f"an object confirmed in a batch of {BATCH}"
    made += [
        _growth(what, "confirm batch", "µs", few, many, rate),
        _growth(f"{what}, keys anywhere between the others", "confirm anywhere", "µs", few, many, rate, most=None),
    ]
    for crowd in (few, many):
        made.append(
            Figure(
                f"downloads, {BATCH} keys a call, {crowd.name}",
                "calls for one key",
                *(rate("download batch", crowd), rate("download", crowd)),
                "keys/s",
                least=15,
            )
        )
    made += [
        _growth(f"a page of {PAGE:,} anywhere in the bucket", "list", "ms", few, many, rate),
        _growth("the page of 100 prefixes by a delimiter", "groups", "ms", few, many, rate),
        _growth(f"a page of the {PAGE:,} newest, or the next", "newest", "ms", few, many, rate),
    ]
    for crowd in (few, many):
        cost = {name: 1e3 / rate(name, crowd) for name in ("lease", "empty", "open")}
        what = f"a lease, {crowd.name}"
        made += [
            Figure(what, "an empty DRF view", cost["lease"], cost["empty"], "ms", most=2),
            Figure(what, "an empty DRF view without a sign-in", cost["lease"], cost["open"], "ms"),
        ]
    return made


def _growth(
    what: str,
    name: str,
    unit: str,
    few: Crowd,
    many: Crowd,
    rate: Callable[[str, Crowd], float],
    *,
    most: float | None = 1.5,
) -> Figure:
    """What one costs among many objects, against what it costs among few."""
    per_second = {"ms": 1e3, "µs": 1e6}[unit]
    cost, reference = (per_second / rate(name, crowd) for crowd in (many, few))
    return Figure(f"{what}, {many.name}", few.name, cost, reference, unit, most=most)
