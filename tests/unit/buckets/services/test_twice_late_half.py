"""What the worker does with buckets, uploads and shares may be done by two at once, late, or be cut off half-way."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from buckets.models import Bucket, Object, Outbox, Share, Upload
from buckets.services import deletion, shares, uploads
from buckets.services.deletion import close_bucket, delete_closed_buckets
from buckets.services.shares import forget_ended_shares, update_share
from buckets.services.uploads import create_upload, expire_uploads
from keys.models import AuditEntry
from tests.support.races import at_once
from tests.unit.buckets.lab import Lab, chunk_put, require_sound
from tests.unit.buckets.sharing import end, make_maker, share_of

pytestmark = pytest.mark.django_db

COUNT = 6


@pytest.fixture
def overdue(lab: Lab, settings: Any) -> Lab:
    """Uploads of two chunks, one of which is there, and whose time is over."""
    settings.WAREHOUSE_CHUNK_SIZE = 10
    for at in range(COUNT):
        slots = create_upload(bucket="photos", holder=lab.rights, key=f"u{at}", size=20)
        lab.confirm(chunk_put(slots.chunks[0]))
    Upload.objects.update(expires_at=timezone.now() - timedelta(days=1))
    return lab


def require_ended() -> None:
    assert not Upload.objects.filter(state="open").exists()
    assert Outbox.objects.filter(reason="upload_aborted").count() == COUNT
    assert AuditEntry.objects.filter(action="upload.abort").count() == COUNT
    assert Bucket.objects.get().reserved_bytes == 0
    require_sound()


@pytest.mark.django_db(transaction=True)
def test_uploads_are_ended_once_by_whoever_comes(overdue: Lab) -> None:
    assert sum(at_once(*[expire_uploads] * 3)) == COUNT
    require_ended()


def test_an_expiry_that_was_cut_off_is_gone_on_with(overdue: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    add, ended = uploads.add_to_counts, []

    def killed_in_the_third(changes: Any) -> None:
        ended.append(changes)
        add(changes)
        if len(ended) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(uploads, "add_to_counts", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        expire_uploads()
    assert Upload.objects.filter(state="open").count() == COUNT - 2
    require_sound()
    assert expire_uploads() == COUNT - 2
    assert expire_uploads() == 0
    require_ended()


def test_an_upload_that_completes_meanwhile_is_not_ended(overdue: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is late: it has seen the upload as open, and it is an object by the time that its turn comes."""
    abort = uploads.abort_upload

    def completed_first(**given: Any) -> None:
        Upload.objects.filter(pk=given["upload_id"], key="u0").update(state="completed")
        abort(**given)

    monkeypatch.setattr(uploads, "abort_upload", completed_first)
    assert expire_uploads() == COUNT - 1


@pytest.mark.django_db(transaction=True)
def test_buckets_are_deleted_by_several_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "OBJECTS_A_BATCH", 3)
    lab.put_many(*[f"k{at:02}" for at in range(40)])
    close_bucket(name="photos")
    at_once(*[delete_closed_buckets] * 3)
    assert not Bucket.objects.exists()
    assert not Object.objects.exists()
    assert Outbox.objects.filter(reason="deleted").count() == 40
    assert AuditEntry.objects.filter(action="bucket.delete").count() == 1
    require_sound()


class TestShares:
    @pytest.fixture
    def over(self, lab: Lab, settings: Any) -> dict[str, Share]:
        """A share for each way to end, over for a day more than they are kept; and one that is live."""
        settings.WAREHOUSE_SHARE_DAYS = 30
        lab.put("k")
        maker = make_maker()
        long_ago = timezone.now() - timedelta(days=31)
        made = {how: share_of(maker, "k").share for how in ("live", "revoked", "expired", "used up")}
        for how, share in made.items():
            if how != "live":
                end(share, how, at=long_ago)
        Share.objects.filter(pk=made["used up"].pk).update(last_used_at=long_ago)
        return made

    def test_those_that_are_over_for_long_go(self, over: dict[str, Share]) -> None:
        assert forget_ended_shares() == 3
        assert list(Share.objects.all()) == [over["live"]]
        entry = AuditEntry.objects.get(action="share.forget")
        assert entry.detail == {"shares": 3}
        assert forget_ended_shares() == 0
        assert AuditEntry.objects.filter(action="share.forget").count() == 1

    def test_those_that_are_over_for_less_stay(self, over: dict[str, Share], settings: Any) -> None:
        settings.WAREHOUSE_SHARE_DAYS = 32
        assert forget_ended_shares() == 0
        assert Share.objects.count() == 4

    def test_one_that_lives_again_meanwhile_stays(
        self, over: dict[str, Share], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its row was found to be over; it is given a later end before it is deleted."""
        atomic = shares.transaction.atomic

        def extended_first() -> Any:
            monkeypatch.setattr(shares.transaction, "atomic", atomic)
            update_share(share_id=over["expired"].pk, expires_at=timezone.now() + timedelta(days=1))
            return atomic()

        monkeypatch.setattr(shares.transaction, "atomic", extended_first)
        assert forget_ended_shares() == 2
        assert set(Share.objects.all()) == {over["live"], over["expired"]}

    def test_many_go_in_small_commits_and_one_that_was_cut_off_is_gone_on_with(
        self, over: dict[str, Share], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shares, "FORGOTTEN_AT_ONCE", 1)
        told: list[Any] = []
        record = shares.record

        def killed_in_the_second(*given: Any, **detail: Any) -> None:
            told.append(given)
            if len(told) == 2:
                raise KeyboardInterrupt
            record(*given, **detail)

        monkeypatch.setattr(shares, "record", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            forget_ended_shares()
        assert Share.objects.count() == 3  # what was not told was not done
        monkeypatch.setattr(shares, "record", record)
        assert forget_ended_shares() == 2
        assert list(Share.objects.all()) == [over["live"]]
