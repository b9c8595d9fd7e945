"""The audit trail: what is written, by whom, and that it goes with the change."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from buckets.services.buckets import create_bucket
from keys.actions import Action, Outcome, Through
from keys.errors import TokenRefused
from keys.models import AuditEntry, RefreshFamily
from keys.selectors import AUDIT_WINDOW, AuditPlace, list_audit, rights_of_row
from keys.services import acting, audit
from keys.services.keys import NewKey, create_key, delete_key, rotate_keys, update_key
from keys.services.sign_in import issue_tokens, refresh_tokens, revoke_tokens
from keys.tasks import prune_audit

pytestmark = pytest.mark.django_db

WHO = acting.Acting(Through.API, "192.0.2.7", "a-request", 77, "somebody")


def told() -> list[tuple[str, str, str]]:
    """What the trail says, oldest first."""
    return list(AuditEntry.objects.order_by("pk").values_list("action", "bucket", "target"))


def only(action: Action) -> AuditEntry:
    return AuditEntry.objects.get(action=action)


def test_every_change_of_a_key_is_told(admin: NewKey) -> None:
    AuditEntry.objects.all().delete()
    actor = rights_of_row(admin.key)
    made = create_key(actor=actor, name="ci", permissions=3).key
    update_key(actor=actor, key_id=made.pk, permissions=1)
    delete_key(actor=actor, key_id=made.pk)
    rotate_keys()
    target = str(made.pk)
    assert told() == [
        ("key.create", "", target),
        ("key.update", "", target),
        ("key.delete", "", target),
        ("key.rotate", "", ""),
    ]
    changed = only(Action.KEY_UPDATE)
    assert (changed.key_id, changed.key_name, changed.through) == (admin.key.pk, "admin", "command")
    assert (changed.detail["permissions_before"], changed.detail["permissions"]) == (3, 1)
    assert changed.detail["weakened"] is True
    assert only(Action.KEY_ROTATE).key_id is None


def test_an_entry_outlives_its_key_and_holds_no_secret(admin: NewKey) -> None:
    made = create_key(actor=rights_of_row(admin.key), name="ci")
    with acting.acting_as(acting.Acting(key_id=made.key.pk, key_name="ci")):
        create_bucket(name="b")
    pair = issue_tokens(key=made.key)
    delete_key(actor=None, key_id=made.key.pk)
    assert (only(Action.BUCKET_CREATE).key_id, only(Action.BUCKET_CREATE).key_name) == (made.key.pk, "ci")
    everything = str(list(AuditEntry.objects.values()))
    for secret in (made.text, made.text.rsplit("_", 1)[1], made.key.secret_hash, pair.access, pair.refresh):
        assert secret not in everything


def test_signing_in_and_out_are_told(new_key: Callable[..., NewKey]) -> None:
    key = new_key(name="ci").key
    AuditEntry.objects.all().delete()
    pair = issue_tokens(key=key)
    late = issue_tokens(key=key)
    refresh_tokens(refresh=late.refresh)
    RefreshFamily.objects.update(spent_at=timezone.now() - timedelta(minutes=1))
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=late.refresh)
    revoke_tokens(refresh=pair.refresh)
    revoke_tokens(refresh=pair.refresh)
    assert [action for action, *_ in told()] == ["key.sign_in", "key.sign_in", "token.reuse", "key.sign_out"]
    assert set(AuditEntry.objects.values_list("key_id", "key_name")) == {(key.pk, "ci")}
    assert only(Action.TOKEN_REUSE).outcome == Outcome.DENIED


@pytest.mark.parametrize(("first", "last", "common"), [
    ("a/1", "a/1", "a/1"), ("a/1", "a/2", "a/"), ("a", "b", ""), ("a", "ab", "a"), ("日本", "日曜", "日"),
])  # fmt: skip
def test_the_target_of_several_keys_is_what_all_begin_with(first: str, last: str, common: str) -> None:
    assert audit.common_target(first, last) == common


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 5000, "日" * 2000])
def test_odd_texts_can_be_told(text: str) -> None:
    with acting.acting_as(acting.Acting(address=text, key_id=1, key_name=text)):
        audit.record(Action.BUCKET_CREATE, bucket=text, target=text, note=text, notes=[text], more={"a": text})
    entry = AuditEntry.objects.get()
    assert (len(entry.bucket) <= 63, len(entry.target) <= 1024, len(entry.detail["note"]) <= 300) == (True, True, True)


@pytest.mark.parametrize("wrong", [{"outcome": "odd"}, {"through": "odd"}, {"action": ""}, {"count": 0}])
def test_rows_that_cannot_be(wrong: dict[str, Any]) -> None:
    sound = {"at": timezone.now(), "action": "a", "through": "api", "outcome": "done"}
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEntry.objects.create(**{**sound, **wrong})
    AuditEntry.objects.create(**sound, fold="f")
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEntry.objects.create(**sound, fold="f")


def test_scopes_end(client: Client, admin: NewKey) -> None:
    acting.identify(key_id=1, key_name="x")
    assert acting.acting() == acting.Acting()  # outside of a scope nobody would forget it
    with acting.acting_as(WHO):
        acting.identify(key_id=5, key_name="five")
        assert (acting.acting().key_id, acting.acting().address) == (5, "192.0.2.7")
    assert acting.acting() == acting.Acting()
    api = APIClient()
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_tokens(key=admin.key).access}")
    assert api.post("/api/v1/buckets", {"name": "b"}).status_code == 201
    assert acting.acting() == acting.Acting()


def test_who_and_from_where_by_each_door(client: Client, admin: NewKey, settings: Settings) -> None:
    api = APIClient(REMOTE_ADDR="192.0.2.9")
    token = api.post("/api/v1/tokens", {"key": admin.text}).json()["access"]
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    assert api.post("/api/v1/buckets", {"name": "by-api"}, headers={"X-Request-Id": "req-1"}).status_code == 201
    assert client.post("/admin/login/", {"key": admin.text, "next": "/admin/"}).status_code == 302
    bucket = {"name": "by-admin", "visibility": "private", "replication": 1, "cors_origins": "[]"}
    assert client.post("/admin/buckets/bucket/add/", bucket).status_code == 302
    assert client.post("/api/auth/sign-out").status_code == 302
    call_command("createkey", "--name", "by-command")
    rows = {
        (row.action, row.bucket): (row.through, row.key_id, row.key_name, row.address)
        for row in AuditEntry.objects.order_by("pk")
    }
    by_admin = (admin.key.pk, "admin", "127.0.0.1")
    assert rows["bucket.create", "by-api"] == ("api", admin.key.pk, "admin", "192.0.2.9")
    assert rows["bucket.create", "by-admin"] == ("admin", *by_admin)
    assert rows["key.sign_out", ""] == ("web", *by_admin)
    assert rows["key.create", ""] == ("command", None, "", "")
    assert AuditEntry.objects.get(bucket="by-api").request_id == "req-1"
    signed_in = AuditEntry.objects.filter(action=Action.KEY_SIGN_IN).values_list("through", "key_id", "address")
    assert sorted(signed_in) == [("admin", admin.key.pk, "127.0.0.1"), ("api", admin.key.pk, "192.0.2.9")]


def test_tasks_are_a_door_of_their_own() -> None:
    from celery.signals import task_postrun, task_prerun

    task_prerun.send(sender=prune_audit, task_id="some-task", task=prune_audit, args=(), kwargs={})
    assert (acting.acting().through, acting.acting().request_id) == (Through.TASK, "some-task")
    task_postrun.send(
        sender=prune_audit, task_id="some-task", task=prune_audit, args=(), kwargs={}, retval=None, state="SUCCESS"
    )
    assert acting.acting() == acting.Acting()


def entries(count: int, **values: Any) -> None:
    now = timezone.now()
    AuditEntry.objects.bulk_create(
        AuditEntry(**{"at": now - timedelta(seconds=at), "action": "a", "through": "api", "outcome": "done", **values})
        for at in range(count)
    )


def test_old_entries_go(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WAREHOUSE_AUDIT_DAYS = 7
    monkeypatch.setattr(audit, "PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(audit, "MAX_DENIED", 4)
    entries(5, at=timezone.now() - timedelta(days=8))
    entries(6)
    entries(10, outcome="denied")
    prune_audit()
    assert AuditEntry.objects.filter(outcome="done").count() == 6
    assert AuditEntry.objects.filter(outcome="denied").count() == 4
    newest = AuditEntry.objects.filter(outcome="denied").order_by("at")[0]
    assert newest.at > timezone.now() - timedelta(seconds=5)


def test_pages_of_several_filters_are_bounded_and_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keys.selectors.AUDIT_WINDOW", 10)
    entries(95, bucket="b")
    entries(3, bucket="b", target="x/1", key_id=5)
    AuditEntry.objects.filter(target="x/1").update(at=timezone.now() - timedelta(seconds=60))
    seen: list[int] = []
    after = None
    pages = 0
    while pages == 0 or after is not None:
        page = list_audit(limit=2, after=after, bucket="b", target="x/")
        seen += [entry.pk for entry in page.entries]
        after = page.next_after
        pages += 1
    assert sorted(seen) == sorted(AuditEntry.objects.filter(target="x/1").values_list("pk", flat=True))
    assert 9 <= pages <= 12
    assert AUDIT_WINDOW == 10_000


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "audit_at"),
        ({"key_id": 5}, "audit_key"),
        ({"bucket": "b"}, "audit_bucket"),
        ({"action": "bucket.create"}, "audit_action"),
        ({"outcome": "denied"}, "audit_outcome"),
    ],
)
@pytest.mark.parametrize("bounds", ["", "since until after"])
def test_a_page_of_one_filter_is_a_stretch_of_an_index(
    filters: dict[str, Any], index: str, bounds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries(2_000, action="object.put", key_id=1, bucket="most")
    entries(40, **{"key_id": 1, "bucket": "most", **filters})
    if connection.vendor == "postgresql":  # whose planner goes by what the table held when it last looked
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE keys_auditentry")
    if bounds:
        now = timezone.now()
        filters = {**filters, "since": now - timedelta(1), "until": now, "after": AuditPlace(now, 7)}
    plans = []
    fetch = QuerySet._fetch_all

    def explain(rows: Any) -> None:
        if rows.model is AuditEntry and not plans:
            plans.append(rows.explain())
        fetch(rows)

    monkeypatch.setattr(QuerySet, "_fetch_all", explain)
    list_audit(limit=10, **filters)
    [plan] = plans
    assert index in plan
    if connection.vendor == "sqlite":
        assert "TEMP B-TREE" not in plan
        assert "SCAN" not in plan or not filters
    else:
        assert "Seq Scan" not in plan
