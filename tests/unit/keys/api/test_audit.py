"""The audit trail as the API lists it and the admin site shows it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from keys.models import AuditEntry
from keys.permissions import ALL_PERMISSIONS, Permission
from keys.services import acting, audit
from keys.services.keys import NewKey
from tests.unit.keys.api.test_tokens import problem

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
URL = "/api/v1/audit"


@pytest.fixture
def reader(admin: NewKey, client_of: Callable[[NewKey], APIClient]) -> APIClient:
    client = client_of(admin)
    AuditEntry.objects.all().delete()
    return client


def entry(minute: int = 0, **values: Any) -> int:
    sound = {"at": NOON + timedelta(minutes=minute), "action": "a.b", "through": "api", "outcome": "done"}
    return AuditEntry.objects.create(**{**sound, **values}).pk


def ids(client: APIClient, **query: object) -> list[int]:
    """Of all pages of a question."""
    found: list[int] = []
    after: str | None = None
    while True:
        page = client.get(URL, {**query, **({} if after is None else {"after": after})})
        assert page.status_code == 200, page.content
        found += [one["id"] for one in page.json()["results"]]
        after = page.json()["next_after"]
        if after is None:
            return found


def test_an_entry_tells_all(reader: APIClient) -> None:
    with acting.acting_as(acting.Acting(acting.Through.API, "192.0.2.7", "req-7", 7, "seven")):
        audit.record(audit.Action.BUCKET_DELETE, bucket="b", target="t", grants=2)
    [shown] = reader.get(URL).json()["results"]
    assert shown.pop("at").endswith("Z")
    assert shown.pop("id") > 0
    assert shown == {
        "key": 7,
        "key_name": "seven",
        "action": "bucket.delete",
        "bucket": "b",
        "target": "t",
        "address": "192.0.2.7",
        "request_id": "req-7",
        "through": "api",
        "outcome": "done",
        "detail": {"grants": 2},
        "count": 1,
    }


def test_pages_go_from_the_newest_to_the_oldest(reader: APIClient) -> None:
    late, early = entry(2), entry(0)
    same = [entry(1) for _ in range(5)]
    assert ids(reader, limit=2) == [late, *reversed(same), early]
    assert ids(reader, limit=1000) == [late, *reversed(same), early]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"key": 5}, [1]),
        ({"action": "bucket.delete"}, [2, 3]),
        ({"action": "object.put"}, [4]),
        ({"bucket": "b"}, [3, 4]),
        ({"outcome": "denied"}, [3]),
        ({"outcome": "done"}, [1, 2, 4]),
        ({"since": "2026-05-01T12:02:00Z"}, [2, 3, 4]),
        ({"until": "2026-05-01T12:02:00Z"}, [1]),
        ({"since": "2026-05-01T12:02:00Z", "until": "2026-05-01T12:04:00Z"}, [2, 3]),
        ({"target": "Logs/"}, [3]),
        ({"target": "logs/"}, [4]),
        ({"bucket": "b", "action": "bucket.delete", "target": "Logs"}, [3]),
        ({"bucket": "b", "key": 5}, []),
        ({"bucket": "nowhere"}, []),
        ({"through": "web"}, [1]),
        ({"through": "web", "key": 5, "outcome": "done"}, [1]),
    ],
    ids=str,
)
def test_filters(reader: APIClient, query: dict[str, Any], expected: list[int]) -> None:
    rows = {
        1: entry(1, key_id=5, through="web"),
        2: entry(2, action="bucket.delete"),
        3: entry(3, action="bucket.delete", bucket="b", outcome="denied", target="Logs/1"),
        4: entry(4, action="object.put", bucket="b", target="logs/1"),
    }
    assert ids(reader, **query) == [rows[number] for number in reversed(expected)]


@pytest.mark.parametrize(
    "query",
    [
        "after=x", "after=1", "after=-", "after=1-x", "after=" + "9" * 19 + "-1", "after=1-" + "9" * 40, "limit=0",
        "limit=1001", "limit=x", "key=x", "key=0", "key=" + "9" * 30, "outcome=odd", "since=soon", "until=9",
        "through=odd", "target=a%00b", "bucket=" + "b" * 64,
    ],
)  # fmt: skip
def test_questions_that_make_no_sense(reader: APIClient, query: str) -> None:
    assert "errors" in problem(reader.get(f"{URL}?{query}"), 400, "invalid")


def test_only_admins_read_it(new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]) -> None:
    client = client_of(new_key(ALL_PERMISSIONS & ~Permission.ADMIN))
    problem(client.get(URL), 403, "permission_denied")
    assert APIClient().get(URL).status_code == 401


def test_what_was_denied_just_now_is_in_the_list(reader: APIClient) -> None:
    for _ in range(3):
        problem(APIClient().get("/api/v1/keys", headers={"Authorization": "Bearer x.y.z"}), 401, "token_refused")
        problem(APIClient().post("/api/v1/tokens", {"key": "nonsense"}), 401, "key_refused")
    told = {(one["action"], one["outcome"]): one["count"] for one in reader.get(URL).json()["results"]}
    assert told == {("keys.get", "denied"): 3, ("key.sign_in", "denied"): 3}


@pytest.fixture
def site(client: Client, admin: NewKey) -> Client:
    client.force_login(admin.key)
    return client


def test_the_admin_site_shows_it_and_changes_nothing(site: Client, admin: NewKey) -> None:
    listed = reverse("admin:keys_auditentry_changelist")
    entry(1, key_id=admin.key.pk, key_name="some<b>body", bucket="photos", target="<i>", detail={"code": "<u>"})
    number = entry(2, outcome="denied", key_id=987654)
    for query in ("", "?q=photos", "?outcome=denied", "?through=api", "?action=key.create", "?at__year=2026"):
        page = site.get(listed + query)
        assert page.status_code == 200, query
    html = site.get(listed + "?q=photos").content.decode()
    assert reverse("admin:keys_apikey_change", args=[admin.key.pk]) in html
    assert f"{reverse('admin:buckets_bucket_changelist')}?q=photos" in html
    assert "<u>" not in html
    assert "some<b>body" not in html
    assert "987654" not in html
    page = reverse("admin:keys_auditentry_change", args=[number])
    assert site.get(page).status_code == 200
    before = list(AuditEntry.objects.values())
    assert site.post(page, {"action": "other"}).status_code == 403
    assert site.post(reverse("admin:keys_auditentry_delete", args=[number]), {"post": "yes"}).status_code == 403
    assert site.get(reverse("admin:keys_auditentry_add")).status_code == 403
    site.post(listed, {"action": "delete_selected", "_selected_action": [number], "post": "yes"})
    assert [row for row in AuditEntry.objects.values() if row["outcome"] == "done" or row["id"] == number][-2:]
    assert {row["id"] for row in before} <= set(AuditEntry.objects.values_list("pk", flat=True))
