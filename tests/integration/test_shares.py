"""Links of shares as those who get one use them: with curl and with requests, on a running store."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.api import send
from tests.support.programs import missing, program
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until

HOSTILE = "folder/a b <img src=x onerror=alert(1)>#?%.txt"

Curl = Callable[..., bytes]


@pytest.fixture
def curl() -> Curl:
    """Runs curl as people do, following redirects; its output."""
    binary = program("curl")
    if binary is None:
        missing("curl")

    def run(*arguments: str, code: int = 0) -> bytes:
        done = subprocess.run([binary, "-sSfL", *arguments], capture_output=True, check=False)
        assert done.returncode == code, done
        return done.stdout

    return run


def share(store: Store, bucket: str, key: str, **terms: Any) -> str:
    made = store.api().post("shares", {"bucket": bucket, "key": key, **terms})
    assert made["url"].startswith(store.url + "/s/")
    return str(made["url"])


def last_share(store: Store, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = store.api().get(f"shares?bucket={bucket}")["results"][-1]
    return found


def test_curl_gets_an_object_of_one_chunk(store: Store, bucket: str, curl: Curl, tmp_path: Path) -> None:
    body = os.urandom(5000)
    store.api().put(bucket, HOSTILE, body)
    url = share(store, bucket, HOSTILE)
    assert curl(url) == body
    assert curl("-r", "1000-1999", url) == body[1000:2000]
    curl("-OJ", "--output-dir", str(tmp_path), url)
    [saved] = tmp_path.iterdir()
    assert saved.read_bytes() == body
    head = curl("-I", url).decode()
    assert "200 OK" in head
    assert 'attachment; filename="a b <img src=x onerror=alert(1)>#?%.txt"' in head
    store.api().put(bucket, HOSTILE, b"a newer version")
    assert curl(url) == b"a newer version"
    assert last_share(store, bucket)["download_count"] == 4


def test_an_object_of_several_chunks_is_fetched_in_parts(store: Store, bucket: str, curl: Curl, tmp_path: Path) -> None:
    body = os.urandom(3 * CHUNK_SIZE + 5)
    store.api().put_chunks(bucket, "film.mkv", body)
    url = share(store, bucket, "film.mkv", one_time=True)
    first = requests.get(url, headers={"Range": f"bytes=0-{CHUNK_SIZE}"})
    assert (first.status_code, first.content) == (206, body[: CHUNK_SIZE + 1])
    # A download manager goes on where it was, at the address it was led to; the link itself is used up.
    partial = tmp_path / "film.mkv"
    partial.write_bytes(first.content)
    curl("-C", "-", "-o", str(partial), first.url)
    assert partial.read_bytes() == body
    assert requests.get(url).status_code == 410
    assert requests.get(url, headers={"Range": "bytes=1-"}).status_code == 410
    assert last_share(store, bucket)["download_count"] == 1


def test_one_of_many_at_once_gets_what_is_there_once(store: Store, bucket: str) -> None:
    store.api().put(bucket, "k", b"only once")
    for _ in range(5):
        url = share(store, bucket, "k", one_time=True)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda url: send("GET", url), [url] * 8))
        assert sorted(answer.status for answer in answers) == [307] + [410] * 7
        [led] = [answer.headers["location"] for answer in answers if answer.status == 307]
        assert send("GET", led).body == b"only once"


def test_a_password_by_curl(store: Store, bucket: str, curl: Curl) -> None:
    body = os.urandom(2 * CHUNK_SIZE)
    store.api().put_chunks(bucket, "large", body)
    store.api().put(bucket, "small", b"hello")
    for key, held in (("large", body), ("small", b"hello")):
        url = share(store, bucket, key, password="geheim: ü")
        assert curl("-u", "me:geheim: ü", url) == held
        curl(url, code=22)
        curl("-u", "me:wrong", url, code=22)
        refused = requests.get(url)
        assert (refused.status_code, refused.json()["code"]) == (401, "password_refused")
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_link_ends_with_the_right_of_its_maker(store: Store, bucket: str, curl: Curl) -> None:
    admin = store.api()
    admin.put(bucket, "k", b"hello")
    grant = {"bucket": bucket, "prefix": "", "permissions": 1024 + 1}
    for ending in ("delete", "weaken"):
        key = admin.post("keys", {"name": "sharer", "grants": [grant]})
        url = store.api(key["key"]).post("shares", {"bucket": bucket, "key": "k"})["url"]
        assert curl(url) == b"hello"
        if ending == "delete":
            assert admin.request("DELETE", f"keys/{key['id']}").status == 204
        else:
            weaker = {"grants": [grant | {"permissions": 1024}]}
            assert admin.request("PATCH", f"keys/{key['id']}", weaker).status == 200
        wait_until(lambda url=url: send("GET", url).status == 410, what="the end of the share")


def test_a_revoked_link_has_ended_and_no_log_tells_it(store: Store, bucket: str) -> None:
    store.api().put_chunks(bucket, "k", os.urandom(CHUNK_SIZE + 1))
    url = share(store, bucket, "k")
    led = send("GET", url).headers["location"]
    assert requests.get(store.url + led).ok
    made = last_share(store, bucket)
    assert store.api().request("DELETE", f"shares/{made['id']}").status == 204
    for address in (url, url + "/download", store.url + led):
        answer = send("GET", address, headers={"X-Request-Id": "refused-share"})
        assert (answer.status, answer.code) == (410, "share_over")
    wait_until(lambda: store.log.read_text().count('"request_id": "refused-share"') >= 3, what="the lines in the log")
    token = urlsplit(url).path.removeprefix("/s/")
    assert token not in store.log.read_text()
