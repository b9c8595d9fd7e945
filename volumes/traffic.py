"""What servers have served, added up over all lives of their processes: counters that only grow.

A process counts from its start, so its counters fall when it is started again. A server's row keeps the sum of all
lives and what the present one told last; the difference to what it tells next is what is added:

    {"instance": "…", "told": {"requests": 12, …}, "total": {"requests": 4711, …}}
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from volumes.models import ForgottenServer, Server
from volumes.reports import MAX_BYTES, Traffic

NOTHING: Final = Traffic(requests=0, puts=0, received_bytes=0, sent_bytes=0)


def add_traffic(kept: Mapping[str, Any], *, instance: str, told: Traffic) -> dict[str, Any]:
    """What is to be kept of a server after its process has told its counters. One that comes late adds nothing."""
    before = kept["told"] if kept.get("instance") == instance else asdict(NOTHING)
    total = kept.get("total", asdict(NOTHING))
    now = {name: max(value, before[name]) for name, value in asdict(told).items()}
    grown = {name: min(MAX_BYTES, total[name] + now[name] - before[name]) for name in now}
    return {"instance": instance, "told": now, "total": grown}


def total_traffic(servers: Iterable[Server | ForgottenServer]) -> Traffic:
    """What all of them have served together."""
    sums = asdict(NOTHING)
    for server in servers:
        for name, value in server.traffic.get("total", {}).items():
            sums[name] = min(MAX_BYTES, sums[name] + value)
    return Traffic(**sums)
