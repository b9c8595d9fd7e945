"""Confirm: every verdict, once and again."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from buckets.errors import DeadlinePassed
from buckets.models import Bucket, Chunk, Object, Outbox
from buckets.services.buckets import create_bucket, delete_bucket
from buckets.services.confirm import confirm_needles
from buckets.services.leases import issue_lease
from buckets.services.objects import delete_objects, update_object
from buckets.verdicts import Committed, Refused, Verdict
from keys.permissions import Permission
from keys.rights import GrantRow
from keys.services.keys import delete_key, update_key
from tests.unit.buckets.lab import Lab, Put, batch_of, intent_text, make_key, require_sound
from tests.unit.volumes.factories import make_server, make_volume
from volume_server.intent import from_text, pack, to_text, unpack
from volumes.models import Store, Volume
from volumes.services.presign import intent_secret


def code(verdict: Verdict) -> str | None:
    return verdict.code if isinstance(verdict, Refused) else None


def with_intent(url: str, change: Callable[[Any], Any], *, secret: bytes | None = None) -> str:
    """The URL with another intent, signed by the master unless ``secret`` is given."""
    text = intent_text(url)
    changed = change(unpack(from_text(text)))
    return url.replace(text, to_text(pack(changed, secret or intent_secret(changed.secret_id))))


def test_a_needle_becomes_an_object(lab: Lab) -> None:
    before = datetime.now(UTC)
    lease = lab.lease(count=1)
    [verdict] = lab.confirm(
        Put(lease.url, lease.first, 7, "a/ü", {"content_type": "text/plain", "metadata": {"colour": "blau ✓"}})
    )
    assert verdict == Committed("photos", "a/ü", 7, f"{lease.first:016x}", verdict.updated_at)  # type: ignore[union-attr]
    row = Object.objects.get()
    assert (row.bucket, row.key, row.size, row.etag) == (lab.bucket, "a/ü", 7, f"{lease.first:016x}")
    assert (row.content_type, row.metadata) == ("text/plain", {"colour": "blau ✓"})
    assert before - timedelta(milliseconds=2) <= row.updated_at <= timezone.now()
    assert row.created_at == row.updated_at
    assert row.sequence == Store.objects.get().sequence
    chunk = Chunk.objects.get()
    assert (chunk.object, chunk.index, chunk.volume, chunk.needle, chunk.size) == (row, 0, lab.volume, lease.first, 7)
    require_sound()


def test_an_overwrite_puts_the_old_needle_into_the_outbox(lab: Lab, settings: Any) -> None:
    first = lab.put("k", size=10)
    old = Chunk.objects.get()
    created_at = Object.objects.get().created_at
    second = lab.put("k", size=30)
    assert isinstance(first, Committed)
    assert isinstance(second, Committed)
    assert first.etag != second.etag
    row = Object.objects.get()
    assert (row.size, row.etag, row.created_at) == (30, second.etag, created_at)
    dead = Outbox.objects.get()
    assert (dead.needle, dead.volume_id, dead.reason) == (old.needle, lab.volume.pk, "overwritten")
    assert dead.verdict == first.as_json()
    # Nobody can have a URL for it any more when its tombstone is written.
    assert dead.not_before >= timezone.now() + timedelta(seconds=settings.WAREHOUSE_GET_SECONDS)
    # And its verdict is remembered for as long as its lease can be used.
    assert dead.keep_until >= timezone.now() + timedelta(
        seconds=settings.WAREHOUSE_LEASE_SECONDS + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS - 5
    )
    require_sound()


def test_of_two_needles_of_one_key_the_later_wins(lab: Lab) -> None:
    lease = lab.lease()
    puts = [Put(lease.url, lease.first + at, 10 + at, "k") for at in range(3)]
    verdicts = lab.confirm(*puts)
    assert [verdict.etag for verdict in verdicts if isinstance(verdict, Committed)] == [
        f"{put.needle:016x}" for put in puts
    ]
    assert Object.objects.get().size == 12
    assert {row.needle: row.verdict for row in Outbox.objects.all()} == {
        put.needle: verdict.as_json() for put, verdict in zip(puts[:2], verdicts[:2], strict=True)
    }
    assert lab.confirm(*puts) == verdicts
    assert Object.objects.get().size == 12
    require_sound()


@pytest.mark.parametrize("happened", ["nothing", "overwritten", "deleted", "changed", "key deleted", "lease expired"])
def test_a_repeated_confirm_gets_its_first_verdict_and_changes_nothing(lab: Lab, happened: str) -> None:
    lease = lab.lease()
    put = Put(lease.url, lease.first, 10, "k")
    [first] = lab.confirm(put)
    if happened == "overwritten":
        lab.put("k")
    elif happened == "deleted":
        delete_objects(bucket="photos", keys=["k"])
    elif happened == "changed":
        update_object(bucket="photos", key="k", metadata={"a": "b"})
    elif happened == "key deleted":
        delete_key(actor=None, key_id=lab.key.pk)
    elif happened == "lease expired":
        put = replace(put, url=with_intent(lease.url, lambda intent: replace(intent, expires_at=1)))
    before = state()
    assert lab.confirm(put, put) == [first, first]
    assert state() == before


def state() -> list[list[Any]]:
    return [list(model.objects.order_by("pk").values()) for model in (Bucket, Object, Chunk, Outbox, Store)]


def test_a_refused_needle_stays_refused(lab: Lab) -> None:
    lab.put("k")
    lease = lab.lease()
    put = Put(lease.url, lease.first, 10, "k", {"if_none_match": True})
    [first] = lab.confirm(put)
    assert code(first) == "precondition_failed"
    dead = Outbox.objects.get()
    assert (dead.needle, dead.reason, dead.verdict) == (lease.first, "refused", first.as_json())
    assert dead.not_before <= timezone.now()
    delete_objects(bucket="photos", keys=["k"])
    assert lab.confirm(put) == [first]
    assert not Object.objects.exists()


def test_a_needle_twice_in_a_batch_is_judged_once(lab: Lab) -> None:
    lease = lab.lease()
    put = Put(lease.url, lease.first, 10, "k")
    first, again = lab.confirm(put, put)
    assert first == again
    assert (Chunk.objects.count(), Outbox.objects.count()) == (1, 0)


def test_a_refusal_spoils_nothing_else_of_the_batch(lab: Lab) -> None:
    lease = lab.lease(max_bytes=10, prefix="in/")
    verdicts = lab.confirm(
        Put(lease.url, lease.first, 10, "in/a"),
        Put(lease.url, lease.first + 1, 11, "in/b"),
        Put(lease.url, lease.first + 2, 10, "out/c"),
        Put(lease.url, lease.first + 3, 10, "in/d"),
        Put(lease.url, lease.first + 100, 10, "in/e"),
        Put(lease.url, lease.first + 4, 10, "in/\0"),
        Put(lease.url, lease.first + 5, 10, "in/" + "x" * 1022),
        Put(lease.url, lease.first + 6, 10, None),
        Put(lease.url, lease.first + 7, 10, "in/f", {"metadata": {"Upper": "x"}}),
        Put(lease.url, lease.first + 8, 10, "in/g", {"content_type": "no type"}),
        Put(lease.url, lease.first + 9, 10, "in/h", {"if_match": '"open'}),
        Put(lease.url, lease.first + 10, 10, "in/\ud800"),
    )
    assert [code(verdict) for verdict in verdicts] == [
        None,
        "payload_too_large",
        "key_outside_lease",
        None,
        "needle_outside_lease",
        "key_invalid",
        "key_invalid",
        "key_invalid",
        "metadata_invalid",
        "metadata_invalid",
        "metadata_invalid",
        "key_invalid",
    ]
    assert sorted(Object.objects.values_list("key", flat=True)) == ["in/a", "in/d"]
    assert Outbox.objects.filter(reason="refused").count() == 10
    require_sound()


def test_preconditions(lab: Lab) -> None:
    assert code(lab.put("k", if_match="*")) == "precondition_failed"
    assert code(lab.put("k", if_match="abc")) == "precondition_failed"
    first = lab.put("k", if_none_match=True)
    assert isinstance(first, Committed)
    assert code(lab.put("k", if_none_match=True)) == "precondition_failed"
    assert code(lab.put("k", if_match='"other"')) == "precondition_failed"
    assert code(lab.put("k", if_match=f'W/"{first.etag}"')) == "precondition_failed"
    second = lab.put("k", if_match=f'"x", "{first.etag}"')
    assert isinstance(second, Committed)
    third = lab.put("k", if_match=second.etag)
    assert isinstance(third, Committed)
    assert code(lab.put("k", if_match=f'"{second.etag}"')) == "precondition_failed"
    assert code(lab.put("k", if_match="*")) is None
    require_sound()


def test_preconditions_see_the_needles_before_in_the_batch(lab: Lab) -> None:
    lease = lab.lease()
    first, second, third = lab.confirm(
        Put(lease.url, lease.first, 1, "k", {"if_none_match": True}),
        Put(lease.url, lease.first + 1, 2, "k", {"if_none_match": True}),
        Put(lease.url, lease.first + 2, 3, "k", {"if_match": f"{lease.first:016x}"}),
    )
    assert [code(verdict) for verdict in (first, second, third)] == [None, "precondition_failed", None]
    assert Object.objects.get().size == 3


def test_quota_in_objects_and_bytes(db: None) -> None:
    lab = Lab.make(quota_objects=2, quota_bytes=100)
    assert code(lab.put("a", size=60)) is None
    assert code(lab.put("b", size=50)) == "quota_exceeded"
    assert code(lab.put("b", size=40)) is None
    assert code(lab.put("c", size=0)) == "quota_exceeded"
    assert code(lab.put("a", size=61)) == "quota_exceeded"
    assert code(lab.put("a", size=10)) is None
    lease = lab.lease()
    puts = [Put(lease.url, lease.first + at, 30, key) for at, key in enumerate(["a", "b", "a"])]
    assert [code(verdict) for verdict in lab.confirm(*puts)] == [None, None, None]
    Bucket.objects.update(quota_objects=0, quota_bytes=10)
    # What is over a quota that was lowered may shrink.
    assert code(lab.put("a", size=29)) is None
    assert code(lab.put("a", size=30)) == "quota_exceeded"
    require_sound()


def test_rights_are_those_of_now(lab: Lab) -> None:
    lease = lab.lease()
    update_key(actor=None, key_id=lab.key.pk, permissions=int(Permission.OBJECTS_READ))
    assert code(lab.confirm(Put(lease.url, lease.first, 1, "k"))[0]) == "permission_denied"
    update_key(actor=None, key_id=lab.key.pk, grants=[GrantRow("photos", "in/", int(Permission.OBJECTS_WRITE))])
    inside, outside = lab.confirm(
        Put(lease.url, lease.first + 1, 1, "in/k"), Put(lease.url, lease.first + 2, 1, "out/k")
    )
    assert (code(inside), code(outside)) == (None, "permission_denied")
    update_key(actor=None, key_id=lab.key.pk, expires_at=timezone.now() - timedelta(seconds=1))
    assert code(lab.confirm(Put(lease.url, lease.first + 3, 1, "in/k"))[0]) == "key_revoked"
    delete_key(actor=None, key_id=lab.key.pk)
    assert code(lab.confirm(Put(lease.url, lease.first + 4, 1, "in/k"))[0]) == "key_revoked"


def test_an_expired_lease_has_its_grace(lab: Lab, settings: Any) -> None:
    lease = lab.lease()
    grace_s = settings.WAREHOUSE_CONFIRM_GRACE_SECONDS
    now = int(time.time())
    late = with_intent(lease.url, lambda intent: replace(intent, expires_at=now - grace_s + 60))
    too_late = with_intent(lease.url, lambda intent: replace(intent, expires_at=now - grace_s - 1))
    verdicts = lab.confirm(Put(late, lease.first, 1, "a"), Put(too_late, lease.first + 1, 1, "b"))
    assert [code(verdict) for verdict in verdicts] == [None, "expired"]


def test_a_tampered_intent_is_refused_and_not_remembered(lab: Lab) -> None:
    lease = lab.lease(count=1)
    for forged in (
        with_intent(lease.url, lambda intent: replace(intent, max_bytes=1 << 30), secret=b"guessed"),
        with_intent(lease.url, lambda intent: replace(intent, secret_id=2)),
        lease.url.replace(intent_text(lease.url), "AAAA"),
        lease.url.replace(intent_text(lease.url), "not/base64"),
    ):
        assert code(lab.confirm(Put(forged, lease.first, 1, "k"))[0]) == "intent_forged"
    assert not Outbox.objects.exists()
    assert code(lab.confirm(Put(lease.url, lease.first, 1, "k"))[0]) is None


def test_only_the_primary_speaks_for_a_volume(lab: Lab) -> None:
    lease = lab.lease()
    stranger = make_server()
    make_volume(stranger)
    put = Put(lease.url, lease.first, 1, "k")
    assert code(lab.confirm(put, server=stranger)[0]) == "not_primary"
    # A stranger's question must not kill the needle.
    assert not Outbox.objects.exists()
    [first] = lab.confirm(put)
    assert code(first) is None
    assert code(lab.confirm(put, server=stranger)[0]) == "not_primary"
    assert lab.confirm(put) == [first]


def test_a_lease_of_an_older_epoch(lab: Lab) -> None:
    lease = lab.lease()
    Volume.objects.filter(pk=lab.volume.pk).update(epoch=2, opened_epoch=2)
    assert code(lab.confirm(Put(lease.url, lease.first, 1, "k"))[0]) == "epoch_stale"


def test_a_volume_that_is_unknown(lab: Lab) -> None:
    lease = lab.lease()
    lost = with_intent(lease.url, lambda intent: replace(intent, volume=4_000_000_000))
    assert code(lab.confirm(Put(lost, lease.first, 1, "k"))[0]) == "not_primary"
    assert not Outbox.objects.exists()


def test_a_bucket_of_the_same_name_is_another_bucket(lab: Lab) -> None:
    lease = lab.lease()
    delete_bucket(name="photos")
    create_bucket(name="photos")
    assert code(lab.confirm(Put(lease.url, lease.first, 1, "k"))[0]) == "bucket_unknown"
    assert not Object.objects.exists()


def test_a_fixed_key_and_an_exact_size(lab: Lab) -> None:
    lease = lab.lease(max_bytes=10)
    fixed = with_intent(lease.url, lambda intent: replace(intent, key="k", key_fixed=True, exact=True))
    verdicts = lab.confirm(
        Put(fixed, lease.first, 9), Put(fixed, lease.first + 1, 10, "other"), Put(fixed, lease.first + 2, 10)
    )
    assert [code(verdict) for verdict in verdicts] == ["size_mismatch", "key_outside_lease", None]
    assert Object.objects.get().key == "k"


def test_after_the_deadline_nothing_is_committed(lab: Lab) -> None:
    lease = lab.lease()
    put = Put(lease.url, lease.first, 1, "k")
    before = state()
    with pytest.raises(DeadlinePassed):
        lab.confirm(put, deadline_ms=int(time.time() * 1000) - 1)
    assert state() == before
    assert code(lab.confirm(put)[0]) is None


def test_keys_of_several_buckets_in_one_batch(lab: Lab) -> None:
    create_bucket(name="other")
    here, there = lab.lease(), lab.lease(bucket="other")
    lab.confirm(
        Put(here.url, here.first, 1, "k"), Put(there.url, there.first, 2, "k"), Put(here.url, here.first + 1, 3, "k")
    )
    assert dict(Object.objects.values_list("bucket__name", "size")) == {"photos": 3, "other": 2}
    require_sound()


def test_two_keys_that_differ_in_case_or_width_are_two(lab: Lab) -> None:
    keys = ["a", "A", "á", "a\u0301", "a ", " a", "ａ", "\U0001f600", "%61", "a/", "/a", "//", "a\nb", "'; --"]
    lab.put_many(*keys)
    assert sorted(Object.objects.values_list("key", flat=True)) == sorted(keys)


def test_the_number_of_statements_does_not_grow_with_the_batch(
    lab: Lab, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in (1, 100):
        lab.put_many(*[f"{number}-{at}" for at in range(number)])
        lease = lab.lease(count=number)
        puts = [Put(lease.url, lease.first + at, 5, f"{number}-{at}") for at in range(number)]
        with django_assert_num_queries(15):
            lab.confirm(*puts)
    assert Outbox.objects.count() == 101
    require_sound()


def test_a_grant_alone_is_enough(lab: Lab) -> None:
    key = make_key(grants=(GrantRow("photos", "", int(Permission.OBJECTS_WRITE)),))
    lab.key = key
    assert code(lab.put("k")) is None


def test_the_sequence_goes_up_by_one_a_commit(lab: Lab) -> None:
    lease = issue_lease(bucket="photos", holder=lab.rights, count=10, max_bytes=10)
    puts = [Put(lease.url, lease.first + at, 1, f"k{at}") for at in range(3)]
    first = confirm_needles(server=lab.server.pk, batch=batch_of(puts)).sequence
    assert set(Object.objects.values_list("sequence", flat=True)) == {first}
    assert confirm_needles(server=lab.server.pk, batch=batch_of(puts)).sequence == first
    last = confirm_needles(server=lab.server.pk, batch=batch_of([Put(lease.url, lease.first + 5, 1, "k0")])).sequence
    assert last == first + 1
    assert Object.objects.get(key="k0").sequence == last
