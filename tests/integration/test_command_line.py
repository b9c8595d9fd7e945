"""The `warehouse` command and the SDK against a real store."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.store import CHUNK_SIZE, Store

WAREHOUSE = Path(sys.executable).parent / "warehouse"


@pytest.fixture
def warehouse(store: Store) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*arguments: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [str(WAREHOUSE), *arguments],
            env={**store.env, "WAREHOUSE_URL": store.url, "WAREHOUSE_KEY": store.key},
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code or (code and done.returncode), (arguments, done)
        assert b"Traceback" not in done.stderr
        return done

    return run


def test_a_day_at_the_command_line(
    store: Store, warehouse: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    files = {"a.txt": b"a", "empty": b"", "deep/er/ü.bin": os.urandom(3 * CHUNK_SIZE + 1)}
    for name, body in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(body)

    name = f"cli-{os.urandom(3).hex()}"
    warehouse("mb", name)
    assert name.encode() in warehouse("ls").stdout
    warehouse("put", "-r", str(tree), f"{name}/copy")
    listed = [key for key in store.api().list(name) if key.endswith(tuple(files))]
    assert len(listed) == 3
    for key in listed:
        assert key.encode() in warehouse("ls", "-r", name).stdout
    target = tmp_path / "back"
    warehouse("get", "-r", f"{name}/copy", str(target))
    back = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert back == {Path(key).name: body for key, body in files.items()}

    warehouse("put", "-", f"{name}/piped", stdin=b"from a pipe")
    assert warehouse("get", f"{name}/piped", "-").stdout == b"from a pipe"
    assert b"11" in warehouse("stat", f"{name}/piped").stdout
    warehouse("rb", name, code=1)
    warehouse("rm", f"{name}/piped")
    assert "piped" not in store.api().list(name)
    warehouse("get", f"{name}/piped", str(tmp_path / "nothing"), code=1)
    assert not (tmp_path / "nothing").exists()
    warehouse("rm", "-r", "--yes", f"{name}/copy")
    assert store.api().list(name) == []
    warehouse("rb", name)


def test_sdk_moves_bytes_files_and_streams(store: Store, bucket: str, tmp_path: Path) -> None:
    from warehouse import Client

    body = os.urandom(5 * CHUNK_SIZE + 3)
    file = tmp_path / "file"
    file.write_bytes(body)
    with Client(store.url, store.key) as client:
        client.put(bucket, "bytes", body)
        client.put(bucket, "path", file)
        with file.open("rb") as stream:
            client.put(bucket, "file", stream)
        client.put(bucket, "stream", io.BytesIO(body))
        for key in ("bytes", "path", "file", "stream"):
            assert client.get(bucket, key) == body
        client.download(bucket, "path", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == body
        assert client.stat(bucket, "path").size == len(body)
        assert [one.key for one in client.list(bucket)] == ["bytes", "file", "path", "stream"]
        client.delete(bucket, "path")
    assert store.api().list(bucket) == ["bytes", "file", "stream"]


def test_a_loop_of_small_puts_asks_the_master_once_a_lease(store: Store, bucket: str) -> None:
    from warehouse import Client

    def leases_so_far() -> int:
        """Lease numbers are handed out one by one (a restart of the master alone skips some)."""
        return store.api().lease(bucket).first >> 16

    before = leases_so_far()
    with Client(store.url, store.key) as client:
        for number in range(500):
            client.put(bucket, f"{number:03}", b"small")
    asked = leases_so_far() - before - 1
    assert len(store.api().list(bucket)) == 500
    assert 1 <= asked <= 8, f"{asked} leases for 500 puts"


def test_stat_as_json(store: Store, bucket: str, warehouse: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    store.api().put(bucket, "k", b"hello")
    told = json.loads(warehouse("stat", "--json", f"{bucket}/k").stdout)
    assert (told["key"], told["size"]) == ("k", 5)
