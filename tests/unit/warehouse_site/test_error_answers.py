"""Whatever is wrong with a request, the answer is a problem document, at every route."""

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from tests.unit.warehouse_site.matrix_routes import ROUTES, Route, values
from tests.unit.warehouse_site.matrix_world import INSIDE, Caller, World
from tests.unit.warehouse_site.test_rights_matrix import FOUND, filled

JSON_ROUTES = [route for route in ROUTES if not route.case and route.name != "docs"]
WITH_BODY = [route for route in JSON_ROUTES if isinstance(route.body, dict) and route.body]


@pytest.fixture
def client(world: World) -> Client:
    from keys.permissions import Permission

    token = world.token_of(Caller(int(Permission.ADMIN)))
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})


def url_of(route: Route, world: World) -> str:
    known = values(world, INSIDE)
    return reverse(FOUND[route.name].full_name, kwargs={name: known[name]() for name in FOUND[route.name].arguments})


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json", (answer, answer.content[:300])
    problem: dict[str, Any] = json.loads(answer.content)
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert {"type", "title", "detail", "request_id"} <= problem.keys()
    return problem


@pytest.mark.parametrize("name", [name for name in FOUND if name != "docs"])
def test_a_method_that_there_is_not(name: str, client: Client, world: World) -> None:
    route = next(route for route in ROUTES if route.name == name)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - FOUND[name].methods:
        answer = client.generic(method, url_of(route, world), "{}", content_type="application/json")
        assert_problem(answer, 405, "method_not_allowed")
        assert FOUND[name].methods <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("route", [route for route in JSON_ROUTES if route.name != "content"], ids=str)
def test_a_form_of_answer_that_there_is_not(route: Route, client: Client, world: World) -> None:
    answer = client.generic(route.method, url_of(route, world), headers={"Accept": "image/png"})
    assert_problem(answer, 406, "not_acceptable")


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_bodies_that_cannot_be_read(route: Route, client: Client, world: World) -> None:
    url = url_of(route, world)
    for body in (b'{"a":', b"\xff\xfe{}", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1' + b"0" * 5000 + b"}"):
        answer = client.generic(route.method, url, body, content_type="application/json")
        assert_problem(answer, 400, "bad_request")
    for media_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
    ):
        answer = client.generic(route.method, url, b"{}", content_type=media_type)
        assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_bodies_that_are_too_large(route: Route, client: Client, world: World, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    answer = client.generic(route.method, url_of(route, world), b"{" + b" " * 200, content_type="application/json")
    assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
@pytest.mark.parametrize("odd", ["\0", "\ud800", "a\0b", {"\0": "\ud800"}, [["\0"]], None, [], {}, 1e300, -1, True])
def test_odd_values_in_every_field(route: Route, odd: object, client: Client, world: World) -> None:
    """None of them is an error of the store, and what is refused is a problem document."""
    body: Any = route.body
    bodies = [{**body, name: odd} for name in body] + [{**body, "odd": odd}, {**body, "\ud800": odd}, odd]
    for sent in bodies:
        raw = filled(json.dumps(sent), values(world, INSIDE))
        answer = client.generic(route.method, url_of(route, world), raw, content_type="application/json")
        assert answer.status_code < 500, (raw, answer.content[:300])
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json", raw
            json.loads(answer.content)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/keys/", "/api/v1/nowhere", "/api/no", "/api/v1/buckets/", "/api/v1/buckets/a%00b", "/api/v1/keys/x",
        "/api/v1/keys/" + "9" * 5000, "/api/v1/volumes/0", "/api/v1/servers/1", "/api/v1/uploads/-", "/.well-known/x",
        "/api/v1/internal/nowhere", "/api/v1/\xff",
    ],
)  # fmt: skip
def test_paths_that_there_are_not(path: str, client: Client) -> None:
    for method in ("GET", "POST"):
        assert_problem(client.generic(method, path), 404, "not_found")


@pytest.mark.parametrize("path", ["/api/v1/keys/99999999999999999999999", "/api/v1/buckets/%ED%A0%80/objects"])
def test_things_that_there_are_not(path: str, client: Client) -> None:
    answer = client.get(path)
    assert_problem(answer, 404, answer.json()["code"])


@pytest.mark.parametrize("query", ["%FF", "prefix=%ED%A0%80", "%C3=1", "prefix=a&after=%FE"])
def test_queries_that_are_not_utf8(query: str, client: Client) -> None:
    assert_problem(client.get("/api/v1/buckets/own/objects?" + query), 400, "bad_request")


def test_a_plus_in_a_query_is_a_space_and_utf8_is_welcome(client: Client) -> None:
    assert client.get("/api/v1/buckets/own/objects?prefix=a+b%C3%A9").status_code == 200
