"""The load generator: wrk, which costs the machine little beside what it measures."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("requests.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    per_second: float
    p50_ms: float
    p99_ms: float


def drive(url: str, kind: str, requests_file: Path, *, connections: int, seconds: int, pause_ms: int = 0) -> Load:
    """Sends what `requests_file` holds (see requests.lua), each connection with a pause before each request.

    RuntimeError when any answer was not a 2xx or 3xx, or when the file ended before the time did.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed (apt-get install wrk)")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT), url, "--",
               kind, str(requests_file), str(pause_ms)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    wrong = ("connect", "read", "write", "status", "timeout", "exhausted")
    broken = {name: told[name] for name in wrong if told[name]}
    if broken:
        raise RuntimeError(f"{kind} at {connections} connections: {broken} in {told['requests']} requests")
    return Load(
        per_second=told["requests"] / (told["duration_us"] / 1e6),
        p50_ms=told["p50_us"] / 1e3,
        p99_ms=told["p99_us"] / 1e3,
    )


def lease_line(url: str, first: str, count: int) -> str:
    """A line of the `put` kind for a lease's path with the literal `{needle}`."""
    before, after = url.split("{needle}")
    number, slot = first[:-4], int(first[-4:], 16)
    if slot:
        raise ValueError("a lease that does not begin at slot 0")
    return f"{before}\t{number}\t{count}\t{after}"
