"""Compaction and scrub of a real store: the command, the API and the admin site over real volume servers."""

import html
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.conftest import StartStore
from tests.support.api import Api, send
from tests.support.programs import ROOT
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until

SMALL = 3_000
"""Bytes of a small object: most of what its record takes."""


@pytest.fixture(scope="module")
def store(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two volume servers; no worker, so that tombstones come when a test asks for them."""
    directory = tmp_path_factory.mktemp("upkeep")
    with start_store(directory, env={"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE)}, worker=False) as running:
        yield running


@pytest.fixture
def api(store: Store) -> Api:
    return store.api()


@pytest.fixture
def manage(store: Store) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = store.manage(*arguments)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done

    return run


class AdminSite:
    """A browser that is signed in with the first admin key."""

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self.session = requests.Session()
        self.session.trust_env = False
        self.get("login/")
        assert self.post("login/", {"key": store.key, "next": "/admin/"}).status_code == 200

    def get(self, path: str) -> str:
        answer = self.session.get(f"{self.url}/admin/{path}")
        assert answer.status_code == 200, answer
        return answer.text

    def post(self, path: str, form: dict[str, Any]) -> requests.Response:
        token = self.session.cookies["csrftoken"]
        return self.session.post(f"{self.url}/admin/{path}", {**form, "csrfmiddlewaretoken": token})

    def act(self, action: str, volume: int) -> str:
        """Runs an action on a volume; the page that follows."""
        answer = self.post("volumes/volume/", {"action": action, "_selected_action": [volume]})
        assert answer.status_code == 200, answer
        return answer.text

    def row(self, volume: int) -> str:
        """The volume's row in the list, without its tags."""
        rows = self.get("volumes/volume/").split("<tr>")
        [found] = [row for row in rows if f"/admin/volumes/volume/{volume}/change/" in row]
        return re.sub(r"<[^>]*>", " ", found)


@pytest.fixture
def admin(store: Store) -> AdminSite:
    return AdminSite(store)


def put_many(api: Api, bucket: str) -> dict[str, bytes]:
    """Small objects of one lease and of many, and some of several chunks, over the volumes of both servers."""
    objects: dict[str, bytes] = {}
    lease = api.lease(bucket, count=40)
    for slot in range(40):
        objects[f"leased/{slot}"] = os.urandom(SMALL)
        assert lease.put(slot, f"leased/{slot}", objects[f"leased/{slot}"]).status == 201
    for number in range(24):
        objects[f"small/{number}"] = os.urandom(SMALL)
        api.put(bucket, f"small/{number}", objects[f"small/{number}"])
    for number in range(6):
        objects[f"large/{number}"] = os.urandom(4 * CHUNK_SIZE + number)
        api.put_chunks(bucket, f"large/{number}", objects[f"large/{number}"])
    return objects


def delete_half(api: Api, bucket: str, objects: dict[str, bytes]) -> tuple[dict[str, bytes], int]:
    """Deletes every second object; gives what is left, and how many bytes went."""
    dead = sorted(objects)[::2]
    api.post(f"buckets/{bucket}/delete", {"keys": dead}, status=200)
    return {key: body for key, body in objects.items() if key not in dead}, sum(len(objects[key]) for key in dead)


def volume_of(api: Api, bucket: str, key: str) -> tuple[int, int]:
    """Volume and needle of an object of one chunk."""
    [chunk] = api.look_up(bucket, key)[key]["chunks"]
    _, volume, needle = urlsplit(chunk["urls"][0]).path.split("/")
    return int(volume), int(needle, 16)


def replica(api: Api, volume: int) -> dict[str, Any]:
    [found] = api.get(f"volumes/{volume}")["replicas"]
    return dict(found)


def wait_for_job(api: Api, volume: int, name: str) -> dict[str, Any]:
    """The replica once the job that was started has ended."""

    def ended() -> dict[str, Any] | None:
        found = replica(api, volume)
        return found if found[name] is not None and found[name]["state"] != "running" else None

    return wait_until(ended, what=f"the end of the {name}")


def test_half_of_the_objects_go_and_their_space_with_them(
    store: Store, api: Api, manage: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    bucket = api.make_bucket("half")
    objects = put_many(api, bucket)
    left, dead_bytes = delete_half(api, bucket, objects)
    store.write_tombstones()
    before = sum(store.volume_files().values())

    done = manage("compact", "--all")
    assert re.search(r"volume \d+: compacted, [0-9.]+ [KM]iB given back", done.stdout), done
    assert done.stdout.rstrip().endswith(" 0 failed"), done
    after = sum(store.volume_files().values())
    assert before - after >= dead_bytes

    assert {key: api.read(bucket, key) for key in left} == left
    assert sorted(api.list(bucket)) == sorted(left)
    usage = wait_until(
        lambda: (told := api.get("usage"))["used_bytes"] == after and told, what="the figures of the heartbeats"
    )
    assert usage["damaged_count"] == 0
    assert usage["garbage_bytes"] < dead_bytes // 10  # the tombstones, whose leases are still good
    api.put(bucket, "after", b"compaction")
    assert api.read(bucket, "after") == b"compaction"


def test_compaction_by_the_api_and_by_the_admin_site(store: Store, api: Api, admin: AdminSite) -> None:
    bucket = api.make_bucket("two-ways")
    objects = put_many(api, bucket)
    left, _ = delete_half(api, bucket, objects)
    store.write_tombstones()
    volume, _ = volume_of(api, bucket, next(key for key in left if key.startswith("leased/")))

    revision = replica(api, volume)["revision"]
    started = api.post(f"volumes/{volume}/compact", {"rate_bytes": 50 << 20}, status=202)
    assert started["replicas"][0]["compaction"]["state"] in {"running", "done"}
    ended = wait_for_job(api, volume, "compaction")
    assert (ended["compaction"]["state"], ended["revision"]) == ("done", revision + 1)
    assert ended["compaction"]["reclaimed_bytes"] > 10 * SMALL

    assert f"Volume {volume}: the compaction runs" in admin.act("compact", volume)
    wait_until(lambda: replica(api, volume)["revision"] == revision + 2, what="the second compaction")
    assert {key: api.read(bucket, key) for key in left} == left


def test_what_cannot_be_compacted(store: Store, api: Api) -> None:
    refused = api.request("POST", "volumes/4000000000/compact", {})
    assert (refused.status, refused.code) == (404, "volume_unknown")


def test_planted_damage_is_found_and_spoils_one_needle(
    store: Store, api: Api, admin: AdminSite, manage: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    bucket = api.make_bucket("damage")
    objects = put_many(api, bucket)
    victim = "leased/7"
    volume, needle = volume_of(api, bucket, victim)
    sound = manage("scrub", "--all")
    assert sound.stdout.count(", sound") == len(api.get("volumes")["results"])
    wait_until(lambda: replica(api, volume)["scrubbed_at"], what="the time of the pass")
    assert replica(api, volume)["damaged_count"] == 0

    flip_a_bit(store, objects[victim])
    found = manage("scrub", str(volume), code=1)
    assert "1 DAMAGED" in found.stdout
    assert f"needle {needle:016x} (object '{victim}' in bucket 'damage', chunk 0)" in found.stdout
    assert "There is damage. Put the objects named above again" in found.stderr

    wait_until(lambda: replica(api, volume)["damaged_count"] == 1, what="the damage in the figures")
    assert api.get("usage")["damaged_count"] == 1
    assert sum(server["damaged_count"] for server in api.get("servers")["results"]) == 1
    assert "1 damaged" in admin.row(volume)
    shown = html.unescape(admin.get(f"volumes/volume/{volume}/change/"))
    assert f"<td>{needle:016x}</td><td>object '{victim}' in bucket 'damage', chunk 0</td>" in shown

    [chunk] = api.look_up(bucket, victim)[victim]["chunks"]
    answer = send("GET", chunk["urls"][0])
    assert (answer.status, answer.code) == (500, "needle_damaged")
    assert {key: api.read(bucket, key) for key in objects if key != victim} == {
        key: body for key, body in objects.items() if key != victim
    }

    api.post(f"volumes/{volume}/scrub", None, status=202)
    ended = wait_for_job(api, volume, "scrub")
    assert (ended["scrub"]["state"], ended["damaged_count"]) == ("done", 1)
    assert f"Volume {volume}: the scrub runs" in admin.act("scrub", volume)


def test_ctrl_c_ends_the_watching_and_not_the_work(store: Store, api: Api) -> None:
    bucket = api.make_bucket("slow")
    objects = put_many(api, bucket)
    volume, _ = volume_of(api, bucket, next(iter(objects)))
    watching = subprocess.Popen(
        [sys.executable, "manage.py", "compact", str(volume), "--rate", "1K"],
        env={**store.env, "WAREHOUSE_DATA": str(store.data)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As from a terminal: a shell's background job, such as these tests may be, ignores SIGINT and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - before exec alone
    )

    def state() -> str | None:
        found = replica(api, volume)["compaction"]
        return found and found["state"]

    wait_until(lambda: state() == "running", what="the compaction")
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate()
    assert watching.returncode == 130, said
    assert f"The compaction of volume {volume} goes on" in said
    assert state() == "running"
    assert {key: api.read(bucket, key) for key in objects} == objects  # both files are there, and neither is in the way


def flip_a_bit(store: Store, body: bytes) -> Path:
    """Spoils a needle's data on disk, the volume file that holds it being in use."""
    for path in store.volume_files():
        at = path.read_bytes().find(body)
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + len(body) // 2)
                [byte] = file.read(1)
                file.seek(at + len(body) // 2)
                file.write(bytes([byte ^ 1]))
            return path
    raise AssertionError("no volume file holds these bytes")
