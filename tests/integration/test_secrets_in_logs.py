"""What opens a door is in no log of a running store, in neither style, whatever clients and parts do wrong."""

import json
import os
import re
import socket
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import StartStore
from tests.support.api import Api, put_headers, send
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until

PASSWORD = "correct horse battery"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    env = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE)}
    with start_store(tmp_path_factory.mktemp("noisy"), env=env, volume_servers=1) as store:
        yield store


@pytest.fixture(params=["json", "text"])
def noisy(request: pytest.FixtureRequest, running: Store) -> Store:
    """A store whose parts log in one style."""
    if request.param == "text":
        # `up --json` has the ready line that tests need; its parts are started anew by themselves.
        running.stop_master()
        [server] = running.servers
        server.kill(15)
        for part in (running.master, server):
            part.env["WAREHOUSE_LOG"] = "text"
        running.start_master()
        running.restart_servers(server)
    return running


def raw(port: int, text: str) -> None:
    """Bytes that are no request, or only nearly one."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_no_secret_is_logged(noisy: Store) -> None:
    api = noisy.api()
    url, master = noisy.url, noisy.port
    [server] = noisy.servers
    secrets = {"admin key": noisy.key, "join token": (noisy.data / "secrets" / "join.token").read_text().strip()}

    pair = send("POST", f"{url}/api/v1/tokens", json.dumps({"key": noisy.key}).encode(), JSON).json
    secrets |= {"access token": pair["access"], "refresh token": pair["refresh"]}
    made = api.post("keys", {"name": "made", "permissions": 3})
    secrets["made key"] = made["key"]
    bucket = api.make_bucket(f"photos-{os.urandom(3).hex()}")
    secrets |= _bytes(api, bucket, server.port)
    secrets |= _shares(api, bucket, url)

    # What the master cannot read, does not find, or refuses.
    bearer = f"Bearer {pair['access']}"
    for line in (
        f"GET /x?sig={secrets['put signature']} HTTP/9.9\r\n\r\n",
        f"GET /x?key={noisy.key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization {bearer}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\n Authorization: {bearer}\r\n\r\n",
        f"GET /{'x' * 9000}{noisy.key} HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        raw(master, line)
        raw(server.port, line)
    for path in (f"nowhere?key={noisy.key}", f"nowhere/{noisy.key}", f"api/v1/buckets?token={pair['access']}"):
        send("GET", f"{url}/{path}", headers={"Authorization": f"Bearer {noisy.key}"})
    send("POST", f"{url}/api/v1/tokens", json.dumps({"key": noisy.key + "x"}).encode(), JSON)
    send("POST", f"{url}/api/v1/tokens", noisy.key.encode(), JSON)
    send("POST", f"{url}/admin/login/", f"key={noisy.key}".encode(), {"Cookie": f"sessionid={pair['refresh']}"})
    for _ in range(3):  # spent twice: its family is revoked
        send("POST", f"{url}/api/v1/tokens/refresh", json.dumps({"refresh": pair["refresh"]}).encode(), JSON)
    join = {"server": "no uuid", "token": secrets["join token"]}
    send("POST", f"{url}/api/v1/internal/register", json.dumps(join).encode(), JSON)

    # A part is away: those that wait for it say so.
    server.kill()
    for key in ("small", "large"):
        send(
            "GET", f"{url}/api/v1/buckets/{bucket}/content/{key}", headers={"Authorization": f"Bearer {pair['access']}"}
        )
    [volume] = {row["id"] for row in api.get("volumes")["results"][:1]}
    api.request("POST", f"volumes/{volume}/scrub")
    noisy.restart_servers(server)
    noisy.stop_master()
    told = len(noisy.log.read_text())
    send("PUT", secrets.pop("lease url"), b"x", put_headers("late"))
    wait_until(lambda: "master" in noisy.log.read_text()[told:], what="the volume server's complaint")
    noisy.start_master()

    written = noisy.log.read_text(errors="replace")
    written += "".join(path.read_text(errors="replace") for path in noisy.data.glob("logs/*"))
    assert "Invalid" in written  # what could not be read was told
    leaked = {name for name, secret in secrets.items() if secret in written}
    assert leaked == set()
    assert re.findall(r"sig=[0-9a-f]+|intent=[A-Za-z0-9_-]{8,}|eyJ[A-Za-z0-9_-]{20,}", written) == []


def _bytes(api: Api, bucket: str, port: int) -> dict[str, str]:
    """Puts and gets by signed URLs, right ones and wrong ones; what was signed."""
    lease = api.lease(bucket, count=9)
    assert lease.put(0, "small", b"x" * 100).status == 201
    lease.put(0, "small", b"other")  # 409
    lease.put(1, "a\0", b"x")
    send("PUT", lease.url_of(2).replace("sig=", "sig=0"), b"x", put_headers("k"))
    raw(port, f"PUT {urlsplit(lease.url_of(3)).path}?{urlsplit(lease.url_of(3)).query} HTTP/1.0\r\n\r\n")
    raw(port, f"PUT {lease.url_of(4)} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\nWarehouse-Key: k\r\n\r\nshort")
    api.put_chunks(bucket, "large", b"y" * (2 * CHUNK_SIZE))
    [found] = api.look_up(bucket, "small").values()
    [get] = found["chunks"][0]["urls"]
    send("GET", get)
    send("GET", get.replace("kid=", "kid=9"))
    put = parse_qs(urlsplit(lease.url).query)
    return {
        "put signature": put["sig"][0],
        "intent": put["intent"][0],
        "get signature": parse_qs(urlsplit(get).query)["sig"][0],
        "lease url": lease.url_of(5),
    }


def _shares(api: Api, bucket: str, url: str) -> dict[str, str]:
    share = api.post("shares", {"bucket": bucket, "key": "small", "password": PASSWORD})
    token = share["url"].rsplit("/", 1)[1]
    for path in ("", "/download", "/content/abc"):
        send("GET", f"{url}/s/{token}{path}")
        send("GET", f"{url}/s/{token}x{path}")
    send(
        "POST",
        f"{url}/s/{token}",
        b"password=" + PASSWORD.encode(),
        {"Content-Type": "application/x-www-form-urlencoded"},
    )
    return {"share": token, "password": PASSWORD}
