from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keys import selectors
from keys.models import ApiKey
from keys.rights import GrantRow
from keys.services.keys import NewKey, delete_key, update_key
from volume_server.signing import REVOKED_FOR_EVER

pytestmark = pytest.mark.django_db


def test_rights_are_cached_and_forgotten(new_key: Callable[..., NewKey], django_assert_num_queries: Any) -> None:
    key = new_key(3, grants=[GrantRow("b", "p", 4)]).key
    with django_assert_num_queries(2):
        first = selectors.rights_of(key.pk)
        assert selectors.rights_of(key.pk) is first
    assert first is not None
    assert (first.permissions, first.grants, first.is_active) == (3, (GrantRow("b", "p", 4),), True)
    update_key(actor=None, key_id=key.pk, permissions=1)
    changed = selectors.rights_of(key.pk)
    assert changed is not None
    assert (changed.permissions, changed.generation) == (1, 2)


def test_what_another_process_changed_is_seen_within_a_second(
    new_key: Callable[..., NewKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(3).key
    assert selectors.rights_of(key.pk) is not None
    ApiKey.objects.filter(pk=key.pk).delete()  # behind the cache's back
    assert selectors.rights_of(key.pk) is not None
    now = selectors.time.monotonic()
    monkeypatch.setattr(selectors.time, "monotonic", lambda: now + 0.99)
    assert selectors.rights_of(key.pk) is None


def test_expiry_does_not_wait_for_the_cache(new_key: Callable[..., NewKey], monkeypatch: pytest.MonkeyPatch) -> None:
    soon = timezone.now() + timedelta(hours=1)
    key = new_key(3, expires_at=soon).key
    before = selectors.rights_of(key.pk)
    assert before is not None
    assert before.is_active
    monkeypatch.setattr(timezone, "now", lambda: soon)
    after = selectors.rights_of(key.pk)
    assert after is not None
    assert not after.is_active


@pytest.mark.parametrize("count", [1, 50])
def test_rights_now_takes_one_query(new_key: Callable[..., NewKey], django_assert_num_queries: Any, count: int) -> None:
    ids = [new_key(index).key.pk for index in range(count)]
    with django_assert_num_queries(1):
        found = selectors.rights_now([*ids, 999_999])
    assert {key_id: rights.permissions for key_id, rights in found.items()} == {
        key_id: index for index, key_id in enumerate(ids)
    }


def test_revoked_generations(new_key: Callable[..., NewKey]) -> None:
    before = timezone.now()
    new_key(3)
    weakened, deleted, expired = new_key(3).key, new_key(3).key, new_key(3).key
    update_key(actor=None, key_id=weakened.pk, permissions=1)
    delete_key(actor=None, key_id=deleted.pk)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    assert selectors.revoked_generations(before) == {weakened.pk: 2, deleted.pk: REVOKED_FOR_EVER, expired.pk: 2}
    assert selectors.revoked_generations(timezone.now()) == {}


def test_key_works(new_key: Callable[..., NewKey]) -> None:
    new = new_key()
    assert selectors.key_works(key_text=new.text)
    assert not selectors.key_works(key_text=new.text + "x")
    assert not selectors.key_works(key_text="nonsense")
    delete_key(actor=None, key_id=new.key.pk)
    assert not selectors.key_works(key_text=new.text)


def test_keys_are_found_by_what_is_typed(new_key: Callable[..., NewKey], django_assert_num_queries: Any) -> None:
    backup = new_key(name="Backup 100%", description="every night", grants=[GrantRow("b", "", 1), GrantRow("c", "", 1)])
    over = new_key(name="old", expires_at=timezone.now() + timedelta(days=1)).key
    ApiKey.objects.filter(pk=over.pk).update(expires_at=timezone.now())
    maker = new_key(name="_", description="Nights").key

    def found(**filters: Any) -> list[int]:
        return [line.key.pk for line in selectors.find_keys(limit=10, **filters)]

    assert found() == [maker.pk, over.pk, backup.key.pk]
    assert found(text="bACK") == found(text="0%") == [backup.key.pk]
    assert found(text="night") == [maker.pk, backup.key.pk]
    assert found(text="_") == [maker.pk]
    assert over.pk in found(text=str(over.pk))
    assert found(text="9" * 30) == found(text="\0") == found(text="²") == []
    assert found(state="live") == [maker.pk, backup.key.pk]
    assert found(state="expired") == [over.pk]
    assert found(before=maker.pk, state="live") == [backup.key.pk]
    with django_assert_num_queries(2):
        lines = selectors.find_keys(limit=10)
    assert [line.grant_count for line in lines] == [0, 0, 2]
