"""Bodies nested beyond the decoder's stack are the caller's mistake, at every door."""

import json
from io import BytesIO

import pytest
from django.test import Client
from rest_framework.exceptions import ParseError

from warehouse_site.json_body import BodyParser, parse_json

DEEP = b"[" * 3000


def test_what_can_be_read() -> None:
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    assert BodyParser().parse(BytesIO(b'{"a": [1]}')) == {"a": [1]}


@pytest.mark.parametrize(
    "raw", [b'{"a": 1, "a": 1}', b'{"b": [{"a": 1, "c": 2, "a": 3}]}', b"[NaN]", b"[-Infinity]", b"\xef\xbb\xbf{}"]
)
def test_what_may_mean_two_things(raw: bytes) -> None:
    with pytest.raises(ParseError):
        BodyParser().parse(BytesIO(raw))


@pytest.mark.parametrize("raw", [DEEP, DEEP + b"]" * 3000, b'{"a":' * 3000, b"[", b"\xff"])
def test_what_cannot(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(raw)
    with pytest.raises(ParseError):
        BodyParser().parse(BytesIO(raw))


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["tokens", "tokens/refresh", "internal/register"])
def test_the_answer_is_a_problem(path: str, client: Client) -> None:
    answer = client.post(f"/api/v1/{path}", DEEP, content_type="application/json")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "nested too deeply" in answer.json()["detail"]


@pytest.mark.django_db
def test_a_name_that_stands_twice_is_told(client: Client) -> None:
    answer = client.post("/api/v1/tokens", b'{"key": "a", "key": "b"}', content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "'key' stands twice" in answer.json()["detail"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("charset", "status"),
    [("utf-8", 401), ("UTF8", 401), ('"utf-8"', 401), ("utf-16", 400), ("latin-1", 400), ("bz2", 400), ("none", 400)],
)
def test_text_is_utf8(client: Client, charset: str, status: int) -> None:
    encoding = charset if charset in ("utf-16", "latin-1") else "utf-8"
    body = json.dumps({"key": "ä"}, ensure_ascii=False).encode(encoding)
    answer = client.generic("POST", "/api/v1/tokens", body, content_type=f"application/json; charset={charset}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
