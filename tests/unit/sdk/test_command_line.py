"""The `warehouse` command, in process, on the fake."""

import io
import json
import os
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from tests.support.programs import ROOT
from tests.unit.sdk.fake_store import KEY, FakeStore, Refusal, Stored
from warehouse import Client
from warehouse.cli import main


class Warehouse:
    def __init__(self, fake: FakeStore) -> None:
        self.fake = fake
        self.runner = CliRunner(env={"WAREHOUSE_URL": fake.url, "WAREHOUSE_KEY": KEY})

    def __call__(self, *arguments: str | Path, code: int = 0, input: bytes | str | IO[Any] | None = None) -> Result:  # noqa: A002
        result = self.runner.invoke(main, [str(argument) for argument in arguments], input=input)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result


@pytest.fixture
def warehouse(fake: FakeStore) -> Warehouse:
    return Warehouse(fake)


def put_raw(fake: FakeStore, key: str, body: bytes = b"hostile") -> None:
    needle = 1000 + len(fake.needles)
    fake.needles[needle] = body
    fake.buckets["b"][key] = Stored(body, key, "text/plain", {}, f"e{needle}", [needle], "2026-01-01T00:00:00Z")


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_buckets(warehouse: Warehouse) -> None:
    warehouse("mb", "one", "two")
    assert warehouse("ls").stdout.split() == ["b", "one", "two"]
    assert [json.loads(line)["name"] for line in warehouse("ls", "--json").stdout.splitlines()] == ["b", "one", "two"]
    warehouse("rb", "one")
    assert "bucket_taken" in warehouse("mb", "two", code=1).stderr
    warehouse("put", "-", "two/k", input=b"1")
    assert "bucket_not_empty" in warehouse("rb", "two", code=1).stderr
    told = warehouse("rb", "--force", "--yes", "two").stderr
    assert "two is closed; 1 objects are being deleted" in told
    assert list(warehouse.fake.buckets) == ["b"]
    assert not warehouse.fake.closed  # it was waited for
    warehouse("put", "-", "b/k", input=b"1")
    warehouse("rb", "--force", "b", code=1)  # nobody said yes
    assert list(warehouse.fake.buckets) == ["b"]
    warehouse("rb", "--force", "--yes", "--no-wait", "b")
    assert list(warehouse.fake.closed) == ["b"]


def test_a_bucket_is_searched(warehouse: Warehouse) -> None:
    for key in ("notes/Cat.txt", "cat.png", "dog.png"):
        put_raw(warehouse.fake, key)
    assert warehouse("ls", "--search", "CAT", "b").stdout.split() == ["cat.png", "notes/Cat.txt"]
    assert warehouse("ls", "-s", "cat", "b/notes/").stdout.split() == ["notes/Cat.txt"]
    assert "which bucket" in warehouse("ls", "--search", "cat", code=2).stderr


def test_a_file_there_and_back(warehouse: Warehouse, tmp_path: Path) -> None:
    source = tmp_path / "naïve name.txt"
    source.write_bytes(b"hello")
    warehouse("put", source, "b")
    warehouse("put", source, "b/folder/")
    warehouse("put", source, "b/other")
    assert sorted(warehouse.fake.buckets["b"]) == ["folder/naïve name.txt", "naïve name.txt", "other"]
    assert warehouse.fake.buckets["b"]["naïve name.txt"].content_type == "text/plain"
    (tmp_path / "into").mkdir()
    warehouse("get", "b/folder/naïve name.txt", tmp_path / "into")
    warehouse("get", "b/other", tmp_path / "as")
    assert tree(tmp_path / "into") == {"naïve name.txt": b"hello"}
    assert (tmp_path / "as").read_bytes() == b"hello"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "as").stat().st_mode) == 0o666 & ~umask


def test_links(warehouse: Warehouse) -> None:
    warehouse("put", "-", "b/a b", input=b"1")
    link = warehouse("share", "b/a b").stdout
    assert link == f"{warehouse.fake.url}/s/{1:043}\n"
    terms = ("--expires", "7d", "--max-downloads", "3", "--inline", "--description", "for Ana")
    asked = warehouse("share", "b/a b", *terms, "--password", "--json", input="geheim\ngeheim\n")
    made = json.loads(asked.stdout.splitlines()[-1])
    assert (made["max_downloads"], made["has_password"], made["description"]) == (3, True, "for Ana")
    assert "geheim" not in asked.output
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6) < left < timedelta(days=8)
    warehouse("share", "b/a b", "--one-time", "--max-downloads", "1")
    assert warehouse.fake.shares[3]["max_downloads"] == 1
    warehouse("unshare", "1")
    lines = warehouse("shares").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [["1", "revoked", "0"], ["2", "live", "0/3"], ["3", "live", "0/1"]]
    assert all(line.endswith("b/a b") for line in lines)
    assert "never" in lines[0]
    assert warehouse("shares", "other").stdout == ""
    assert [json.loads(line)["id"] for line in warehouse("shares", "b", "--json").stdout.splitlines()] == [1, 2, 3]
    assert "object_unknown" in warehouse("share", "b/none", code=1).stderr
    assert "9: " in warehouse("unshare", "9", "2", code=1).stderr
    assert warehouse.fake.shares[2]["state"] == "revoked"
    for wrong in (
        ["share", "b"],
        ["share", "b/a b", "--one-time", "--max-downloads", "2"],
        ["share", "b/a b", "--max-downloads", "0"],
        *[["share", "b/a b", "--expires", text] for text in ("", "7", "d", "0d", "-1d", "1y", "²d", "1.5h")],
        ["unshare", "0"],
        ["unshare"],
    ):
        warehouse(*wrong, code=2)


def test_a_link_s_password_comes_from_a_script(warehouse: Warehouse, tmp_path: Path) -> None:
    put_raw(warehouse.fake, "k")
    path = tmp_path / "password"
    path.write_bytes("gehéim \nand more".encode())
    given: list[str] = []
    make = warehouse.fake.make_share

    def noting(body: dict[str, Any]) -> dict[str, Any]:
        given.append(body["password"])
        return make(body)

    warehouse.fake.make_share = noting  # type: ignore[method-assign]
    assert "gehéim" not in warehouse("share", "b/k", "--password-file", path).output
    warehouse("share", "b/k", "--password-file", "-", input=b"from a pipe\r\n")
    assert given == ["gehéim ", "from a pipe"]
    for wrong in (b"", b"\nlate", b"\xff"):
        warehouse("share", "b/k", "--password-file", "-", input=wrong, code=2)
    warehouse("share", "b/k", "--password-file", tmp_path / "none", code=2)
    warehouse("share", "b/k", "--password", "--password-file", path, code=2)
    assert len(given) == 2


def test_copies_and_renames(warehouse: Warehouse) -> None:
    for key in ("a", "d/x", "d/y/z", "e/x"):
        put_raw(warehouse.fake, key, key.encode())
    warehouse("mb", "other")
    objects = warehouse.fake.buckets["b"]
    warehouse("cp", "b/a", "b/c")
    warehouse("cp", "b/d/x", "other")
    assert json.loads(warehouse("cp", "--json", "b/a", "other/in/").stdout)["key"] == "in/a"
    assert sorted(warehouse.fake.buckets["other"]) == ["in/a", "x"]
    assert "precondition_failed" in warehouse("cp", "-n", "b/d/x", "b/c", code=1).stderr
    warehouse("cp", "b/d/x", "b/c")
    assert objects["c"].body == b"d/x"
    assert "object_exists" in warehouse("mv", "b/a", "b/c", code=1).stderr
    warehouse("mv", "-f", "b/a", "b/c")
    assert objects["c"].body == b"a"
    warehouse("mv", "b/c", "b/folder/")
    assert "object_exists" in warehouse("mv", "-r", "b/d", "b/e", code=1).stderr
    assert warehouse("mv", "-r", "b/d", "b/new").stderr == "2 renamed\n"
    assert sorted(objects) == ["e/x", "folder/c", "new/x", "new/y/z"]
    assert "object_unknown" in warehouse("mv", "-r", "b/d", "b/new", code=1).stderr
    for wrong in (["cp", "b", "b/x"], ["mv", "b", "b/x"], ["mv", "b/e/x", "other/x"]):
        warehouse(*wrong, code=2)


def test_a_tree_that_is_seen_at_once(warehouse: Warehouse, tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / name).write_bytes(name.encode())
    warehouse.fake.fail("POST commits", Refusal(507, "quota_exceeded"))
    warehouse("put", "-r", "--atomic", tmp_path, "b/t", code=1)
    assert warehouse.fake.buckets["b"] == {}
    assert {upload.state for upload in warehouse.fake.uploads.values()} == {"aborted"}
    told = warehouse("put", "-r", "--atomic", "--json", tmp_path, "b/t").stdout
    assert sorted(json.loads(line)["key"] for line in told.splitlines()) == ["t/1", "t/2", "t/3"]
    assert warehouse.fake.calls["POST commits"] == 2
    (tmp_path / "link").symlink_to("nowhere")
    warehouse("put", "-r", "--atomic", tmp_path, "b/u", code=1)
    assert sorted(warehouse.fake.buckets["b"]) == ["t/1", "t/2", "t/3"]


def test_pipes(warehouse: Warehouse) -> None:
    warehouse("put", "-", "b/k", "--content-type", "a/b", "--meta", "colour=grün", input=b"from a pipe")
    assert warehouse("get", "b/k", "-").stdout_bytes == b"from a pipe"
    told = json.loads(warehouse("stat", "--json", "b/k").stdout)
    assert (told["size"], told["content_type"], told["metadata"]) == (11, "a/b", {"colour": "grün"})
    warehouse("put", "-", "b/folder/", input=b"", code=2)
    warehouse("get", "b/k", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_preconditions(warehouse: Warehouse) -> None:
    warehouse("put", "--if-none-match", "-", "b/k", input=b"1")
    assert "precondition_failed" in warehouse("put", "--if-none-match", "-", "b/k", input=b"2", code=1).stderr
    etag = json.loads(warehouse("stat", "--json", "b/k").stdout)["etag"]
    warehouse("put", "--if-match", etag, "-", "b/k", input=b"3")
    assert warehouse.fake.buckets["b"]["k"].body == b"3"


def test_trees_there_and_back(warehouse: Warehouse, tmp_path: Path) -> None:
    source = tmp_path / "source"
    files = {"a.txt": b"a", "empty": b"", "deep/er/ü": os.urandom(3 << 20), "deep/ b": b"b"}
    for name, body in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    (source / "link").symlink_to("a.txt")
    assert "is a directory" in warehouse("put", source, "b/copy", code=1).stderr
    warehouse("put", "-r", source, "b/copy")
    warehouse("get", "-r", "b/copy", tmp_path / "back")
    assert tree(tmp_path / "back") == {**files, "link": b"a"}
    warehouse("put", "-r", source, tmp_path / "back", "b")
    assert {key.split("/")[0] for key in warehouse.fake.buckets["b"]} == {"copy", "source", "back"}


def test_what_is_no_file_is_told_and_passed_over(warehouse: Warehouse, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"")
    (tmp_path / "file").write_bytes(b"1")
    told = warehouse("put", "-r", tmp_path, "b", code=1).stderr
    assert list(warehouse.fake.buckets["b"]) == ["file"]
    assert len(told.splitlines()) == 3


@pytest.mark.parametrize(
    "key", ["../x", "/etc/x", "a/../../x", "a//x", "./x", "..", "a/..", "../", "sub/link/x", "bytes/"]
)
def test_hostile_keys_never_leave_the_directory(warehouse: Warehouse, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "link").symlink_to(outside)
    put_raw(warehouse.fake, key)
    put_raw(warehouse.fake, "good", b"good")
    told = warehouse("get", "-r", "b", target, code=1).stderr
    assert len(told.splitlines()) == 1
    assert tree(tmp_path) == {"target/good": b"good"}
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_leads_nowhere(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"before")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "k").symlink_to(tmp_path / "outside")
    put_raw(warehouse.fake, "k")
    warehouse("get", "-r", "b", tmp_path / "target", code=1)
    assert (tmp_path / "outside").read_bytes() == b"before"


def test_hostile_names_of_single_gets(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("a/..", "a/.", "a/"):
        put_raw(warehouse.fake, key)
        warehouse("get", f"b/{key}", code=1)
    put_raw(warehouse.fake, "../up")
    warehouse("get", "b/../up")
    assert tree(tmp_path) == {"up": b"hostile"}


def test_folder_objects_make_directories(warehouse: Warehouse, tmp_path: Path) -> None:
    put_raw(warehouse.fake, "folder/", b"")
    put_raw(warehouse.fake, "file", b"1")
    warehouse("get", "-r", "b", tmp_path / "t")
    assert (tmp_path / "t" / "folder").is_dir()
    assert tree(tmp_path / "t") == {"file": b"1"}


def test_a_file_where_a_directory_must_be(warehouse: Warehouse, tmp_path: Path) -> None:
    put_raw(warehouse.fake, "a", b"1")
    put_raw(warehouse.fake, "a/b", b"2")
    put_raw(warehouse.fake, "c", b"3")
    warehouse("get", "-r", "b", tmp_path / "t", code=1)
    assert tree(tmp_path / "t").get("c") == b"3"


def test_lists(warehouse: Warehouse) -> None:
    for key in ("a/1", "a/2", "b", "esc\x1b[2J"):
        put_raw(warehouse.fake, key, b"12345")
    assert warehouse("ls", "b").stdout.splitlines() == ["a/", "b", "esc\\x1b[2J"]
    assert warehouse("ls", "-r", "b").stdout.splitlines() == ["a/1", "a/2", "b", "esc\\x1b[2J"]
    assert warehouse("ls", "b/a/").stdout.splitlines() == ["a/1", "a/2"]
    assert warehouse("ls", "-l", "b/b").stdout.split()[0] == "5"
    assert json.loads(warehouse("ls", "--json", "b/b").stdout)["key"] == "b"


def test_deleting(warehouse: Warehouse) -> None:
    for key in ("a", "a/1", "a/2", "ab", "c"):
        put_raw(warehouse.fake, key)
    warehouse("rm", "b/c")
    warehouse("rm", "b/c", code=1)
    warehouse("rm", "-r", "b/a", code=1, input="n\n")
    assert len(warehouse.fake.buckets["b"]) == 4
    warehouse("rm", "-r", "b/a", input="y\n")
    assert list(warehouse.fake.buckets["b"]) == ["ab"]
    warehouse("rm", "b", code=2)
    warehouse("rm", "-ry", "b")
    assert warehouse.fake.buckets["b"] == {}


def test_errors_are_one_line(warehouse: Warehouse, tmp_path: Path) -> None:
    for arguments in (
        ["get", "b/none", tmp_path / "f"],
        ["stat", "none"],
        ["put", tmp_path / "none", "b"],
        ["ls", "x"],
    ):
        told = warehouse(*arguments, code=1).stderr
        assert told.startswith("warehouse: ")
        assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    warehouse.fake.fail("GET buckets", Refusal(500, "internal_error"))
    assert "[request " in warehouse("ls", code=1).stderr


def test_a_damaged_object_is_named_with_what_to_do(warehouse: Warehouse, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"body")
    warehouse("put", source, "b/k")
    warehouse.fake.fail("GET needle", *[Refusal(500, "needle_damaged")] * 2)
    told = warehouse("get", "b/k", tmp_path / "f", code=1).stderr
    assert told.startswith("warehouse: ")
    assert "the bytes of 'k' in 'b' (chunk 0) are damaged on the volume server 127.0.0.1:" in told
    assert "put the object again" in told
    assert not (tmp_path / "f").exists()


def test_a_bucket_is_made_with_its_replication(warehouse: Warehouse) -> None:
    warehouse("mb", "--replication", "2", "twice")
    assert warehouse.fake.settings["twice"] == {"replication": 2}
    warehouse("mb", "--replication", "0", "never", code=2)
    warehouse("mb", "once")
    assert warehouse.fake.settings["once"] == {}


def test_an_object_whose_bytes_are_lost_is_named_with_what_to_do(warehouse: Warehouse, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"body")
    warehouse("put", source, "b/k")
    warehouse.fake.lost_in.add(1)
    for arguments in (["b/k", tmp_path / "f"], ["-r", "b", tmp_path]):
        told = warehouse("get", *arguments, code=1).stderr
        assert "the bytes of 'k' in 'b' (chunk 0) are lost: the store has the object, but the volume server" in told
        assert "`manage.py fsck`" in told
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_wrong_with_an_argument_is_one_line(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    told = warehouse("put", "--meta", "A=b", path, "b/m", code=1).stderr
    assert told == "warehouse: metadata names are 1 to 64 of a-z, 0-9 and '-', not 'A'\n"
    told = warehouse("put", "--content-type", "a\r\nb", path, "b/m", code=1).stderr
    assert len(told.splitlines()) == 1
    told = warehouse("put", "--meta", "a=\udcff", path, "b/m", code=1).stderr
    assert told == "warehouse: metadata: This is no text that UTF-8 can hold. (400 invalid)\n"
    assert warehouse.fake.buckets["b"] == {}


def test_a_file_is_named_once(warehouse: Warehouse, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert warehouse("put", none, "b", code=1).stderr == f"warehouse: {none}: No such file or directory\n"
    put_raw(warehouse.fake, "k")
    target = none / "k"
    told = warehouse("get", "b/k", target, code=1).stderr
    assert told.count(str(none)) == 1
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "b").chmod(0)
    if not os.access(tmp_path / "b", os.R_OK):
        told = warehouse("put", tmp_path / "a", tmp_path / "b", "b", code=1).stderr
        assert told == f"warehouse: {tmp_path / 'b'}: Permission denied\n"


def test_ctrl_c_is_one_line(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    put_raw(warehouse.fake, "k")
    asked = warehouse("rm", "-r", "b/k", code=130, input=Interrupted())
    assert asked.stderr.endswith("warehouse: interrupted\n")
    assert list(warehouse.fake.buckets["b"]) == ["k"]

    def interrupted(_: Client) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "list_buckets", interrupted)
    assert warehouse("ls", code=130).stderr == "warehouse: interrupted\n"


@pytest.mark.parametrize("module", ["click", "requests", "rich.progress", "warehouse.client"])
def test_ctrl_c_while_it_still_starts(module: str) -> None:
    program = f"""
import importlib.abc, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from warehouse.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "warehouse: interrupted\n")


def test_the_installed_command_is_the_module() -> None:
    project = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"warehouse": "warehouse.__main__:main"}
    ended = subprocess.run([sys.executable, "-m", "warehouse", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"warehouse, version {project['version']}\n"


def test_no_store_given(tmp_path: Path) -> None:
    result = CliRunner(env={"WAREHOUSE_URL": "", "WAREHOUSE_KEY": ""}).invoke(main, ["ls"])
    assert result.exit_code == 2
    assert "WAREHOUSE_URL and WAREHOUSE_KEY" in result.stderr
    result = CliRunner(env={"WAREHOUSE_URL": "localhost:8000", "WAREHOUSE_KEY": "k"}).invoke(main, ["ls"])
    assert result.exit_code == 2
    assert "http://" in result.stderr


def test_wrong_key(fake: FakeStore) -> None:
    result = CliRunner(env={"WAREHOUSE_URL": fake.url, "WAREHOUSE_KEY": "whk_9_no"}).invoke(main, ["ls"])
    assert result.exit_code == 1
    assert "does not accept this key" in result.stderr


def test_a_reader_that_has_seen_enough(fake: FakeStore) -> None:
    for number in range(3000):
        put_raw(fake, f"a rather long key so that the pipe is full soon {number:060}")
    command = [sys.executable, "-m", "warehouse", "ls", "-r", "b"]
    environment = {**os.environ, "WAREHOUSE_URL": fake.url, "WAREHOUSE_KEY": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
