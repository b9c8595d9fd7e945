"""The short way of a confirm gives the answers of the whole one, and takes nothing but what volume servers send."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from buckets.models import Object
from tests.unit.buckets.lab import Lab, Put, batch_of, forget_caches
from volume_server.clock import Clock
from volume_server.lane import ConfirmLane
from volume_server.master import Credentials
from volume_server.store import Identity
from volumes.derived_secrets import server_secret
from warehouse_site import gunicorn_worker, lane, logs, wsgi


def sent(body: bytes, *, server: str, kid: int, secret: bytes) -> bytes:
    """All that a volume server's lane puts on the wire for a confirm."""
    credentials = Credentials(Identity(server=server, secrets={str(kid): secret.hex()}, kid=kid), Clock())
    lane_of_server = ConfirmLane("http://master:8000", credentials, asyncio.new_event_loop())
    lane_of_server.loop.close()
    return lane_of_server.request(body)


@pytest.fixture(scope="module")
def spelled() -> bytes:
    return sent(b"{}", server="00000000-0000-4000-8000-000000000000", kid=1, secret=bytes(32))


def test_path_is_the_same_everywhere() -> None:
    assert lane.PATH == gunicorn_worker.LANE_PATH == reverse("internal-confirm")
    assert wsgi.application.lane is lane


def test_head_is_read_as_volume_servers_send_it(spelled: bytes) -> None:
    head = lane.head_of(spelled + b"more")
    assert head is not None
    assert head.claim[:4] == ("POST", lane.PATH, "00000000-0000-4000-8000-000000000000", "1")
    assert (head.body_bytes, spelled[head.body_at :]) == (2, b"{}")
    assert f"X-Request-Id: {head.request_id}\r\n".encode() in spelled


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (rb"POST", b"PUT"),
        (rb"confirm", b"confirm/"),
        (rb"confirm", b"confirm?a=b"),
        (rb"HTTP/1.1", b"HTTP/1.0"),
        (rb"Host: [^\r]*\r\n", b""),
        (rb"Host: ", b"Host:"),
        (rb"Warehouse-Kid: 1", b"warehouse-kid: 1"),
        (rb"Warehouse-Kid: 1\r\n", b""),
        (rb"Warehouse-Kid: 1", b"Warehouse-Kid: \xd9\xa1"),
        (rb"application/json", b"text/plain"),
        (rb"application/json", b"application/json\r\nConnection: close"),
        (rb"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
        (rb"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 3"),
        (rb"Content-Length: 2", b"Content-Length: +2"),
        (rb"Content-Length: 2", b"Content-Length: 99999999"),
        (rb"\r\n", b"\n"),
        (rb"\r\n\r\n{}", b"\r\n"),
        (rb".*", b""),
    ],
)
def test_other_requests_go_the_whole_way(spelled: bytes, pattern: bytes, instead: bytes) -> None:
    changed = re.sub(pattern, lambda _: instead, spelled, count=0 if pattern == rb"\r\n" else 1, flags=re.DOTALL)
    assert changed != spelled
    assert lane.head_of(changed) is None


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        self.headers = dict(line.split(": ", 1) for line in lines)
        assert len(self.headers) == len(lines)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answered(raw: bytes) -> Answer:
    head = lane.head_of(raw)
    assert head is not None
    return Answer(lane.answer(head, raw[head.body_at :]))


def whole_way(raw: bytes) -> Any:
    """What Django's view says to the same bytes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    kind = headers.pop("Content-Type")
    return Client().post(lane.PATH, body, content_type=kind, headers=headers)


def confirm_of(lab: Lab, *keys: str) -> dict[str, Any]:
    """The body of a confirm of new needles, one a key."""
    lease = lab.lease()
    batch = batch_of([Put(lease.url, lease.first + at, key=key) for at, key in enumerate(keys)])
    return {
        "deadline_ms": batch.deadline_ms,
        "intents": batch.intents,
        "needles": [(needle[0], f"{needle[1]:016x}", *needle[2:]) for needle in batch.needles],
    }


@pytest.mark.django_db(transaction=True)
class TestAnswer:
    @pytest.fixture
    def lab(self) -> Lab:
        forget_caches()
        return Lab.make()

    def raw(self, lab: Lab, body: object, *, secret: bytes | None = None) -> bytes:
        text = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        secret = secret or server_secret(lab.server.pk, lab.server.kid)
        return sent(text, server=str(lab.server.pk), kid=lab.server.kid, secret=secret)

    def test_objects_are_committed_and_the_view_repeats_it(self, lab: Lab) -> None:
        raw = self.raw(lab, confirm_of(lab, "a", "ключ/🦊", "b" * 1024))
        answer = answered(raw)
        assert (answer.version, answer.status, answer.reason) == ("HTTP/1.1", 200, "OK")
        assert [verdict["state"] for verdict in answer.json["verdicts"]] == ["committed"] * 3
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert answer.headers["Content-Type"] == "application/json"
        assert f"X-Request-Id: {answer.headers['X-Request-Id']}\r\n".encode() in raw
        assert answer.headers["Date"].endswith(" GMT")
        again = whole_way(raw)
        assert (again.status_code, again.content) == (200, answer.body)
        assert logs.request_id.get() == logs.NO_REQUEST

    @pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"null", b'{"deadline_ms":1}', b"\xff"])
    def test_refusals_are_those_of_the_view(self, lab: Lab, body: bytes) -> None:
        raw = self.raw(lab, body)
        short, whole = answered(raw), whole_way(raw)
        assert short.status == whole.status_code == 400
        assert short.json == whole.json()
        assert short.headers["Content-Type"] == whole.headers["Content-Type"] == "application/problem+json"
        assert short.headers["Content-Length"] == str(len(short.body))

    def test_forged_is_refused_as_by_the_view(self, lab: Lab) -> None:
        raw = self.raw(lab, confirm_of(lab, "a"), secret=b"\1" * 32)
        short, whole = answered(raw), whole_way(raw)
        assert (short.status, short.json["code"]) == (401, "signature_invalid")
        assert short.json == whole.json()
        assert short.headers["WWW-Authenticate"] == whole.headers["WWW-Authenticate"]
        assert not Object.objects.exists()

    def test_signature_covers_the_body(self, lab: Lab) -> None:
        raw = self.raw(lab, confirm_of(lab, "a"))
        assert answered(raw.replace(b'"a"', b'"b"')).json["code"] == "signature_invalid"
        assert not Object.objects.exists()

    def test_what_fails_is_a_500_without_a_trace(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("a secret detail")

        monkeypatch.setattr(lane, "confirmed", fail)
        with caplog.at_level(logging.ERROR):
            answer = answered(self.raw(lab, b"{}"))
        assert (answer.status, answer.json["code"]) == (500, "internal_error")
        assert b"secret detail" not in answer.body
        assert "a secret detail" in caplog.text
        assert logs.request_id.get() == logs.NO_REQUEST

    def test_connection_that_had_an_error_is_looked_at_again(self, lab: Lab) -> None:
        """A database that was restarted must cost one confirm, not all of them."""
        raw = self.raw(lab, confirm_of(lab, "a"))
        before = connection.connection
        assert before is not None
        connection.close_at = 0.0
        assert answered(raw).status == 200
        assert connection.connection is not before
