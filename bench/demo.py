"""Put a real tree of files and one large file into a store, get all of it back, and compare every byte.

    python bench/demo.py [--size 1GiB] [--tree DIR]

Uses the store of WAREHOUSE_URL and WAREHOUSE_KEY; without these the one that answers on this machine's port 8000, with
the key from the data directory; without that it starts one of its own in a temporary directory.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from warehouse import Client, WarehouseError

ROOT = Path(__file__).resolve().parent.parent
LARGE_KEY = "large/made.bin"
TREE_PREFIX = "tree/"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

console = Console(soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Store:
    url: str
    key: str
    origin: str


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


def main() -> int:
    options = parse_options()
    console.print("[bold]Warehouse demo[/]")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="warehouse-demo-", dir=options.tmp) as directory,
            a_store(Path(directory)) as store,
        ):
            console.print(f"Store: {store.url} ({store.origin})")
            run(store, Path(directory), tree=options.tree, large_bytes=options.size)
    except (DemoFailed, WarehouseError, OSError) as error:
        console.print(f"[bold red]FAILED[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    return 0


def run(store: Store, directory: Path, *, tree: Path, large_bytes: int) -> None:
    files = {TREE_PREFIX + path.relative_to(tree).as_posix(): path for path in files_of(tree)}
    if not files:
        raise DemoFailed(f"there are no files in {tree}")
    sizes = {key: path.stat().st_size for key, path in files.items()}
    large, back = directory / "large", directory / "back"
    console.print(
        f"Files: {len(files):,} of {tree} ({human(sum(sizes.values()))}) and one made of {human(large_bytes)}"
    )
    with phase("make the large file", 1, large_bytes) as advance:
        make_file(large, large_bytes, advance)
    with phase("SHA-256 of all", len(files) + 1, sum(sizes.values()) + large_bytes) as advance:
        wanted = digests({**files, LARGE_KEY: large}, advance)
    bucket = f"demo-{os.urandom(4).hex()}"
    with Client(store.url, store.key) as client:
        client.create_bucket(bucket)
        try:
            with phase(f"put {len(files):,} files", len(files), sum(sizes.values())) as advance:
                exhaust(client.put_many(bucket, files.items(), progress=advance))
            with phase("put the large file", 1, large_bytes) as advance:
                client.put(bucket, LARGE_KEY, large, progress=advance)
            listed = {info.key: info.size for info in client.list(bucket)}
            if listed != {**sizes, LARGE_KEY: large_bytes}:
                raise DemoFailed(f"the store lists {len(listed):,} objects, or other sizes than were put")
            targets = {key: back / key for key in listed}
            for parent in {path.parent for path in targets.values()}:
                parent.mkdir(parents=True, exist_ok=True)
            small = [(key, path) for key, path in targets.items() if key != LARGE_KEY]
            with phase(f"get {len(files):,} files", len(files), sum(sizes.values())) as advance:
                exhaust(client.download_many(bucket, small, progress=advance))
            with phase("get the large file", 1, large_bytes) as advance:
                client.download(bucket, LARGE_KEY, targets[LARGE_KEY], progress=advance)
            with phase("SHA-256 of what came back", len(files) + 1, sum(sizes.values()) + large_bytes) as advance:
                got = digests(targets, advance)
        finally:
            with phase("clean up", len(files) + 1, 0):
                for batch in batches(client, bucket):
                    client.delete_many(bucket, batch)
                client.delete_bucket(bucket)
    differing = sorted(key for key in wanted if got.get(key) != wanted[key])
    if differing:
        raise DemoFailed(f"{len(differing):,} of {len(wanted):,} differ: {', '.join(differing[:5])}")
    console.print(
        f"[bold green]OK[/] all {len(files):,} files and the {human(large_bytes)} file are byte-equal", highlight=False
    )


@contextlib.contextmanager
def phase(title: str, objects: int, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A progress bar while it goes on, one line of figures when it is over."""
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total_bytes or None)
        yield lambda size: progress.advance(task, size)
    seconds = max(time.perf_counter() - started, 1e-9)
    objects_text = f"{objects / seconds:>9,.0f} objects/s" if objects > 1 else " " * 19
    bytes_text = f"{total_bytes / seconds / 1e6:>9,.1f} MB/s" if total_bytes else ""
    console.print(f"  {title:<26} {seconds:>7.2f} s {objects_text} {bytes_text}".rstrip(), highlight=False)


def files_of(tree: Path) -> Iterator[Path]:
    """Regular files of a tree, without what Python compiles beside them."""
    for root, folders, names in os.walk(tree):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", "dist-packages"})
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def make_file(path: Path, size: int, advance: Callable[[int], None]) -> None:
    """Bytes that do not repeat at any chunk's length: one random block, stamped with its number."""
    block = bytearray(os.urandom(1 << 20))
    with path.open("wb") as file:
        for at in range(0, size, len(block)):
            block[:8] = at.to_bytes(8, "little")
            advance(file.write(memoryview(block)[: size - at]))


def digests(paths: dict[str, Path], advance: Callable[[int], None]) -> dict[str, str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        advance(path.stat().st_size)
        return found

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(paths, threads.map(digest, paths.values()), strict=True))


def batches(client: Client, bucket: str) -> Iterator[list[str]]:
    """Keys to delete; listed anew each time, since what was listed is gone then."""
    while batch := [info.key for info, _ in zip(client.list(bucket), range(1000), strict=False)]:
        yield batch


def exhaust(things: Iterable[object]) -> None:
    for _ in things:
        pass


@contextlib.contextmanager
def a_store(directory: Path) -> Iterator[Store]:
    """The store that was named, or that runs here already, or one of our own."""
    url, key = os.environ.get("WAREHOUSE_URL"), os.environ.get("WAREHOUSE_KEY")
    if url and key:
        yield Store(url, key, "from WAREHOUSE_URL")
        return
    data = Path(os.environ.get("WAREHOUSE_DATA") or ROOT / "data")
    port = os.environ.get("WAREHOUSE_PORT") or "8000"
    key_file = data / "secrets" / "admin.key"
    if key_file.exists() and is_listening(int(port)):
        yield Store(f"http://127.0.0.1:{port}", key_file.read_text().strip(), f"running, key from {key_file}")
        return
    with own_store(directory / "store") as store:
        yield store


@contextlib.contextmanager
def own_store(data: Path) -> Iterator[Store]:
    """`manage.py up` in a temporary directory, stopped at the end."""
    port, volume_port = free_ports()
    command = [sys.executable, str(ROOT / "manage.py"), "up", "--json", "--data", str(data), "--port", str(port)]
    command += ["--volume-servers", "2", "--volume-port", str(volume_port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WAREHOUSE_")}
    log_path = data.parent / "store.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise DemoFailed(f"the store did not start:\n{log_path.read_text(errors='replace')[-2000:]}")
        ready: dict[str, Any] = json.loads(line)
        yield Store(ready["url"], ready["key"], "started for this demo")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        shutil.rmtree(data, ignore_errors=True)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports() -> tuple[int, int]:
    """A port, and the first of two neighbours."""
    while True:
        with socket.socket() as one, socket.socket() as first, socket.socket() as second:
            one.bind(("127.0.0.1", 0))
            first.bind(("127.0.0.1", 0))
            port, volume_port = one.getsockname()[1], first.getsockname()[1]
            if volume_port < 65535 and port != volume_port + 1:
                with contextlib.suppress(OSError):
                    second.bind(("127.0.0.1", volume_port + 1))
                    return port, volume_port


def human(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} bytes"


def parse_size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1GiB, 300M or 4096")
    return int(found[1]) * UNITS[found[2].upper()]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=parse_size, default="1GiB", help="of the large file (default: 1GiB)")
    parser.add_argument(
        "--tree", type=Path, default=Path(sysconfig.get_path("stdlib")), help="default: Python's standard library"
    )
    parser.add_argument("--tmp", type=Path, help="where temporary files go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
