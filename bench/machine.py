"""What this machine can do without us: the references of the figures."""

import mmap
import os
import platform
import subprocess
import time
from pathlib import Path

BLOCK = 4096


def describe() -> str:
    """One line about the machine, for the record."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {memory_gib:.0f} GiB, {system}"


def serial_fdatasyncs_per_second(directory: Path, *, seconds: float) -> float:
    """Appends of 4 KiB to one file, an fdatasync after each, one after the other."""
    block = os.urandom(BLOCK)
    path = directory / "fdatasync"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    try:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            os.write(fd, block)
            os.fdatasync(fd)
            count += 1
        return count / (time.perf_counter() - started)
    finally:
        os.close(fd)
        path.unlink()


def dd_bytes_per_second(source: Path, target: Path) -> float:
    """`dd conv=fdatasync` of a file that is in the page cache."""
    return _timed(["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fdatasync", "status=none"], source, target)


def cp_bytes_per_second(source: Path, target: Path) -> float:
    """`cp` of a file that is in the page cache, without sharing of blocks."""
    return _timed(["cp", "--reflink=never", str(source), str(target)], source, target)


def level(size_bytes: int) -> None:
    """Give whoever is measured next the same start: a disk that owes nobody a write, and free memory in hand.

    A virtual machine may hand free memory back to its host, and each page that it then takes again costs ten times as
    much: who comes right after somebody that freed some would have an advantage.
    """
    os.sync()
    piece = b"\1" * (1 << 20)
    with mmap.mmap(-1, size_bytes) as memory:
        for at in range(0, size_bytes, len(piece)):
            memory[at : at + len(piece)] = piece[: size_bytes - at]


def synced_cp_bytes_per_second(source: Path, target: Path) -> float:
    """`cp` as above, and the fdatasync of what it wrote."""
    started = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", str(source), str(target)], check=True)
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
    took = time.perf_counter() - started
    target.unlink()
    return source.stat().st_size / took


def _timed(command: list[str], source: Path, target: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    took = time.perf_counter() - started
    size = source.stat().st_size
    target.unlink()
    return size / took
