"""A database that is older than what volume servers have seen: whatever was changed in it would be undone without a
word when the right one is put back, so nothing is."""

from collections.abc import Callable

import pytest

from buckets.models import Bucket, Object, Share, Upload
from buckets.selectors.objects import get_object
from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, delete_buckets, update_bucket
from buckets.services.deletion import close_bucket, delete_closed_buckets
from buckets.services.downloads import sign_downloads
from buckets.services.groups import Copy, Rename, commit_group
from buckets.services.objects import delete_objects, empty_bucket, update_object
from buckets.services.prefixes import rename_prefix
from buckets.services.shares import revoke_share, update_share
from buckets.services.uploads import abort_upload, create_upload, expire_uploads
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.selectors import rights_of_row
from keys.services.keys import create_key, delete_key, end_sessions, update_key
from keys.services.sign_in import sign_in
from tests.unit.buckets.lab import Lab, Put, forget_caches, make_key, require_sound
from tests.unit.buckets.sharing import make_maker, share_of
from volumes.errors import LeasesHalted
from volumes.models import Store
from volumes.services.store import accept_store, note_behind


@pytest.fixture
def admin(db: None) -> KeyRights:
    return rights_of_row(make_key(permissions=int(Permission.ADMIN)))


def test_nothing_is_changed_and_everything_is_read(lab: Lab, admin: KeyRights) -> None:
    maker = make_maker()
    lab.put_many("a", "b", "dir/c")
    create_bucket(name="empty")
    upload = create_upload(bucket="photos", holder=lab.rights, key="u", size=5).upload
    share = share_of(maker, "a").share
    lease = lab.lease()
    note_behind(seen_sequence=1_000_000)
    forget_caches()  # a place that was looked up a second ago is still given to an upload
    before = [list(model.objects.order_by("pk").values()) for model in (Bucket, Object, Upload, Share, Store, ApiKey)]

    tries: list[Callable[[], object]] = [
        lambda: lab.confirm(Put(lease.url, lease.first, 10, "new")),
        lambda: create_upload(bucket="photos", holder=lab.rights, key="v", size=1),
        lambda: abort_upload(upload_id=upload.pk),
        lambda: delete_objects(bucket="photos", keys=["a"]),
        lambda: empty_bucket(bucket="photos", limit=10),
        lambda: update_object(bucket="photos", key="a", content_type="a/b"),
        lambda: rename_prefix(bucket="photos", prefix="dir/", to_prefix="folder/"),
        lambda: commit_group(bucket="photos", operations=[Copy(source="a", target="copy")]),
        lambda: commit_group(bucket="photos", operations=[Rename(source="a", target="z")]),
        lambda: create_bucket(name="new"),
        lambda: update_bucket(name="photos", settings=BucketSettings(visibility="public-read")),
        lambda: delete_bucket(name="empty"),
        lambda: delete_buckets(names=["empty"]),
        lambda: close_bucket(name="photos"),
        lambda: share_of(maker, "b"),
        lambda: update_share(share_id=share.pk, description="other"),
        lambda: revoke_share(share_id=share.pk),
        lambda: create_key(actor=admin, name="new"),
        lambda: update_key(actor=admin, key_id=lab.key.pk, name="other"),
        lambda: end_sessions(actor=admin, key_id=lab.key.pk),
        lambda: delete_key(actor=admin, key_id=lab.key.pk),
    ]
    for number, job in enumerate(tries):
        with pytest.raises(LeasesHalted, match="Nothing is changed until"):
            pytest.fail(f"number {number} went through: {job()}")
    after = [list(model.objects.order_by("pk").values()) for model in (Bucket, Object, Upload, Share, Store, ApiKey)]
    assert after == before
    require_sound()

    assert get_object(bucket="photos", key="a").size == 10
    assert sign_downloads(bucket="photos", reader=lab.rights, keys=["a"]).found

    accept_store()
    assert delete_objects(bucket="photos", keys=["a"]).deleted == ["a"]
    delete_key(actor=admin, key_id=lab.key.pk)


def test_background_work_waits(lab: Lab) -> None:
    lab.put("a")
    upload = create_upload(bucket="photos", holder=lab.rights, key="u", size=5).upload
    create_bucket(name="closed")
    lab.put("b", bucket="closed")
    close_bucket(name="closed")
    Upload.objects.update(expires_at="2020-01-01T00:00:00Z")
    note_behind(seen_sequence=1_000_000)
    assert expire_uploads() == 0
    assert delete_closed_buckets() is False
    assert Upload.objects.get(pk=upload.pk).state == Upload.State.OPEN
    assert Bucket.objects.filter(name="closed", object_count=1).exists()
    accept_store()
    assert expire_uploads() == 1
    assert delete_closed_buckets() is False
    assert not Bucket.objects.filter(name="closed").exists()


def test_whoever_has_the_machine_gets_in(db: None) -> None:
    """To accept the database, or just to look."""
    note_behind(seen_sequence=1_000_000)
    new = create_key(actor=None, name="first admin key", permissions=int(Permission.ADMIN))
    assert sign_in(key_text=new.text, address="127.0.0.1") == new.key
