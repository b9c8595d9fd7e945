"""Secrets do not get into log lines, in whatever form they come."""

import io
import json
import logging
import logging.config
from collections.abc import Iterator

import pytest
import requests

from volume_server import logs as volume_server_logs
from volume_server.redaction import redacted
from warehouse_site import logs as master_logs

SIG = "0123456789abcdef" * 4
KEY = "whk_7_" + "Ab-_" * 11
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_x"
TOKEN = "q" * 43


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (f"GET /1/00a?etag=x&exp=9&key=7.1&kid=1&sig={SIG}", "GET /1/00a?etag=x&exp=9&key=7.1&kid=1&sig=***"),
        (f"PUT /1/a?exp=9&intent=AbC-_&kid=1&sig={SIG} HTTP/1.1", "PUT /1/a?exp=9&intent=***&kid=1&sig=*** HTTP/1.1"),
        (f"the key {KEY} is odd", "the key whk_7_*** is odd"),
        (f"?key={KEY}&x=1", "?key=***&x=1"),
        (f"token {JWT}.", "token ***."),
        (f"Authorization: Bearer {JWT}", "Authorization: ***"),
        (f"Not Found: /s/{TOKEN}/content/abc", "Not Found: /s/***"),
        (f"at http://store.example/s/{TOKEN}?x", "at http://store.example/s/***?x"),
        ("postgres://me:hidden@host/name", "postgres://***@host/name"),
        ("Cookie: sessionid=abc; csrftoken=def", "Cookie: ***"),
        (f"Warehouse-Signature: {SIG}", "Warehouse-Signature: ***"),
        (f"signed {SIG}", "signed ***"),
        # What is none stays.
        ("needle 00000000000a0001 of volume 3: timeout", "needle 00000000000a0001 of volume 3: timeout"),
        ("key 7 was made; 12 keys", "key 7 was made; 12 keys"),
        ("/data/s/volumes", "/data/s/volumes"),
        ("server 0f8fad5b-d9cb-469f-a165-70867728950e at http://n1:80", "server 0f8fad5b-d9cb-469f-a165-70867728950e at http://n1:80"),
    ],
)  # fmt: skip
def test_what_is_left_of_a_line(line: str, left: str) -> None:
    assert redacted(line) == left
    assert json.loads(redacted(json.dumps({"message": line}))) == {"message": left}


@pytest.fixture(params=["master text", "master json", "volume server text", "volume server json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the real configuration writes to stderr."""
    part, _, style = request.param.rpartition(" ")
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    if part == "master":
        logging.config.dictConfig(master_logs.configuration(style))
    else:
        volume_server_logs.configure_logging(style)
    yield stream
    root.handlers[:], root.level = before


def test_neither_messages_nor_errors_nor_their_causes_tell(written: io.StringIO) -> None:
    log = logging.getLogger("some.library")
    log.warning("Invalid request: %r", f"GET /1/2?sig={SIG} HTTP/9")
    try:
        try:
            _fail()
        except requests.ConnectionError as error:
            raise RuntimeError(f"{KEY} did not help") from error
    except RuntimeError:
        log.exception("it failed", extra={"header": f"Bearer {JWT}"})
    text = written.getvalue()
    assert "it failed" in text
    assert "Max retries exceeded" in text
    for secret in (SIG, "intent=abc", KEY, JWT):
        assert secret not in text


def _fail() -> None:
    raise requests.ConnectionError(f"Max retries exceeded with url: /1/2?intent=abc&sig={SIG}")
