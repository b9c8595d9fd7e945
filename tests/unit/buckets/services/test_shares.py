"""Shares: what is kept of them, what ends them, and the password."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from buckets.errors import (
    BucketUnknown,
    Busy,
    ObjectUnknown,
    ShareOver,
    SharePasswordRefused,
    ShareRevoked,
    ShareUnknown,
)
from buckets.models import Bucket, Share
from buckets.selectors import shares as share_selectors
from buckets.selectors.shares import STATES_BY_TERMS, list_shares, newest_shares, shares_in
from buckets.services import passwords
from buckets.services.buckets import create_bucket, delete_bucket
from buckets.services.objects import delete_objects
from buckets.services.share_access import (
    check_share_password,
    find_shared,
    hand_out,
    issue_pass,
    open_share,
    pass_is_good,
    redeem_ticket,
)
from buckets.services.shares import create_share, revoke_share, update_share
from keys.errors import Invalid, TooManyFailures
from keys.models import ApiKey
from tests.unit.buckets.lab import Lab
from tests.unit.buckets.sharing import ENDINGS, end, make_maker, share_of


@pytest.fixture
def maker(db: None) -> ApiKey:
    return make_maker()


@pytest.fixture
def shared(lab: Lab, maker: ApiKey) -> Lab:
    lab.put_many("a", "dir/b")
    return lab


def test_neither_link_nor_password_is_kept(shared: Lab, maker: ApiKey) -> None:
    new = share_of(maker, "a", password="open sesame")
    other = share_of(maker, "a", password="open sesame")
    assert len(new.token) * 5.9 > 128, "bits of chance"
    assert new.token != other.token
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM buckets_share")
        kept = repr(cursor.fetchall())
    assert new.token not in kept
    assert "open sesame" not in kept
    assert new.share.password_hash != other.share.password_hash


def test_few_passwords_are_hashed_at_a_time(shared: Lab, maker: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = share_of(maker, "a", password="x").share
    monkeypatch.setattr(passwords, "_hashing", threading.BoundedSemaphore(1))
    with passwords._a_turn():
        with pytest.raises(Busy):
            share_of(maker, "a", password="x")
        with pytest.raises(Busy):
            update_share(share_id=locked.pk, password="y")
        with pytest.raises(Busy):
            check_share_password(share=locked, password="x", address="192.0.2.1")
        share_of(maker, "a")
    share_of(maker, "a", password="x")
    assert Share.objects.count() == 3


def test_a_share_is_of_an_object_that_is_there(shared: Lab, maker: ApiKey) -> None:
    with pytest.raises(ObjectUnknown):
        share_of(maker, "none")
    with pytest.raises(BucketUnknown):
        create_share(maker=shared.rights, maker_name="x", bucket="none", key="a")
    assert not Share.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", ""),
        ("key", "a\0b"),
        ("expires_at", timezone.now() - timedelta(seconds=1)),
        ("max_downloads", 0),
        ("max_downloads", -1),
        ("max_downloads", 1 << 31),
        ("password", ""),
        ("password", "x" * 257),
        ("password", "\ud800"),
        ("password", "a\0b"),
        ("description", "x" * 501),
        ("description", "\0"),
        ("description", "\udfff"),
    ],
)
def test_terms_that_cannot_be(shared: Lab, maker: ApiKey, field: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        share_of(maker, **{"key": "a", field: value})
    assert list(caught.value.extra["errors"]) == [field]  # type: ignore[call-overload]
    if field != "key":
        share = share_of(maker, "a").share
        with pytest.raises(Invalid):
            update_share(share_id=share.pk, **{field: value})


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_a_share(shared: Lab, maker: ApiKey, ending: str) -> None:
    new = share_of(maker, "dir/b", expires_at=timezone.now() + timedelta(hours=1), max_downloads=2)
    opened = open_share(token=new.token)
    found = find_shared(opened=opened)
    end(new.share, ending, at=timezone.now())
    with pytest.raises(ShareOver):
        open_share(token=new.token)
    if ending in ("revoked", "expired", "used up"):
        # Known to be live a moment ago: the count itself says no.
        with pytest.raises(ShareOver):
            hand_out(opened=opened, found=found)
        state = ending.replace(" ", "_")
        assert Share.objects.get().state == state
        assert [state for state in STATES_BY_TERMS if Share.objects.filter(shares_in(state, now=timezone.now()))] == [
            state
        ]


def test_what_it_leads_to_is_what_the_key_holds_now(shared: Lab, maker: ApiKey) -> None:
    new = share_of(maker, "a")
    opened = open_share(token=new.token)
    first = find_shared(opened=opened)
    shared.put("a", size=77)
    assert find_shared(opened=opened).size == 77
    assert find_shared(opened=opened).etag != first.etag
    delete_objects(bucket="photos", keys=["a"])
    with pytest.raises(ShareUnknown) as gone:
        find_shared(opened=opened)
    with pytest.raises(ShareUnknown) as never:
        open_share(token="x" * 43)
    assert gone.value.detail == never.value.detail
    shared.put("a", size=5)
    assert find_shared(opened=open_share(token=new.token)).size == 5
    Bucket.objects.update(deleting_at=timezone.now())
    with pytest.raises(ShareUnknown):
        find_shared(opened=open_share(token=new.token))


def test_downloads_are_counted_up_to_the_limit(shared: Lab, maker: ApiKey) -> None:
    new = share_of(maker, "a", max_downloads=2)
    opened = open_share(token=new.token)
    found = find_shared(opened=opened)
    for count in (1, 2):
        assert hand_out(opened=opened, found=found).url
        share = Share.objects.get()
        assert share.download_count == count
        assert share.last_used_at is not None
    with pytest.raises(ShareOver):
        hand_out(opened=opened, found=found)
    assert Share.objects.get().download_count == 2
    update_share(share_id=new.share.pk, max_downloads=3)
    assert open_share(token=new.token).share.downloads_left == 1
    with pytest.raises(Invalid):
        update_share(share_id=new.share.pk, max_downloads=1)


def test_terms_are_changed_one_by_one(shared: Lab, maker: ApiKey) -> None:
    soon = timezone.now() + timedelta(hours=1)
    new = share_of(maker, "a", expires_at=soon, max_downloads=1, password="p", description="d")
    update_share(share_id=new.share.pk, description="e")
    share = Share.objects.get()
    assert (share.expires_at, share.max_downloads, share.has_password, share.description) == (soon, 1, True, "e")
    update_share(share_id=share.pk, expires_at=None, max_downloads=None, password=None)
    share = Share.objects.get()
    assert (share.expires_at, share.max_downloads, share.has_password, share.description) == (None, None, False, "e")
    update_share(share_id=share.pk)
    with pytest.raises(ShareUnknown):
        update_share(share_id=share.pk + 1, description="")


def test_revoking_is_for_good(shared: Lab, maker: ApiKey) -> None:
    new = share_of(maker, "a")
    at = revoke_share(share_id=new.share.pk).revoked_at
    assert revoke_share(share_id=new.share.pk).revoked_at == at
    with pytest.raises(ShareRevoked):
        update_share(share_id=new.share.pk, expires_at=None)
    with pytest.raises(ShareUnknown):
        revoke_share(share_id=new.share.pk + 1)


def test_a_pass_stands_for_one_password_of_one_share(shared: Lab, maker: ApiKey) -> None:
    one, two = (share_of(maker, "a", password="p").share for _ in range(2))
    text = issue_pass(share=one)
    assert pass_is_good(share=one, text=text)
    for wrong in ("", "1", text[:-1], text + "x", text.replace("1", "2", 1), "ü"):
        assert not pass_is_good(share=one, text=wrong)
    assert not pass_is_good(share=two, text=text)
    assert not pass_is_good(share=update_share(share_id=one.pk, password="p"), text=text)


def test_a_ticket_outlives_the_limit_and_nothing_else(lab: Lab, maker: ApiKey, settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 100
    lab.put_chunks("big", size=250)
    new = share_of(maker, "big", max_downloads=1)
    opened = open_share(token=new.token)
    handout = hand_out(opened=opened, found=find_shared(opened=opened))
    assert not handout.url
    with pytest.raises(ShareOver):
        open_share(token=new.token)
    redeemed, found = redeem_ticket(token=new.token, ticket=handout.ticket)
    assert (redeemed.share, found.size) == (new.share, 250)
    for wrong in ("", handout.ticket + "x", issue_pass(share=new.share)):
        with pytest.raises(ShareOver):
            redeem_ticket(token=new.token, ticket=wrong)
    other = share_of(maker, "big")
    with pytest.raises(ShareOver):
        redeem_ticket(token=other.token, ticket=handout.ticket)
    settings.WAREHOUSE_GET_SECONDS = -1
    with pytest.raises(ShareOver):
        redeem_ticket(token=new.token, ticket=handout.ticket)
    settings.WAREHOUSE_GET_SECONDS = 900
    revoke_share(share_id=new.share.pk)
    with pytest.raises(ShareOver):
        redeem_ticket(token=new.token, ticket=handout.ticket)


def test_a_password_is_not_guessed_for_long(
    shared: Lab, maker: ApiKey, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WAREHOUSE_FAILED_LOGINS = 2
    monkeypatch.setattr("keys.services.failures._now", lambda: 1e9)
    share = share_of(maker, "a", password="right").share
    check_share_password(share=share, password="right", address="a")
    for _ in range(2):
        with pytest.raises(SharePasswordRefused):
            check_share_password(share=share, password="wrong", address="a")
    # Nothing is computed any more, and the right one is held up as well.
    monkeypatch.setattr("buckets.services.passwords.check_password", None)
    for password in ("wrong", "right"):
        with pytest.raises(TooManyFailures) as caught:
            check_share_password(share=share, password=password, address="a")
        assert 0 < caught.value.extra["retry_after_s"] <= 70  # type: ignore[operator]
    monkeypatch.undo()
    monkeypatch.setattr("keys.services.failures._now", lambda: 1e9)
    check_share_password(share=share, password="right", address="b")
    other = share_of(maker, "a", password="right").share
    check_share_password(share=other, password="right", address="a")
    # Many addresses together have a limit too.
    for address in "bb":
        with pytest.raises(SharePasswordRefused):
            check_share_password(share=share, password="wrong", address=address)
    with pytest.raises(TooManyFailures):
        check_share_password(share=share, password="right", address="f")


def test_a_bucket_takes_its_shares_along(shared: Lab, maker: ApiKey) -> None:
    new = share_of(maker, "a")
    delete_objects(bucket="photos", keys=["a", "dir/b"])
    delete_bucket(name="photos")
    assert not Share.objects.exists()
    shared.bucket = create_bucket(name="photos")
    shared.put("a")
    with pytest.raises(ShareUnknown):
        open_share(token=new.token)


def test_lists(shared: Lab, maker: ApiKey) -> None:
    other = make_maker()
    mine = [share_of(maker, "a").share for _ in range(3)]
    theirs = share_of(other, "a").share
    assert list(list_shares(api_key=maker.pk)) == mine
    assert list(list_shares()) == [*mine, theirs]
    assert list(list_shares(after=mine[0].pk, limit=2)) == mine[1:]
    assert list(list_shares(bucket="none")) == []
    assert Bucket.objects.get().shares.count() == 4
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert {share.bucket.name for share in list_shares()} == {"photos"}
    assert len(queries) == 1


def test_pages_from_the_newest(shared: Lab, maker: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_maker()
    a, b, gone, theirs = (
        share_of(maker, "a").share, share_of(maker, "dir/b").share, share_of(maker, "a").share,
        share_of(other, "a").share,
    )  # fmt: skip
    revoke_share(share_id=gone.pk)
    ApiKey.objects.filter(pk=other.pk).delete()
    with CaptureQueriesContext(connection) as queries:
        page = newest_shares(limit=10)
        assert [share.bucket.name for share in page.shares] == ["photos"] * 4
    assert len(queries) == 2
    assert (page.shares, page.next_before) == ([theirs, gone, b, a], None)
    assert [share.state for share in page.shares] == ["denied", "revoked", "live", "live"]
    assert newest_shares(api_key=maker.pk, state="live").shares == [b, a]
    assert newest_shares(bucket="photos", key="a", state="revoked").shares == [gone]
    assert newest_shares(bucket="none").shares == []
    first = newest_shares(limit=3)
    assert (first.shares, first.next_before) == ([theirs, gone, b], b.pk)
    assert newest_shares(limit=3, before=first.next_before).shares == [a]
    monkeypatch.setattr(share_selectors, "MAX_LOOKED_AT", 2)
    found, before = [], None
    for _ in range(3):  # a page looks at two: the first is short, and none is missed
        page = newest_shares(key="a", state="live", before=before)
        found += page.shares
        before = page.next_before
        if before is None:
            break
    assert (found, before) == ([theirs, a], None)
