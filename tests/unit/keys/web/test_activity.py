"""The audit trail as a page."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils.html import escape

from keys.actions import WORDS, Action
from keys.models import AuditEntry
from keys.permissions import ALL_PERMISSIONS, Permission
from keys.services.keys import NewKey
from keys.web import activity

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOSTILE = "a b/<img src=x onerror=alert(1)>\u202e#?%.txt"


@pytest.fixture
def site(client: Client, admin: NewKey) -> Client:
    client.force_login(admin.key)
    AuditEntry.objects.all().delete()
    return client


def entry(minute: int = 0, **values: Any) -> AuditEntry:
    sound = {"at": NOON + timedelta(minutes=minute), "action": "task.run", "through": "api", "outcome": "done"}
    return AuditEntry.objects.create(**{**sound, **values})


def test_every_action_has_words() -> None:
    assert set(WORDS) == set(Action)


def test_an_entry_tells_all_and_runs_nothing(site: Client) -> None:
    entry(
        key_id=7, key_name="<b>seven</b>", action="object.delete", bucket="photos", target=HOSTILE, address="192.0.2.7",
        request_id="req-7", outcome="denied", count=1200, detail={"some_keys": ["<i>", 3], "reason": "<u>no</u>"},
    )  # fmt: skip
    entry(1, action="<script>alert(1)</script>")
    entry(2, action="keys.get", outcome="denied")
    page = site.get("/activity").content.decode()
    assert "GET keys" in page
    for text in ("Delete objects", "denied", "1,200 times", "192.0.2.7", "req-7", "some keys", escape('["<i>", 3]')):
        assert text in page, text
    for raw in ("<b>seven", "<img", "<i>", "<u>", "<script>alert", "\u202e"):
        assert raw not in page.split("<main", 1)[1], raw


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("key=5", [1]),
        ("action=bucket.delete", [2, 3]),
        ("bucket=b&through=web", [4]),
        ("outcome=denied", [3]),
        ("target=Logs/&key=&action=", [3]),
        ("since=2026-05-01T12:02&until=2026-05-01T12:04", [2, 3]),
        ("bucket=nowhere", []),
    ],
)
def test_filters(site: Client, query: str, expected: list[int]) -> None:
    entry(1, key_id=5, request_id="r-1")
    entry(2, action="bucket.delete", request_id="r-2")
    entry(3, action="bucket.delete", bucket="b", outcome="denied", target="Logs/1", request_id="r-3")
    entry(4, action="object.put", bucket="b", target="logs/1", through="web", request_id="r-4")
    page = site.get(f"/activity?{query}").content.decode()
    assert [number for number in range(1, 5) if f"r-{number}" in page] == expected


def test_targets_with_a_page_lead_there(site: Client) -> None:
    entry(1, action="key.update", target="7", detail={"weakened": True, "nothing": None})
    entry(2, action="key.delete", target="8")
    entry(3, action="volume.get", target="<b>/../9", outcome="denied")
    page = site.get("/activity").content.decode()
    assert '<a class="mono clamped" href="/keys/7">key 7</a>' in page
    assert "key 8" in page
    assert "/keys/8" not in page
    assert "volume &lt;b&gt;/../9" in page
    assert '"/volumes/' not in page
    assert "weakened" in page
    assert "nothing" not in page


@pytest.mark.parametrize(
    "query", ["key=x", "key=0", "key=" + "9" * 30, "outcome=odd", "since=soon", "bucket=" + "b" * 64, "target=a%00b"]
)
def test_questions_that_make_no_sense_are_told_so(site: Client, query: str) -> None:
    entry(request_id="r-1")
    whole = site.get(f"/activity?{query}")
    assert whole.status_code == 200
    assert "r-1" not in whole.content.decode()
    part = site.get(f"/activity?{query}", headers={"HX-Request": "true", "HX-Target": "activity-list"})
    assert 'role="alert"' in part.content.decode()


def test_pages_go_to_the_oldest(site: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "PAGE_SIZE", 2)
    for number in range(1, 6):
        entry(number // 2, request_id=f"r-{number}")
    seen: list[int] = []
    url = "/activity?through=api&live=1"
    for _ in range(3):
        page = site.get(url)
        text = page.content.decode()
        seen += sorted((number for number in range(1, 6) if f"r-{number}" in text), reverse=True)
        assert ("data-live" in text) == (len(seen) == 2), "only the newest are live"
        if page.context["next_after"]:
            url = f"/activity?through=api&live=1&after={page.context['next_after']}"
            assert str(page.context["next_after"]) in text
    assert seen == [5, 4, 3, 2, 1]
    assert site.get("/activity?after=x").status_code == 400


def test_only_admins_see_it(client: Client, new_key: Callable[..., NewKey]) -> None:
    client.force_login(new_key(ALL_PERMISSIONS & ~Permission.ADMIN).key)
    assert client.get("/activity").status_code == 403
    assert 'href="/activity"' not in client.get("/").content.decode()
