from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from keys.models import ApiKey
from keys.permissions import Permission
from keys.services.keys import NewKey
from tests.unit.keys.api.test_tokens import problem

pytestmark = pytest.mark.django_db

READ, MANAGE = Permission.KEYS_READ, Permission.KEYS_MANAGE


@pytest.fixture
def manager(new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]) -> APIClient:
    return client_of(new_key(READ | MANAGE | Permission.OBJECTS_READ, name="manager"))


def test_make_read_change_delete(admin: NewKey, client_of: Callable[[NewKey], APIClient]) -> None:
    client = client_of(admin)
    made = client.post(
        "/api/v1/keys",
        {
            "name": "ci",
            "permissions": 3,
            "grants": [{"bucket": "b", "prefix": " a/", "permissions": 4}],
            "expires_at": "2999-01-01T00:00:00Z",
        },
    )
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    body = made.json()
    assert body["key"].startswith(f"whk_{body['id']}_")
    assert body["grants"] == [
        {"bucket": "b", "prefix": " a/", "permissions": 4, "permission_names": ["OBJECTS_DELETE"]}
    ]
    assert body["created_by"] == admin.key.pk
    assert APIClient().post("/api/v1/tokens", {"key": body["key"]}).status_code == 200

    url = f"/api/v1/keys/{body['id']}"
    shown = client.get(url).json()
    assert "key" not in shown
    assert shown["permission_names"] == ["OBJECTS_READ", "OBJECTS_WRITE"]
    assert "hash" not in str(shown)

    changed = client.patch(url, {"permissions": 1, "grants": []}).json()
    assert (changed["permissions"], changed["grants"], changed["name"]) == (1, [], "ci")
    assert changed["expires_at"] == "2999-01-01T00:00:00Z"
    assert client.delete(url).status_code == 204
    problem(client.get(url), 404, "key_unknown")
    problem(client.patch(url, {"name": "x"}), 404, "key_unknown")
    problem(client.delete(url), 404, "key_unknown")


def test_rights_are_given_by_name_or_number(admin: NewKey, client_of: Callable[[NewKey], APIClient]) -> None:
    client = client_of(admin)
    grants = [{"bucket": "b", "permissions": ["OBJECTS_READ", "share"]}]
    made = client.post("/api/v1/keys", {"name": "k", "permissions": ["KEYS_READ", "keys_manage"], "grants": grants})
    shown = made.json()
    assert (shown["permissions"], shown["permission_names"]) == (768, ["KEYS_READ", "KEYS_MANAGE"])
    [grant] = shown["grants"]
    assert (grant["permissions"], grant["permission_names"]) == (1025, ["OBJECTS_READ", "SHARE"])
    shown.pop("key")
    again = client.patch(f"/api/v1/keys/{shown['id']}", shown)  # what was got can be sent back
    assert (again.status_code, again.json()) == (200, shown)
    for wrong in ({"id": 1}, {"created_by": None}, {"permission_names": []}):
        refused = client.patch(f"/api/v1/keys/{shown['id']}", {"name": "other", **wrong})
        assert list(problem(refused, 400, "invalid")["errors"]) == list(wrong)
    assert client.get(f"/api/v1/keys/{shown['id']}").json() == shown
    assert client.patch(f"/api/v1/keys/{shown['id']}", {"permissions": []}).json()["permissions"] == 0


@pytest.mark.parametrize("permissions", ["OBJECTS_READ", [1], True, {}, "٣"])
def test_what_permissions_are_is_told(
    admin: NewKey, client_of: Callable[[NewKey], APIClient], permissions: Any
) -> None:
    answer = problem(client_of(admin).post("/api/v1/keys", {"name": "k", "permissions": permissions}), 400, "invalid")
    [told] = answer["errors"]["permissions"]
    assert "list of names" in told
    assert "number" in told


def test_a_change_leaves_what_it_does_not_name(admin: NewKey, client_of: Callable[[NewKey], APIClient]) -> None:
    client = client_of(admin)
    made = client.post(
        "/api/v1/keys", {"name": "k", "permissions": 3, "grants": [{"bucket": "b", "permissions": 4}]}
    ).json()
    changed = client.patch(f"/api/v1/keys/{made['id']}", {"name": "other"}).json()
    assert (changed["permissions"], changed["grants"]) == (3, made["grants"])
    assert ApiKey.objects.get(pk=made["id"]).generation == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "k", "permissions": 4096}, "permissions"),
        ({"name": "k", "permissions": -1}, "permissions"),
        ({"name": "k", "permissions": "many"}, "permissions"),
        ({"name": "k", "permissions": True}, "permissions"),
        ({"name": "k", "permissions": ["FLY"]}, "permissions"),
        ({"name": "k", "permissions": [1]}, "permissions"),
        ({"name": "k", "premissions": 1}, "premissions"),
        ({"name": "k", "id": 77}, "id"),
        ({"name": "k", "created_at": "2026-01-01T00:00:00Z"}, "created_at"),
        ({"name": "k", "permissions": 1, "permission_names": ["OBJECTS_READ"]}, "permission_names"),
        (
            {"name": "k", "grants": [{"bucket": "b", "permissions": 1, "permission_names": ["SHARE"]}]},
            "grants.0.permission_names",
        ),
        ({"name": "k", "grants": [{"bucket": "b", "permission_names": ["SHARE"]}]}, "grants.0.permissions"),
        ({"name": "k", "grants": [{"bucket": "b", "permissions": 1, "perfix": "a"}]}, "grants.0.perfix"),
        ({"name": "k", "grants": [{"bucket": "b", "permissions": ["ADMIN"]}]}, "grants.0.permissions"),
        ({"name": "k", "grants": [{"bucket": "b", "permissions": []}]}, "grants.0.permissions"),
        ({"name": "k", "permissions": 1 << 70}, "permissions"),
        ({"name": "k", "grants": [{"permissions": 1}]}, "grants.0.bucket"),
        ({"name": "k", "grants": [{"bucket": "b", "permissions": 2048}]}, "grants.0.permissions"),
        ({"name": "k", "grants": [{"bucket": "b", "permissions": 512}]}, "grants.0.permissions"),
        ({"name": "k", "grants": [{"bucket": "b", "prefix": "é" * 600, "permissions": 1}]}, "grants.0.prefix"),
        ({"name": "k", "grants": "b"}, "grants"),
        ({"name": "k", "expires_at": "soon"}, "expires_at"),
        ({"name": "k", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_bad_bodies_name_the_field(
    admin: NewKey, client_of: Callable[[NewKey], APIClient], body: dict[str, Any], field: str
) -> None:
    answer = problem(client_of(admin).post("/api/v1/keys", body), 400, "invalid")
    assert any(name.startswith(field) for name in answer["errors"]), answer
    assert ApiKey.objects.count() == 1


def test_rights_are_asked_for(new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]) -> None:
    reader, writer, nobody = (client_of(new_key(bits)) for bits in (READ, MANAGE, 4095 & ~(READ | MANAGE | 2048)))
    target = f"/api/v1/keys/{new_key().key.pk}"
    assert reader.get("/api/v1/keys").status_code == 200
    assert reader.get(target).status_code == 200
    assert writer.post("/api/v1/keys", {"name": "k"}).status_code == 201
    for client, method, url in (
        (reader, "post", "/api/v1/keys"),
        (reader, "patch", target),
        (reader, "delete", target),
        (writer, "get", "/api/v1/keys"),
        (writer, "get", target),
        (nobody, "get", "/api/v1/keys"),
        (nobody, "post", "/api/v1/keys"),
        (nobody, "delete", target),
    ):
        problem(getattr(client, method)(url, {"name": "k"}), 403, "permission_denied")


def test_stronger_keys_are_403(manager: APIClient, admin: NewKey) -> None:
    assert manager.post("/api/v1/keys", {"name": "k", "permissions": 1}).status_code == 201
    problem(manager.post("/api/v1/keys", {"name": "k", "permissions": 2}), 403, "key_too_strong")
    problem(manager.post("/api/v1/keys", {"name": "k", "permissions": 2048}), 403, "key_too_strong")
    grant = {"bucket": "b", "permissions": 2}
    problem(manager.post("/api/v1/keys", {"name": "k", "grants": [grant]}), 403, "key_too_strong")
    problem(manager.patch(f"/api/v1/keys/{admin.key.pk}", {"permissions": 0}), 403, "key_too_strong")
    problem(manager.delete(f"/api/v1/keys/{admin.key.pk}"), 403, "key_too_strong")


def test_listing_is_paged_by_id_at_a_constant_cost(
    admin: NewKey,
    new_key: Callable[..., NewKey],
    client_of: Callable[[NewKey], APIClient],
    django_assert_max_num_queries: Any,
) -> None:
    ids = [admin.key.pk, *(new_key().key.pk for _ in range(6))]
    client = client_of(admin)
    client.get("/api/v1/keys")
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        with django_assert_max_num_queries(4):
            page = client.get(f"/api/v1/keys?limit=3&after={after}").json()
        seen += [key["id"] for key in page["results"]]
        after = page["next_after"]
    assert seen == ids
    for query in ("limit=0", "limit=1001", "after=-1", "limit=x"):
        problem(client.get(f"/api/v1/keys?{query}"), 400, "invalid")


@pytest.mark.parametrize(
    ("grant", "status"),
    [
        ({"bucket": "photos", "permissions": 1}, 200),
        ({"bucket": 5}, 400),
        ({"permissions": 1}, 400),
        ({}, 400),
        (5, 400),
        (None, 400),
    ],
)
def test_a_changed_key_has_whole_grants(
    admin: NewKey, new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient], grant: Any, status: int
) -> None:
    """A PATCH names some fields of the key, never some fields of a grant."""
    url = f"/api/v1/keys/{new_key(READ).key.pk}"
    answer = client_of(admin).patch(url, {"grants": [grant]})
    assert answer.status_code == status
    if status == 200:
        [whole] = answer.json()["grants"]
        assert (whole["bucket"], whole["prefix"], whole["permissions"]) == ("photos", "", 1)
    else:
        assert all(field.startswith("grants.0") for field in answer.json()["errors"])


def test_the_last_admin_stays(admin: NewKey, client_of: Callable[[NewKey], APIClient]) -> None:
    client = client_of(admin)
    url = f"/api/v1/keys/{admin.key.pk}"
    problem(client.delete(url), 409, "last_admin")
    problem(client.patch(url, {"permissions": 1}), 409, "last_admin")
    assert client.get(url).json()["permission_names"] == ["ADMIN"]
