from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from keys import selectors
from keys.models import ApiKey
from keys.permissions import Permission
from keys.services.keys import NewKey, delete_key, update_key

pytestmark = pytest.mark.django_db


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "code", "detail"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    return body


def test_sign_in_refresh_and_sign_out(admin: NewKey) -> None:
    client = APIClient()
    response = client.post("/api/v1/tokens", {"key": admin.text})
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    pair = response.json()
    assert set(pair) == {"access", "refresh", "expires_in"}
    assert pair["expires_in"] == 300
    renewed = client.post("/api/v1/tokens/refresh", {"refresh": pair["refresh"]}).json()
    assert set(renewed) == {"access", "refresh", "expires_in"}
    assert client.get("/api/v1/keys", headers={"Authorization": f"Bearer {renewed['access']}"}).status_code == 200
    assert client.post("/api/v1/tokens/revoke", {"refresh": renewed["refresh"]}).status_code == 204
    refused = client.post("/api/v1/tokens/refresh", {"refresh": renewed["refresh"]})
    problem(refused, 401, "token_refused")


def test_wrong_keys_are_401_with_a_challenge(admin: NewKey) -> None:
    for text in ("x", admin.text + "x", "whk_99_x", "whk_1_" + "\U0001f600" * 10):
        response = APIClient().post("/api/v1/tokens", {"key": text})
        problem(response, 401, "key_refused")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": None}, {"key": ["x"]}, {"key": "a\0b"}, [], "x"], ids=str)
def test_bodies_that_are_none_name_the_field(body: Any) -> None:
    assert "errors" in problem(APIClient().post("/api/v1/tokens", body), 400, "invalid")


def test_broken_json_and_other_types() -> None:
    client = APIClient()
    problem(client.post("/api/v1/tokens", "{", content_type="application/json"), 400, "bad_request")
    problem(client.post("/api/v1/tokens", "a=b", content_type="text/plain"), 415, "unsupported_media_type")
    problem(client.get("/api/v1/tokens"), 405, "method_not_allowed")


def test_failed_log_ins_become_429(settings: Settings, admin: NewKey) -> None:
    settings.WAREHOUSE_FAILED_LOGINS = 2
    client = APIClient()
    statuses = [client.post("/api/v1/tokens", {"key": "x"}).status_code for _ in range(6)]
    assert statuses == [401, 401, 429, 429, 429, 429]
    response = client.post("/api/v1/tokens", {"key": "x"})
    problem(response, 429, "too_many_failures")
    assert 1 <= int(response.headers["Retry-After"]) <= 70
    assert client.post("/api/v1/tokens", {"key": admin.text}).status_code == 200


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer x", "Bearer a.b.c", "bearer \xe9", "Basic eDp5", "x"])
def test_without_a_good_token_it_is_401(db: None, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = APIClient().get("/api/v1/keys", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("end", ["deleted", "weakened", "expired"])
def test_a_dead_key_is_401_at_once(
    new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient], end: str
) -> None:
    new = new_key(Permission.KEYS_READ | Permission.SHARE)
    client = client_of(new)
    assert client.get("/api/v1/keys").status_code == 200
    if end == "deleted":
        delete_key(actor=None, key_id=new.key.pk)
    elif end == "weakened":
        update_key(actor=None, key_id=new.key.pk, permissions=int(Permission.KEYS_READ))
    else:
        update_key(actor=None, key_id=new.key.pk, expires_at=timezone.now() - timedelta(seconds=1))
    problem(client.get("/api/v1/keys"), 401, "token_refused")


def test_a_key_deleted_by_another_process_is_401_within_a_second(
    new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = new_key(Permission.KEYS_READ)
    client = client_of(new)
    assert client.get("/api/v1/keys").status_code == 200
    ApiKey.objects.filter(pk=new.key.pk).delete()
    now = selectors.time.monotonic()
    monkeypatch.setattr(selectors.time, "monotonic", lambda: now + 0.99)
    problem(client.get("/api/v1/keys"), 401, "token_refused")


def test_more_rights_need_no_new_token(
    new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]
) -> None:
    new = new_key()
    client = client_of(new)
    problem(client.get("/api/v1/keys"), 403, "permission_denied")
    update_key(actor=None, key_id=new.key.pk, permissions=int(Permission.KEYS_READ))
    assert client.get("/api/v1/keys").status_code == 200


def test_jwks() -> None:
    response = APIClient().get("/.well-known/jwks.json")
    assert response.status_code == 200
    assert [key["kty"] for key in response.json()["keys"]] == ["RSA"]
