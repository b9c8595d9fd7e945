"""The admin site: every page opens, and changes go through the services."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from buckets import tasks
from buckets.models import Bucket, Chunk, Object, Orphan, Outbox, Proof, Share, Sweep, Upload
from buckets.services.buckets import create_bucket
from buckets.services.deletion import close_bucket
from buckets.services.fsck import Checked, Finding
from buckets.services.proofs import keep_proof
from buckets.services.uploads import create_upload
from keys.permissions import Permission
from keys.services.keys import update_key
from tests.unit.buckets.lab import Lab, chunk_put, make_key, require_sound
from tests.unit.buckets.sharing import make_maker, share_of
from volumes.owners import Owner


@pytest.fixture
def site(client: Client, db: None) -> Client:
    client.force_login(make_key(permissions=int(Permission.ADMIN)))
    return client


@pytest.fixture
def full(lab: Lab, settings: Any) -> Lab:
    settings.WAREHOUSE_CHUNK_SIZE = 10
    lab.put_many("a", "b", "b", "<script>alert(1)</script>")
    slots = create_upload(bucket="photos", holder=lab.rights, key="u", size=20)
    lab.confirm(chunk_put(slots.chunks[0]))
    share_of(make_maker(), "<script>alert(1)</script>", password="p", description="<script>alert(1)</script>")
    checked = Checked()
    owner = Owner("photos", "<script>alert(1)</script>", 0)
    checked.add(Finding("missing", "<script>alert(1)</script>", lab.volume.pk, "n1", 5, (owner,)))
    now = timezone.now()
    keep_proof(checked=checked, started_at=now, deep=False, volume_id=None, volume_count=1)
    Sweep.objects.create(volume=lab.volume, listed_at=now, orphan_count=1, held_back=True)
    Orphan.objects.create(needle=7, volume=lab.volume, size=1, appended_at=now, first_seen_at=now, last_seen_at=now)
    return lab


def url(model: str, view: str, *args: object) -> str:
    return reverse(f"admin:buckets_{model}_{view}", args=args)


def action(site: Client, model: str, name: str, *pks: object, **more: str) -> Any:
    return site.post(url(model, "changelist"), {"action": name, "_selected_action": pks, **more}, follow=True)


@pytest.mark.parametrize("model", [Bucket, Object, Chunk, Upload, Outbox, Share, Proof, Sweep, Orphan])
def test_every_page_opens(site: Client, full: Lab, model: Any) -> None:
    name = model._meta.model_name
    for query in ("", "?q=a", "?q=00000000000100ff"):
        page = site.get(url(name, "changelist") + query)
        assert page.status_code == 200
        assert "<script>alert(1)" not in page.content.decode()
    for row in model.objects.all():
        page = site.get(url(name, "change", row.pk))
        assert page.status_code == 200
        assert "<script>alert(1)" not in page.content.decode()


def test_a_needle_is_found_by_its_digits(site: Client, full: Lab) -> None:
    chunk = Chunk.objects.first()
    assert chunk is not None
    page = site.get(url("chunk", "changelist") + f"?q={chunk.needle:016x}").content.decode()
    assert "1 result (" in page


def test_buckets_are_made_changed_and_deleted(site: Client) -> None:
    form = {"name": "new", "visibility": "private", "replication": 1, "cors_origins": '["https://a.example"]'}
    assert site.post(url("bucket", "add"), form).status_code == 302
    row = Bucket.objects.get()
    assert (row.name, row.cors_origins) == ("new", ["https://a.example"])
    change = url("bucket", "change", row.pk)
    assert site.post(change, form | {"name": "other", "quota_bytes": 7, "visibility": "public-read"}).status_code == 302
    row.refresh_from_db()
    assert (row.name, row.quota_bytes, row.visibility) == ("new", 7, "public-read")
    for wrong in (
        {"visibility": "open"},
        {"chunk_size": 1},
        {"replication": 9},
        {"cors_origins": '["x"]'},
        {"cors_origins": "5"},
        {"quota_bytes": -1},
    ):
        page = site.post(change, form | wrong)
        assert page.status_code == 200
        assert "errorlist" in page.content.decode()
    assert site.post(url("bucket", "add"), form | {"name": "No"}).status_code == 200
    assert site.post(url("bucket", "delete", row.pk), {"post": "yes"}).status_code == 302
    assert not Bucket.objects.exists()


def test_a_full_bucket_is_not_deleted(site: Client, full: Lab) -> None:
    page = site.post(url("bucket", "delete", full.bucket.pk), {"post": "yes"}, follow=True)
    assert page.status_code == 200
    # A page that was shown when it was still empty.
    Bucket.objects.update(object_count=0)
    page = site.post(url("bucket", "delete", full.bucket.pk), {"post": "yes"}, follow=True)
    assert "holds" in page.content.decode()
    assert Bucket.objects.exists()


def test_buckets_are_deleted_with_all_that_is_in_them(
    site: Client, full: Lab, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    woken: list[None] = []
    monkeypatch.setattr(tasks.delete_buckets, "delay", lambda: woken.append(None))
    empty = create_bucket(name="empty")
    assert "closed at once" in action(site, "bucket", "delete_all", full.bucket.pk, empty.pk).content.decode()
    assert not Bucket.objects.exclude(deleting_at=None).exists()
    with django_capture_on_commit_callbacks(execute=True):
        page = action(site, "bucket", "delete_all", full.bucket.pk, empty.pk, post="yes").content.decode()
    assert "Bucket photos is closed; 3 objects are being deleted." in page
    assert "Bucket empty was empty and is deleted." in page
    assert woken == [None]
    assert [bucket.is_deleting for bucket in Bucket.objects.all()] == [True]
    assert "is being deleted" in action(site, "bucket", "empty", full.bucket.pk, post="yes").content.decode()
    tasks.delete_buckets()
    assert not Bucket.objects.exists()


def test_buckets_by_their_state(site: Client, full: Lab) -> None:
    create_bucket(name="other")
    close_bucket(name="photos")
    for state, shown in (("open", ["other"]), ("deleting", ["photos"]), ("", ["other", "photos"])):
        page = site.get(url("bucket", "changelist") + f"?state={state}")
        assert sorted(bucket.name for bucket in page.context["cl"].result_list) == shown
    assert "being deleted since" in page.content.decode()


def test_keys_that_cannot_be_seen_are_shown_escaped(site: Client, lab: Lab) -> None:
    lab.put_many("  ", "a\tb\x1b[2J")
    pages = [url("object", "changelist"), url("chunk", "changelist")]
    pages += [url("object", "change", row.pk) for row in Object.objects.all()]
    told = [site.get(page).content.decode() for page in pages]
    for page in (told[0], told[1]):
        assert r"\x20\x20" in page
        assert r"a\tb\x1b[2J" in page
    assert "\x1b" not in "".join(told)
    assert all(r"\x20\x20" in page or r"a\tb\x1b[2J" in page for page in told[2:])


def test_counts_are_verified(site: Client, full: Lab) -> None:
    assert "1 verified" in action(site, "bucket", "verify_counts", full.bucket.pk).content.decode()
    Bucket.objects.update(object_count=4)
    page = action(site, "bucket", "verify_counts", full.bucket.pk).content.decode()
    assert "Bucket photos: objects: 4 kept, 3 found" in page


def test_objects_are_changed_and_deleted_by_the_services(site: Client, full: Lab) -> None:
    row = Object.objects.get(key="a")
    form = {"content_type": "text/plain", "metadata": '{"x": "y"}'}
    prefix = {"chunks-TOTAL_FORMS": 0, "chunks-INITIAL_FORMS": 0}
    assert site.post(url("object", "change", row.pk), form | prefix).status_code == 302
    changed = Object.objects.get(key="a")
    assert (changed.content_type, changed.metadata) == ("text/plain", {"x": "y"})
    assert changed.etag != row.etag
    assert site.post(url("object", "change", row.pk), form | prefix | {"metadata": '{"X": 1}'}).status_code == 200
    assert site.post(url("object", "delete", row.pk), {"post": "yes"}).status_code == 302
    rest = [str(pk) for pk in Object.objects.values_list("pk", flat=True)]
    page = action(site, "object", "delete_selected", *rest)
    assert "&lt;script&gt;" in page.content.decode()
    assert Object.objects.count() == 2
    action(site, "object", "delete_selected", *rest, post="yes")
    assert not Object.objects.exists()
    assert Outbox.objects.filter(reason="deleted").count() == 3
    require_sound()


def test_actions(site: Client, full: Lab) -> None:
    upload = Upload.objects.get()
    assert "Abort uploads" in action(site, "upload", "abort", upload.pk).content.decode()
    upload.refresh_from_db()
    assert upload.state == "open"
    action(site, "upload", "abort", upload.pk, post="yes")
    upload.refresh_from_db()
    assert upload.state == "aborted"
    assert "is over already" in action(site, "upload", "abort", upload.pk, post="yes").content.decode()
    assert "needles tombstoned" in action(site, "outbox", "collect").content.decode()


def test_shares_are_found_shown_without_secrets_and_revoked(site: Client, full: Lab) -> None:
    maker = make_maker()
    share = share_of(maker, "a", max_downloads=5, password="open sesame").share
    for query, found in (
        ("?q=b", 0),
        (f"?q={share.pk}", 1),
        ("?q=%3Cscript", 1),
        ("?state=live", 2),
        ("?state=revoked", 0),
        ("?state=nonsense", 2),
        ("?password=yes", 2),
        ("?password=no", 0),
    ):
        page = site.get(url("share", "changelist") + query).content.decode()
        assert page.count('class="action-select"') == found, query
    page = site.get(url("share", "changelist")).content.decode()
    assert "0 of 5" in page
    assert "maker may not share" not in page
    update_key(actor=None, key_id=maker.pk, permissions=int(Permission.SHARE))
    for path in (url("share", "changelist"), url("share", "change", share.pk)):
        assert "maker may not share" in site.get(path).content.decode()
    page = site.get(url("share", "changelist")).content.decode()
    assert "open sesame" not in page
    page = site.get(url("share", "change", share.pk)).content.decode()
    assert reverse("admin:keys_apikey_change", args=[maker.pk]) in page
    assert share.token_hash not in page
    assert share.password_hash not in page
    assert "end for good" in action(site, "share", "revoke", share.pk).content.decode()
    assert Share.objects.filter(revoked_at=None).count() == 2
    assert "is revoked" in action(site, "share", "revoke", share.pk, post="yes").content.decode()
    assert [row.state for row in Share.objects.order_by("pk")] == ["live", "revoked"]


@pytest.mark.parametrize("model", ["chunk", "upload", "outbox", "share"])
def test_what_services_alone_write_is_read_only(site: Client, full: Lab, model: str) -> None:
    row: Any = {"chunk": Chunk, "upload": Upload, "outbox": Outbox, "share": Share}[model]._default_manager.first()
    assert site.get(url(model, "add")).status_code == 403
    assert site.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert site.post(url(model, "change", row.pk), {}).status_code == 403


def test_others_see_nothing(client: Client, db: None) -> None:
    client.force_login(make_key(permissions=int(Permission.OBJECTS_DELETE | Permission.BUCKETS_WRITE)))
    for model in ("bucket", "object", "chunk", "upload", "outbox", "share"):
        assert client.get(url(model, "changelist")).status_code == 302


def test_a_check_is_asked_for_and_its_verdict_shown(site: Client, full: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(tasks.prove, "delay", lambda: woken.append("prove"))
    page = site.get(url("proof", "changelist")).content.decode()
    assert "1 missing, 0 orphaned, 0 divergent" in page
    assert "not sound" in page
    for name, deep in (("check_now", False), ("check_all_data", True)):
        action(site, "proof", name)
        assert Proof.objects.filter(state="asked", deep=deep).count() == 1
    assert "held_back" in site.get(url("sweep", "changelist")).content.decode()
    link = url("orphan", "changelist") + f"?volume__id__exact={full.volume.pk}"
    assert "0000000000000007" in site.get(link).content.decode()
