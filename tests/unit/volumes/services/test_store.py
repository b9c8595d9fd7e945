import pytest
from django.db import transaction

from volumes.errors import LeasesHalted
from volumes.models import Store
from volumes.services import leases
from volumes.services.store import (
    LEASE_JUMP,
    VOLUME_JUMP,
    accept_store,
    current_store,
    next_sequence,
    note_behind,
    raise_number,
    require_not_behind,
    set_cors_origins,
    store_id,
)

pytestmark = pytest.mark.django_db


def test_a_new_database_is_a_new_store_once() -> None:
    assert store_id() == store_id()
    assert Store.objects.count() == 1


def test_sequence_goes_up_by_one_on_a_new_database_too() -> None:
    assert [next_sequence() for _ in range(3)] == [1, 2, 3]
    assert current_store().sequence == 3


def test_a_rolled_back_commit_leaves_no_gap() -> None:
    next_sequence()
    with transaction.atomic():
        assert next_sequence() == 2
        transaction.set_rollback(True)
    assert next_sequence() == 2


def test_a_database_that_is_behind_stays_so_until_an_operator_speaks() -> None:
    next_sequence()
    require_not_behind()
    note_behind(seen_sequence=3)
    for _ in range(5):
        with pytest.raises(LeasesHalted, match="seen commit 3, this database has 1"):
            next_sequence()  # another commit than those that were seen
    with pytest.raises(LeasesHalted):
        require_not_behind()
    accept_store()
    require_not_behind()
    assert next_sequence() == 5


def test_the_highest_commit_seen_is_kept() -> None:
    note_behind(seen_sequence=9)
    note_behind(seen_sequence=5)
    assert current_store().behind_of == 9


def test_an_accepted_database_jumps_above_all_that_may_have_been_given_out() -> None:
    lease, volume = leases.reserve_lease_number(), raise_number("volume_high", by=1)
    note_behind(seen_sequence=70)
    accept_store()
    assert next_sequence() == 72
    assert leases.reserve_lease_number() > lease + LEASE_JUMP - 1
    assert raise_number("volume_high", by=1) == volume + VOLUME_JUMP + 1


def test_accepting_a_database_that_is_not_behind_changes_nothing() -> None:
    before = current_store().lease_high
    accept_store()
    assert current_store().lease_high == before


def test_cors_origins_are_kept_sorted_and_once() -> None:
    set_cors_origins(origins=["https://b", "https://a", "https://b"])
    assert current_store().cors_origins == ["https://a", "https://b"]
