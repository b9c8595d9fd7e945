"""Denied tries: written, counted, bounded."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from keys.actions import Action, Through
from keys.models import AuditEntry
from keys.permissions import Permission
from keys.services import acting, denials
from keys.services.denials import note_denied, write_denials
from keys.services.keys import NewKey, delete_key

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clocks, which stand still in the middle of a minute: wall clock and monotonic seconds."""
    now = [1_700_000_030.0, 100.0]
    monkeypatch.setattr(denials, "time", SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[1]))
    return now


def denied() -> list[tuple[str, str, str, int]]:
    write_denials(at_once=True)
    rows = AuditEntry.objects.filter(outcome="denied").order_by("pk")
    return list(rows.values_list("action", "target", "address", "count"))


def from_address(address: str) -> AbstractContextManager[None]:
    return acting.acting_as(acting.Acting(Through.API, address))


def test_equal_tries_of_a_minute_are_one_entry(clocks: list[float]) -> None:
    with from_address("192.0.2.1"):
        for _ in range(5):
            note_denied("object.get", bucket="b", target="k")
        note_denied("object.get", bucket="b", target="other")
        clocks[0] += 60
        note_denied("object.get", bucket="b", target="k")
    with from_address("192.0.2.2"):
        note_denied("object.get", bucket="b", target="k")
    assert sorted(denied()) == [
        ("object.get", "k", "192.0.2.1", 1),
        ("object.get", "k", "192.0.2.1", 5),
        ("object.get", "k", "192.0.2.2", 1),
        ("object.get", "other", "192.0.2.1", 1),
    ]


def test_a_flood_of_one_address_leaves_a_summary() -> None:
    with from_address("192.0.2.1"):
        for at in range(100):
            note_denied("object.get", target=f"k{at}")
    with from_address("192.0.2.2"):
        note_denied("object.get", target="k")
    rows = denied()
    assert len(rows) == denials.ENTRIES_OF_AN_ADDRESS + 2
    assert ("denied.more", "", "192.0.2.1", 100 - denials.ENTRIES_OF_AN_ADDRESS) in rows
    assert ("object.get", "k", "192.0.2.2", 1) in rows


def test_a_flood_of_many_addresses_leaves_a_summary() -> None:
    for at in range(500):
        with from_address(f"2001:db8::{at:x}"):
            note_denied("tokens.post")
    rows = denied()
    assert len(rows) == denials.ENTRIES_IN_ALL + 1
    assert ("denied.more", "", "", 500 - denials.ENTRIES_IN_ALL) in rows


def test_a_flood_costs_a_statement_a_second(clocks: list[float]) -> None:
    with CaptureQueriesContext(connection) as queries, from_address("192.0.2.1"):
        for at in range(1000):
            note_denied("object.get", target=f"k{at}")
        write_denials()
        assert AuditEntry.objects.count() == 1
        clocks[1] += 1
        write_denials()
    inserts = [query for query in queries if "INSERT" in query["sql"]]
    assert len(inserts) <= 2 + denials.ENTRIES_OF_AN_ADDRESS
    assert sum(AuditEntry.objects.values_list("count", flat=True)) == 1000


def test_two_processes_count_together() -> None:
    with from_address("192.0.2.1"):
        note_denied("object.get", target="k")
        write_denials(at_once=True)
        denials.forget_denials()  # as another process, that knows of nothing
        note_denied("object.get", target="k")
    assert denied() == [("object.get", "k", "192.0.2.1", 2)]


def test_a_database_that_cannot_be_written_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError("down")

    with from_address("192.0.2.1"):
        with monkeypatch.context() as broken:
            broken.setattr(denials.transaction, "atomic", fail)
            note_denied("object.get", target="k")
        note_denied("object.get", target="k")
    assert denied() == [("object.get", "k", "192.0.2.1", 2)]


def test_denied_tries_of_the_api(new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]) -> None:
    weak = new_key(Permission.OBJECTS_READ, name="weak")
    client = client_of(weak)
    for method, path, status in (
        ("delete", "buckets/photos", 403),
        ("get", "keys", 403),
        ("get", "keys/7", 403),
        ("delete", "buckets/photos/objects/a%00/b", 403),
        ("get", "buckets/none", 403),
        ("get", "buckets/photos/objects/missing", 404),
        ("post", "buckets", 400),
    ):
        assert getattr(client, method)(f"/api/v1/{path}").status_code == status or "%00" in path, path
    client.get("/api/v1/keys")
    write_denials(at_once=True)
    rows = AuditEntry.objects.filter(outcome="denied", key_id=weak.key.pk, key_name="weak", through="api")
    told = {(row.action, row.bucket, row.target): row.count for row in rows}
    assert told.pop(("keys.get", "", "")) == 2
    assert set(told) == {("bucket.delete", "photos", ""), ("key.get", "", "7"), ("bucket.get", "none", "")}
    assert rows.get(action="key.get").detail["code"] == "permission_denied"


def test_refused_keys_and_tokens(new_key: Callable[..., NewKey], client_of: Callable[[NewKey], APIClient]) -> None:
    new = new_key(name="gone")
    client = client_of(new)
    number, secret = new.key.pk, new.text.rsplit("_", 1)[1]
    AuditEntry.objects.all().delete()
    for text in (f"whk_{number}_wrong", f"whk_999999_{secret}", "nonsense"):
        assert APIClient().post("/api/v1/tokens", {"key": text}).status_code == 401
    assert APIClient().get("/api/v1/keys", headers={"Authorization": "Bearer x.y.z"}).status_code == 401
    assert APIClient().get("/api/v1/keys").status_code == 401  # nothing was tried
    assert APIClient().post("/api/v1/tokens/refresh", {"refresh": "x.y.z"}).status_code == 401
    delete_key(actor=None, key_id=number)
    assert client.get("/api/v1/buckets").status_code == 401
    rows = denied()
    assert sorted(row[:2] for row in rows) == [
        ("buckets.get", ""),
        ("key.sign_in", ""),
        *sorted([("key.sign_in", "999999"), ("key.sign_in", str(number))]),
        ("keys.get", ""),
        ("tokens-refresh.post", ""),
    ]
    everything = str(list(AuditEntry.objects.values()))
    assert secret not in everything
    assert AuditEntry.objects.get(action="buckets.get").key_id == number


def test_a_wrong_id_and_a_wrong_secret_cost_the_same(new_key: Callable[..., NewKey]) -> None:
    new = new_key()
    counts = []
    for text in (f"whk_{new.key.pk}_{'x' * 43}", f"whk_999999_{'x' * 43}"):
        denials.forget_denials()
        with CaptureQueriesContext(connection) as queries:
            assert APIClient().post("/api/v1/tokens", {"key": text}).status_code == 401
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_key_without_admin_at_the_admin_site(new_key: Callable[..., NewKey]) -> None:
    from django.test import Client

    new = new_key(Permission.KEYS_READ)
    AuditEntry.objects.all().delete()
    assert Client().post("/admin/login/", {"key": new.text}).status_code == 200
    assert denied() == [(Action.KEY_SIGN_IN, str(new.key.pk), "127.0.0.1", 1)]
    assert AuditEntry.objects.get().through == "admin"


def test_a_session_without_a_csrf_token_is_told(admin: NewKey) -> None:
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(admin.key)
    AuditEntry.objects.all().delete()
    assert client.post("/api/v1/keys", {"name": "k"}, content_type="application/json").status_code == 403
    write_denials(at_once=True)
    assert AuditEntry.objects.get().key_id == admin.key.pk


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the writers of PostgreSQL do not wait for each other")
def test_nobody_waits_long_for_the_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    def patience_ms() -> int:
        with connection.cursor() as cursor:
            return int(cursor.execute("PRAGMA busy_timeout").fetchone()[0])

    seen: list[int] = []
    atomic = denials.transaction.atomic

    def noting() -> Any:
        seen.append(patience_ms())
        return atomic()

    before = patience_ms()
    monkeypatch.setattr(denials.transaction, "atomic", noting)
    note_denied("object.get", target="k")
    assert seen == [denials.MAX_WAIT_MS]
    assert patience_ms() == before > denials.MAX_WAIT_MS
