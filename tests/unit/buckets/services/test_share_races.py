"""Uses of one share at the same time, in processes with connections of their own."""

import pytest

from buckets.errors import ShareOver
from buckets.models import Share
from buckets.services.buckets import delete_bucket
from buckets.services.objects import delete_objects
from buckets.services.share_access import find_shared, hand_out, open_share
from buckets.services.shares import NewShare, revoke_share, update_share
from keys.errors import Invalid, NotFound
from tests.support.races import at_once
from tests.unit.buckets.lab import Lab, require_sound
from tests.unit.buckets.sharing import make_maker, share_of

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # nothing else runs in this process
]


@pytest.fixture
def lab(transactional_db: None) -> Lab:
    lab = Lab.make()
    lab.put("a")
    return lab


def download(new: NewShare) -> str:
    """As a request does it, from the link on."""
    try:
        opened = open_share(token=new.token)
        return "had" if hand_out(opened=opened, found=find_shared(opened=opened)).url else "nothing"
    except ShareOver:
        return "over"


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("_again", range(3))
def test_no_more_downloads_than_allowed(lab: Lab, limit: int, _again: int) -> None:
    new = share_of(make_maker(), "a", max_downloads=limit)
    outcomes = at_once(*[lambda: download(new)] * 6)
    assert sorted(outcomes) == ["had"] * limit + ["over"] * (6 - limit)
    assert Share.objects.get().download_count == limit


@pytest.mark.parametrize("_again", range(3))
def test_a_limit_that_is_lowered_meanwhile(lab: Lab, _again: int) -> None:
    new = share_of(make_maker(), "a", max_downloads=5)

    def lower() -> str:
        try:
            update_share(share_id=new.share.pk, max_downloads=2)
            return "lowered"
        except Invalid:
            return "too late"

    outcomes = at_once(lambda: download(new), lambda: download(new), lower, lambda: download(new))
    share = Share.objects.get()
    assert share.download_count == outcomes.count("had") == (2 if "lowered" in outcomes else 3)


def test_a_share_that_is_made_while_its_bucket_goes(lab: Lab) -> None:
    maker = make_maker()
    new = share_of(maker, "a")

    def share() -> str:
        try:
            share_of(maker, "a")
            return "made"
        except NotFound as error:
            return error.code

    def delete() -> str:
        delete_objects(bucket="photos", keys=["a"])
        delete_bucket(name="photos")
        return "deleted"

    def revoke() -> str:
        try:
            revoke_share(share_id=new.share.pk)
            return "revoked"
        except NotFound as error:
            return error.code

    outcomes = at_once(share, share, delete, revoke)
    assert set(outcomes) <= {"made", "object_unknown", "bucket_unknown", "deleted", "revoked", "share_unknown"}
    assert not Share.objects.exists()
    require_sound()
