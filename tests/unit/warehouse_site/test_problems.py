from typing import Any

import pytest
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import OperationalError
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework import exceptions as drf
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from keys import errors
from warehouse_site import problems


class Thing(errors.NotFound):
    code = "thing_unknown"
    title = "There is no such thing here"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Invalid, 400), (errors.KeyRefused, 401), (errors.TokenRefused, 401), (errors.PermissionDenied, 403),
        (errors.KeyTooStrong, 403), (errors.NotFound, 404), (Thing, 404), (errors.Conflict, 409),
        (errors.PreconditionFailed, 412), (errors.TooLarge, 413), (errors.TooManyFailures, 429),
        (errors.Unavailable, 503), (errors.NoSpace, 507), (errors.WarehouseError, 500),
    ],
)  # fmt: skip
def test_every_error_has_the_status_of_its_family(error: type[errors.WarehouseError], status: int) -> None:
    assert problems.status_of(error) == status
    assert problems.status_of(error("x")) == status
    assert problems.status_of(error.code) == status


def test_an_unknown_code_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        problems.status_of("never_heard_of")


def every_error(kind: type[errors.WarehouseError] = errors.WarehouseError) -> list[type[errors.WarehouseError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in every_error(child))]


def test_codes_are_stable_words_and_of_one_status_each() -> None:
    import buckets.errors  # noqa: F401
    import volumes.errors  # noqa: F401

    by_code: dict[str, set[int]] = {}
    for error in every_error():
        assert error.code.replace("_", "").isalnum()
        assert error.code.islower()
        assert error.title
        by_code.setdefault(error.code, set()).add(problems.status_of(error))
    assert {code: statuses for code, statuses in by_code.items() if len(statuses) > 1} == {}


def test_a_problem_document_for_plain_views() -> None:
    response = problems.problem_response(Thing("no spoon", spoon=7), RequestFactory().get("/"))
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    import json

    body = json.loads(response.content)
    assert body.pop("request_id")
    assert body == {
        "type": "about:blank",
        "title": "There is no such thing here",
        "status": 404,
        "code": "thing_unknown",
        "detail": "no spoon",
        "spoon": 7,
    }


def test_extras_cannot_take_a_members_place() -> None:
    assert problems.problem(Thing("d", status=200, type="x"))["status"] == 404


@pytest.mark.parametrize(
    ("error", "header"), [(errors.TokenRefused, "WWW-Authenticate"), (errors.Unavailable, "Retry-After")]
)
def test_headers_that_belong_to_a_status(error: type[errors.WarehouseError], header: str) -> None:
    assert header in problems.problem_response(error("x"), None).headers


def handled(error: Exception) -> Any:
    return problems.exception_handler(error, {"request": Request(APIRequestFactory().get("/"))})


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Thing("x"), 404, "thing_unknown"),
        (drf.NotAuthenticated(), 401, "not_authenticated"),
        (drf.AuthenticationFailed(), 401, "token_refused"),
        (drf.PermissionDenied(), 403, "permission_denied"),
        (DjangoPermissionDenied(), 403, "permission_denied"),
        (Http404(), 404, "not_found"),
        (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (drf.NotAcceptable(), 406, "not_acceptable"),
        (drf.ParseError("x"), 400, "bad_request"),
        (drf.UnsupportedMediaType("x"), 415, "unsupported_media_type"),
        (drf.Throttled(wait=7), 429, "too_many_requests"),
        (drf.ValidationError({"a": ["x"]}), 400, "invalid"),
        (OperationalError("database is locked"), 503, "database_unavailable"),
    ],
)
def test_what_the_api_raises_becomes_a_problem(error: Exception, status: int, code: str) -> None:
    response = handled(error)
    assert (response.status_code, response.data["status"], response.data["code"]) == (status, status, code)
    assert "locked" not in str(response.data)
    if status == 429:
        assert response.headers["Retry-After"] == "7"


def test_an_unexpected_error_is_left_to_be_a_500() -> None:
    assert handled(ValueError("secret")) is None


def test_nested_validation_errors_are_named_by_their_path() -> None:
    error = drf.ValidationError(
        {"grants": [{}, {"bucket": ["needed"]}], "name": ["short", "odd"], "non_field_errors": ["all wrong"]}
    )
    assert handled(error).data["errors"] == {
        "grants.1.bucket": ["needed"],
        "name": ["short", "odd"],
        "request": ["all wrong"],
    }
    assert handled(drf.ValidationError(["no"])).data["errors"] == {"request": ["no"]}


def test_what_is_told_of_a_body_is_bounded() -> None:
    """Names and texts may repeat what was sent."""
    told = handled(drf.ValidationError({f"{at}{'x' * 1_000_000}": ["y" * 1_000_000] for at in range(30)})).data
    assert len(told["errors"]) == problems.MAX_FIELDS
    assert len(str(told)) < 50_000
    assert told["detail"].endswith("and more")


def test_unknown_addresses(client: Client) -> None:
    api = client.get("/api/v1/nowhere")
    assert (api.status_code, api.headers["Content-Type"], api.json()["code"]) == (
        404,
        "application/problem+json",
        "not_found",
    )
    page = client.get("/nowhere")
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")


def test_a_crash_shows_nothing_of_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from warehouse_site import views

    def crash(self: object, request: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(views.ApiRoot, "get", crash)
    response = Client(raise_request_exception=False).get("/api/v1")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "internal_error"
    assert b"secret" not in response.content
