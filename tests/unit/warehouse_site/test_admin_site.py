"""Every page of the admin site, of whatever app: it opens, it is safe, and it costs the same however much there is."""

import copy
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.db import connection, transaction
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext, override_settings
from django.urls import reverse
from django.utils import timezone

from buckets.admin.objects import OBJECTS_SEARCHED
from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.services.objects import delete_objects
from buckets.services.uploads import create_upload
from buckets.services.usage import take_sample
from keys.admin_pages import COUNTED, BoundedPaginator
from keys.models import ApiKey, RefreshFamily
from keys.permissions import Permission
from keys.rights import GrantRow
from keys.services.keys import create_key, delete_key
from keys.services.sign_in import issue_tokens
from tests.unit.buckets.lab import Lab, chunk_put, forget_caches, make_key, require_sound
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import ForgottenServer, Server
from volumes.services.background import begin_run, end_run, pulse_worker

pytestmark = pytest.mark.django_db

ODD = ("", "a", "photos/", "photos/a", "00000000000100ff", "1", "%", "'\"", "ü", "-1", "9" * 30, "x" * 2000)
"""What people type into a search box."""
CHANGED_BY_HAND = {"apikey", "bucket", "object", "server"}
ADDED_BY_HAND = {"apikey", "bucket"}
DELETED_BY_HAND = {"apikey", "bucket", "object"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_caches()
    yield
    forget_caches()


@pytest.fixture
def site(client: Client) -> Client:
    client.force_login(make_key(permissions=int(Permission.ADMIN)))
    return client


@pytest.fixture(scope="module")
def filled(django_db_setup: None, django_db_blocker: Any) -> Iterator[Lab]:
    """A store with some of everything, made once, in a transaction of which nothing stays."""
    forget_caches()
    with django_db_blocker.unblock(), override_settings(WAREHOUSE_CHUNK_SIZE=10), transaction.atomic():
        lab = Lab.make()
        fill(lab, 1)
        yield lab
        transaction.set_rollback(True)
    forget_caches()


@pytest.fixture
def full(filled: Lab, db: None) -> Lab:
    """That store; what a test does to it is undone, by the transaction of `db` within the module's."""
    Server.objects.update(last_seen_at=timezone.now())  # the module may take longer than a server may be silent
    return copy.deepcopy(filled)


def fill(lab: Lab, turn: int) -> None:
    """Three rows more of everything."""
    lab.put_many(*(f"{turn}/{n}" for n in range(3)), "b", "<script>alert(1)</script>")
    for n in range(3):
        slots = create_upload(bucket="photos", holder=lab.rights, key=f"u{turn}/{n}", size=20)
        lab.confirm(chunk_put(slots.chunks[0]))
        new = create_key(
            actor=None, name="<script>alert(2)</script>", permissions=3, grants=[GrantRow(f"b{n}", "<p>", 1)]
        )
        issue_tokens(key=new.key)
        gone = create_key(actor=None, name="gone")
        delete_key(actor=None, key_id=gone.key.pk)
        make_volume(make_server(admin_state="draining"))  # nothing is put there: the lab speaks for one server
        Bucket.objects.create(name=f"more-{turn}-{n}")
        begin_run(name=f"a.task.{turn}.{n}", run_id="1", limit_s=9, is_scheduled=False)
        end_run(name=f"a.task.{turn}.{n}", run_id="1", error=ValueError("<script>alert(3)</script>"))
        pulse_worker(name=f"celery@host/{turn}{n}", started_at=timezone.now())
        ForgottenServer.objects.create(pk=uuid4(), node="<script>alert(4)</script>", traffic={"reads": 1})
        take_sample(now=timezone.now() - timedelta(minutes=3 * turn + n))


def models() -> list[type[Model]]:
    return list(admin.site._registry)


def name_of(model: type[Model]) -> str:
    return str(model._meta.model_name)


def url(model: type[Model], view: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}", args=args)


def test_every_kind_of_row_of_the_store_has_its_page() -> None:
    from django.apps import apps

    ours = {model for app in ("keys", "buckets", "volumes") for model in apps.get_app_config(app).get_models()}
    assert ours <= set(models())


def test_the_index_says_what_there_is(site: Client, full: Lab) -> None:
    page = site.get("/admin/").content.decode()
    for model, model_admin in admin.site._registry.items():
        assert model_admin.help_text, model  # type: ignore[attr-defined]
        assert url(model, "changelist") in page
    assert "Servers online" in page
    assert re.sub(r"\s+", " ", page).count("4 of 4") == 1
    Server.objects.filter(pk=full.server.pk).update(last_seen_at=None)
    assert "3 of 4" in re.sub(r"\s+", " ", site.get("/admin/").content.decode())


@pytest.mark.parametrize("model", models(), ids=name_of)
def test_its_pages_open_with_whatever_is_asked_for(site: Client, full: Lab, model: type[Model]) -> None:
    listed = url(model, "changelist")
    filters = re.findall(r'href="(\?[^"]+)"', site.get(listed).content.decode())
    for query in [*(f"?q={text}" for text in ODD), *filters, "?bucket=99999999999999999999", "?order=newest", "?p=999"]:
        page = site.get(listed + query.replace("&amp;", "&"), follow=True)
        assert page.status_code == 200, query
        assert "<script>alert(" not in page.content.decode()
    for row in model._default_manager.all()[:4]:
        for view in ("change", "history"):
            page = site.get(url(model, view, row.pk))
            assert page.status_code == 200
            assert "<script>alert(" not in page.content.decode()
    missing = site.get(url(model, "change", "no-such-row"), follow=True)
    assert "doesn’t exist" in missing.content.decode()


@pytest.mark.parametrize("model", models(), ids=name_of)
def test_what_is_done_by_services_alone_cannot_be_done_by_hand(site: Client, full: Lab, model: type[Model]) -> None:
    name = name_of(model)
    assert site.get(url(model, "add")).status_code == (200 if name in ADDED_BY_HAND else 403)
    row = model._default_manager.first()
    if row is None:
        return
    if name not in CHANGED_BY_HAND:
        assert site.post(url(model, "change", row.pk), {}).status_code == 403
        assert 'name="_save"' not in site.get(url(model, "change", row.pk)).content.decode()
    if name not in DELETED_BY_HAND:
        assert site.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
        chosen = {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
        site.post(url(model, "changelist"), chosen)
        assert model._default_manager.filter(pk=row.pk).exists()


@pytest.mark.parametrize("model", models(), ids=name_of)
def test_a_key_without_admin_gets_no_page(client: Client, full: Lab, model: type[Model]) -> None:
    client.force_login(make_key(permissions=int(Permission.ADMIN) - 1))
    row = model._default_manager.first()
    pages = [url(model, "changelist"), url(model, "add")]
    if row is not None:
        pages += [url(model, view, row.pk) for view in ("change", "delete", "history")]
    for page in pages:
        for answer in (client.get(page), client.post(page, {"post": "yes", "action": "delete_selected"})):
            assert answer.status_code == 302
            assert answer.headers["Location"].startswith("/admin/login/")


def test_a_list_costs_the_same_queries_however_long(site: Client, full: Lab) -> None:
    def queries(model: type[Model]) -> int:
        with CaptureQueriesContext(connection) as seen:
            assert site.get(url(model, "changelist")).status_code == 200
        return len(seen)

    for model in models():
        queries(model)  # the first one remembers content types
    few = {model: queries(model) for model in models()}
    for turn in range(2, 5):
        fill(full, turn)
    for model in models():
        assert queries(model) <= few[model] <= 14, model


@pytest.mark.parametrize("model", models(), ids=name_of)
def test_a_page_costs_the_same_queries_however_much_it_shows(site: Client, full: Lab, model: type[Model]) -> None:
    def queries(row: Model) -> int:
        with CaptureQueriesContext(connection) as seen:
            assert site.get(url(model, "change", row.pk)).status_code == 200
        return len(seen)

    rows = list(model._default_manager.all()[:3])
    for row in rows:
        queries(row)
        assert queries(row) <= 14


LISTS = [
    (Object, ""),
    (Object, "?q=photos/1"),
    (Object, "?q=1/"),
    (Object, "?bucket={bucket}"),
    (Object, "?bucket={bucket}&q=1/"),
    (Object, "?bucket={bucket}&order=newest"),
    (Object, "?p=2"),
    (Chunk, ""),
    (Chunk, "?q=0000000000010000"),
    (Chunk, "?q=photos/1"),
    (Chunk, "?of=uploads"),
    (Chunk, "?object__id__exact=1"),
    (Outbox, ""),
    (Outbox, "?q=0000000000010000"),
    (Outbox, "?state=waiting"),
    (Outbox, "?state=written"),
    (Upload, "?q=00000000-0000-0000-0000-000000000000"),
]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a small table is scanned by PostgreSQL on purpose")
@pytest.mark.parametrize(("model", "query"), LISTS)
def test_long_lists_are_read_by_an_index(
    site: Client, full: Lab, model: type[Model], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a search through the whole table nor a sort of it: those take seconds at a million rows."""
    fill(full, 2)
    monkeypatch.setattr(admin.site._registry[model], "list_per_page", 1)
    with CaptureQueriesContext(connection) as seen:
        assert site.get(url(model, "changelist") + query.format(bucket=full.bucket.pk)).status_code == 200
    table = model._meta.db_table
    ours = [one["sql"] for one in seen if f'FROM "{table}"' in one["sql"]]
    assert ours
    for sql in ours:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN QUERY PLAN " + sql)
            plan = [row[3] for row in cursor.fetchall()]
        for step in plan:
            # Without a condition the first rows that come are the page.
            is_page = " LIMIT " in sql and " WHERE " not in sql
            assert is_page or not step.startswith(f"SCAN {table}") or "USING INDEX" in step, (sql, plan)
            is_short = f"LIMIT {OBJECTS_SEARCHED}" in sql or "q=0000" in query
            assert is_short or "FOR ORDER BY" not in step or "LAST TERM" in step, (sql, plan)


def test_rows_are_counted_so_far_and_no_further(db: None) -> None:
    ApiKey.objects.bulk_create(ApiKey(name="k", secret_hash="x") for _ in range(12))
    keys = ApiKey.objects.filter(name="k").order_by("pk")

    paginator = BoundedPaginator(keys, 5)
    assert (paginator.count, paginator.is_cut, paginator.num_pages) == (12, False, 3)
    with CaptureQueriesContext(connection) as seen:
        assert BoundedPaginator(keys, 5).count == 12
    assert f"LIMIT {COUNTED + 1}" in seen[0]["sql"]


def test_a_cut_count_is_called_one(site: Client, full: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keys.admin_pages.COUNTED", 2)
    page = site.get(url(Object, "changelist")).content.decode()
    assert "the first 2 objects; search or filter for the others" in re.sub(r"\s+", " ", page)
    chosen = {"action": "delete_selected", "_selected_action": "1", "select_across": "1"}
    page = site.post(url(Object, "changelist"), chosen, follow=True).content.decode()
    assert "filter the list first" in page
    assert Object.objects.count() == 5


def act(site: Client, model: type[Model], action: str, *rows: Model, **more: str) -> str:
    chosen = {"action": action, "_selected_action": [row.pk for row in rows], **more}
    return site.post(url(model, "changelist"), chosen, follow=True).content.decode()


def test_actions_that_cannot_be_taken_back_ask_first(site: Client, full: Lab) -> None:
    [key] = ApiKey.objects.filter(name="<script>alert(2)</script>")[:1]
    upload = Upload.objects.filter(state="open")[0]
    for model, action, row in (
        (Bucket, "empty", full.bucket),
        (Upload, "abort", upload),
        (ApiKey, "expire", key),
        (ApiKey, "sign_out", key),
    ):
        page = act(site, model, action, row)
        assert "Yes, do it" in page
        assert f'value="{row.pk}"' in page
        row.refresh_from_db()
    assert full.bucket.object_count == 5
    assert (upload.state, key.expires_at, key.generation) == ("open", None, 1)


def test_a_bucket_is_emptied(site: Client, full: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buckets.admin.buckets.EMPTIED_AT_ONCE", 3)
    monkeypatch.setattr("buckets.services.objects.KEYS_AT_ONCE", 2)
    assert "photos: 3 objects are deleted; there are more" in act(site, Bucket, "empty", full.bucket, post="yes")
    require_sound()
    assert "photos: 2 objects are deleted, it is empty" in act(site, Bucket, "empty", full.bucket, post="yes")
    assert not Object.objects.exists()
    require_sound()
    assert Outbox.objects.filter(reason="deleted").count() == 5


def test_keys_are_expired_and_signed_out(site: Client, full: Lab) -> None:
    key, other = ApiKey.objects.filter(name="<script>alert(2)</script>")[:2]
    assert "it has expired" in act(site, ApiKey, "expire", key, post="yes")
    key.refresh_from_db()
    assert (key.is_active, key.generation) == (False, 2)
    act(site, ApiKey, "sign_out", other, post="yes")
    other.refresh_from_db()
    assert (other.is_active, other.generation) == (True, 2)
    assert not RefreshFamily.objects.filter(key=other).exists()
    me = ApiKey.objects.get(permissions=Permission.ADMIN)
    assert "Make another ADMIN key first" in act(site, ApiKey, "expire", me, post="yes")


def test_sign_ins_are_revoked(site: Client, full: Lab) -> None:
    [family] = RefreshFamily.objects.all()[:1]
    assert "1 signed out" in act(site, RefreshFamily, "revoke", family)
    family.refresh_from_db()
    assert family.revoked_at is not None
    assert "0 signed out" in act(site, RefreshFamily, "revoke", family)


def test_the_workers_tasks_are_run_without_a_choice_of_rows(site: Client, full: Lab) -> None:
    Upload.objects.filter(key="u1/0").update(expires_at=timezone.now() - timedelta(days=1))
    assert "1 overdue uploads were ended" in act(site, Upload, "expire")
    assert sorted(Upload.objects.filter(state="open").values_list("key", flat=True)) == ["u1/1", "u1/2"]
    assert "needles tombstoned" in act(site, Outbox, "collect")
    assert "0 answered, 4 did not" in act(site, Server, "ask_all")


def test_an_object_that_is_saved_unchanged_stays_the_version_that_it_is(site: Client, full: Lab) -> None:
    row = Object.objects.get(key="b")
    assert (
        site.post(url(Object, "change", row.pk), {"content_type": row.content_type, "metadata": "{}"}).status_code
        == 302
    )
    again = Object.objects.get(key="b")
    assert (again.etag, again.sequence, again.updated_at) == (row.etag, row.sequence, row.updated_at)
    site.post(url(Object, "change", row.pk), {"content_type": "text/plain", "metadata": "{}"})
    assert Object.objects.get(key="b").etag != row.etag


def test_what_a_service_refuses_is_an_error_of_the_form(site: Client, full: Lab) -> None:
    form = {"name": "photos", "visibility": "private", "replication": 1, "cors_origins": "[]"}
    page = site.post(url(Bucket, "add"), form)
    assert page.status_code == 200
    assert "errorlist" in page.content.decode()
    page = site.post(url(Bucket, "change", full.bucket.pk), form | {"replication": 70, "quota_bytes": 5})
    text = page.content.decode()
    assert "A number from 1 to 8" in text
    assert 'name="quota_bytes" value="5"' in text  # nothing has to be typed again
    full.bucket.refresh_from_db()
    assert full.bucket.quota_bytes is None
    row = Object.objects.get(key="b")
    page = site.post(url(Object, "change", row.pk), {"content_type": "x", "metadata": '{"A b": "c"}'})
    assert page.status_code == 200
    assert page.content.decode().count("errorlist") >= 2


def test_permissions_are_boxes_with_their_integer(site: Client, full: Lab) -> None:
    key = create_key(actor=None, name="k", permissions=9, grants=[GrantRow("photos", "", 3)]).key
    page = site.get(url(ApiKey, "change", key.pk)).content.decode()
    assert re.findall(r"<output>(\d+)</output>", page) == ["9", "3", "0"]  # the last is the empty form of a new grant
    assert re.findall(r'name="permissions" value="(\d+)"[^>]*checked', page) == ["1", "8"]
    assert "warehouse/permissions.js" in page
    assert "OBJECTS_READ, BUCKETS_READ (9)" in site.get(url(ApiKey, "changelist")).content.decode()


def test_deleting_objects_of_several_buckets_is_one_act(site: Client, full: Lab) -> None:
    rows = list(Object.objects.all())
    act(site, Object, "delete_selected", *rows, post="yes")
    assert not Object.objects.exists()
    require_sound()
    assert delete_objects(bucket="photos", keys=["b"]).missing == ["b"]


def test_a_key_with_many_grants_can_be_saved(site: Client, full: Lab) -> None:
    grants = [GrantRow(f"b{n:03}", "", 63 | 1024) for n in range(200)]
    key = create_key(actor=None, name="k", grants=grants).key
    form: dict[str, Any] = {
        "name": "renamed",
        "description": "",
        "grants-TOTAL_FORMS": 200,
        "grants-INITIAL_FORMS": 200,
    }
    for index, row in enumerate(key.grants.all()):
        line = {"id": row.pk, "key": key.pk, "bucket": row.bucket, "prefix": ""}
        form |= {f"grants-{index}-{name}": value for name, value in line.items()}
        form[f"grants-{index}-permissions"] = [str(1 << bit) for bit in (*range(6), 10)]
    assert site.post(url(ApiKey, "change", key.pk), form).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.generation) == ("renamed", 1)
    assert {row.permissions for row in key.grants.all()} == {63 | 1024}
