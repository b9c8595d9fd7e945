"""Many cores: two volume servers of one node, each with its own directory and port, against one alone.

wrk needs as much of a core as a server does, so that two servers at full speed and two wrks do not fit a machine of two
cores. What such a machine can show is that two servers share nothing that would slow them: under a load that leaves
both cores room, each of them keeps its rate beside the other, and a request costs no more of a core.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from bench import wrk
from bench.programs import UncommittedServer
from bench.table import Effort, Figure
from bench.volumes import make_volume, needle_ids

NEEDLES = 10_000
NEEDLE_BYTES = 1024
CONNECTIONS = 16
PAUSE_MS = 4
"""Between a connection's requests: some 3,500 a second at 16 connections."""

Drive = Callable[[UncommittedServer], float]


def two_of_one_node(directory: Path, effort: Effort) -> list[Figure]:
    """Aggregate rates and CPU time a request of two servers at the same time, against one of them alone."""
    homes = [directory / name for name in ("one", "two")]
    content = bytes(NEEDLE_BYTES)
    for home in homes:
        make_volume(home / "data", ((needle, content) for needle in needle_ids(NEEDLES)))
    with UncommittedServer(homes[0]) as one, UncommittedServer(homes[1]) as two:
        for server in (one, two):
            paths = (server.signed_get(needle) for needle in needle_ids(NEEDLES))
            (server.directory / "paths").write_text("".join(path + "\n" for path in paths))
        leases = {one: one.lease_lines(200), two: two.lease_lines(200)}

        def get(server: UncommittedServer) -> float:
            return _paused(server, "get", server.directory / "paths", effort)

        def put(server: UncommittedServer) -> float:
            lines, leases[server] = leases[server][:20], leases[server][20:]
            path = server.directory / "leases"
            path.write_text("".join(line + "\n" for line in lines))
            return _paused(server, "put", path, effort)

        return [*_figures("GETs", get, one, two, effort), *_figures("durable PUTs", put, one, two, effort)]


def _paused(server: UncommittedServer, kind: str, path: Path, effort: Effort) -> float:
    load = wrk.drive(
        server.url, kind, path, connections=CONNECTIONS, seconds=effort.seconds, pause_ms=PAUSE_MS
    )  # fmt: skip
    return load.per_second


def _figures(what: str, drive: Drive, one: UncommittedServer, two: UncommittedServer, effort: Effort) -> list[Figure]:
    alone, together = [], []
    for _ in range(effort.rounds):
        alone.append(_measured(drive, [one], effort))
        together.append(_measured(drive, [one, two], effort))
    rate_alone, rate_together = median(rate for rate, _ in alone), median(rate for rate, _ in together)
    cost_alone, cost_together = median(cost for _, cost in alone), median(cost for _, cost in together)
    against = "one of them alone under half of the load"
    return [
        Figure(
            f"signed {what} of two servers of one node", against, rate_together, rate_alone, "requests/s", least=1.8
        ),
        Figure(f"...CPU time for each of these {what}", against, cost_together, cost_alone, "µs", most=1.25),
    ]


def _measured(drive: Drive, servers: list[UncommittedServer], effort: Effort) -> tuple[float, float]:
    """Requests a second of all, and microseconds of CPU time that the servers spent on each."""
    before_s = sum(server.cpu_seconds() for server in servers)
    with ThreadPoolExecutor(len(servers)) as threads:
        rate = sum(threads.map(drive, servers))
    spent_s = sum(server.cpu_seconds() for server in servers) - before_s
    return rate, 1e6 * spent_s / (rate * effort.seconds)
