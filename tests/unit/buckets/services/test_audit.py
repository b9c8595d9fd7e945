"""What the audit trail tells of buckets, objects, uploads and servers."""

import pytest
from django.db import transaction
from pytest_django import Settings

from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, update_bucket
from buckets.services.objects import delete_objects, update_object
from buckets.services.uploads import abort_upload, create_upload
from keys.actions import Action, Through
from keys.errors import KeyTooStrong
from keys.models import AuditEntry
from keys.permissions import Permission
from keys.selectors import rights_of_row
from keys.services import acting
from keys.services.keys import create_key
from tests.unit.buckets.lab import Lab, Put, chunk_put
from volumes.services.servers import deregister_server, set_admin_state
from volumes.services.store import accept_store, note_behind

pytestmark = pytest.mark.django_db

WHO = acting.Acting(Through.API, "192.0.2.7", "a-request", 77, "somebody")


def told() -> list[tuple[str, str, str]]:
    """What the trail says, oldest first."""
    return list(AuditEntry.objects.order_by("pk").values_list("action", "bucket", "target"))


def only(action: Action) -> AuditEntry:
    return AuditEntry.objects.get(action=action)


def test_every_change_of_buckets_and_objects_is_told(lab: Lab, settings: Settings) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10
    AuditEntry.objects.all().delete()
    with acting.acting_as(WHO):
        create_bucket(name="b", settings=BucketSettings(quota_objects=5))
        update_bucket(name="b", settings=BucketSettings(quota_bytes=None, cors_origins=["*"]))
        delete_bucket(name="b")
        lab.put_many("logs/1", "logs/2", "logs/23")
        update_object(bucket="photos", key="logs/1", metadata={"a": "b"})
        delete_objects(bucket="photos", keys=["logs/2", "logs/23", "nothing"])
        delete_objects(bucket="photos", keys=["nothing"])
        abort_upload(upload_id=create_upload(bucket="photos", holder=lab.rights, key="big", size=40).upload.pk)
    assert told() == [
        ("bucket.create", "b", ""),
        ("bucket.update", "b", ""),
        ("bucket.delete", "b", ""),
        ("object.put", "photos", "logs/"),
        ("object.update", "photos", "logs/1"),
        ("object.delete", "photos", "logs/2"),
        ("upload.abort", "photos", "big"),
    ]
    assert only(Action.BUCKET_UPDATE).detail == {"settings": {"quota_bytes": None, "cors_origins": ["*"]}}
    assert only(Action.OBJECT_DELETE).detail == {"objects": 2, "bytes": 20}
    put = only(Action.OBJECT_PUT)
    assert (put.key_id, put.key_name, put.detail) == (lab.key.pk, "test", {"objects": 3, "bytes": 30})
    others = AuditEntry.objects.exclude(pk=put.pk).values_list("key_id", "key_name", "address", "request_id", "through")
    assert set(others) == {(77, "somebody", "192.0.2.7", "a-request", "api")}


def test_what_is_undone_is_not_told(lab: Lab) -> None:
    before = told()
    with transaction.atomic():
        create_bucket(name="b")
        lab.put("k")
        transaction.set_rollback(True)
    weak = create_key(actor=None, name="weak", permissions=int(Permission.KEYS_MANAGE)).key
    with pytest.raises(KeyTooStrong):
        create_key(actor=rights_of_row(weak), name="strong", permissions=1)
    assert told() == [*before, ("key.create", "", str(weak.pk))]


def test_refused_puts_are_told_apart_by_why(lab: Lab) -> None:
    AuditEntry.objects.all().delete()
    lease = lab.lease(max_bytes=10, prefix="a")
    puts = [Put(lease.url, lease.first + at, 5, f"a{at}") for at in range(3)]
    lab.confirm(
        *puts,
        Put(lease.url, lease.first + 3, 11, "a3"),
        Put(lease.url, lease.first + 4, 5, "b"),
        Put(lease.url, lease.first + 5, 5, "c"),
    )
    lab.confirm(*puts)  # a replay changes nothing
    assert sorted(AuditEntry.objects.values_list("outcome", "target", "bucket")) == [
        ("denied", "a", "photos"),
        ("done", "a", "photos"),
        ("failed", "a", "photos"),
    ]
    details = dict(AuditEntry.objects.values_list("outcome", "detail"))
    assert details == {
        "done": {"objects": 3, "bytes": 15},
        "denied": {"refused": {"key_outside_lease": 2}},
        "failed": {"refused": {"payload_too_large": 1}},
    }


def test_puts_of_several_keys_and_buckets_in_one_batch(lab: Lab) -> None:
    create_bucket(name="other")
    here, there = lab.lease(), lab.lease(bucket="other")
    AuditEntry.objects.all().delete()
    lab.confirm(Put(here.url, here.first, 1, "k"), Put(there.url, there.first, 2, "é"))
    assert sorted(told()) == [("object.put", "other", "é"), ("object.put", "photos", "k")]


def test_an_upload_is_one_put_of_its_object(lab: Lab, settings: Settings) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10
    chunks = create_upload(bucket="photos", holder=lab.rights, key="big", size=25).chunks
    AuditEntry.objects.all().delete()
    for chunk in chunks:
        lab.confirm(chunk_put(chunk))
    assert told() == [("object.put", "photos", "big")]
    assert only(Action.OBJECT_PUT).detail == {"objects": 1, "bytes": 25}


def test_servers_and_the_store_are_told(lab: Lab) -> None:
    AuditEntry.objects.all().delete()
    set_admin_state(server_id=lab.server.pk, admin_state="draining")
    deregister_server(server_id=lab.server.pk, instance="another")
    deregister_server(server_id=lab.server.pk, instance=lab.server.instance)
    note_behind(seen_sequence=1 << 40)
    accept_store()
    server = str(lab.server.pk)
    assert told() == [("server.update", "", server), ("server.deregister", "", server), ("store.accept", "", "")]
