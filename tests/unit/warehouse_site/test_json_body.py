"""Bodies nested beyond the decoder's stack are the caller's mistake, at every door."""

from io import BytesIO

import pytest
from django.test import Client
from rest_framework.exceptions import ParseError

from warehouse_site.json_body import BodyParser, parse_json

DEEP = b"[" * 3000


def test_what_can_be_read() -> None:
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    assert BodyParser().parse(BytesIO(b'{"a": [1]}')) == {"a": [1]}


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
