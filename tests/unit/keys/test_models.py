"""Each constraint against a row that would break it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.utils import timezone

from keys.models import ApiKey, Grant, RefreshFamily
from keys.permissions import Permission
from keys.services.keys import NewKey

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "values", [{"name": ""}, {"permissions": 4096}, {"permissions": -1}, {"generation": 0}], ids=str
)
def test_a_key_that_cannot_be(values: dict[str, object]) -> None:
    row = {"name": "k", "secret_hash": "0" * 64, **values}
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.create(**row)


@pytest.mark.parametrize(
    "values", [{"bucket": ""}, {"permissions": 0}, {"permissions": int(Permission.ADMIN)}], ids=str
)
def test_a_grant_that_cannot_be(new_key: Callable[..., NewKey], values: dict[str, object]) -> None:
    row = {"key": new_key().key, "bucket": "b", "prefix": "", "permissions": 1, **values}
    with pytest.raises(IntegrityError), transaction.atomic():
        Grant.objects.create(**row)


def test_one_grant_for_each_place(new_key: Callable[..., NewKey]) -> None:
    key = new_key().key
    Grant.objects.create(key=key, bucket="b", prefix="p", permissions=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Grant.objects.create(key=key, bucket="b", prefix="p", permissions=2)


def test_a_serial_starts_at_one(new_key: Callable[..., NewKey]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        RefreshFamily.objects.create(key=new_key().key, serial=0, expires_at=timezone.now())


def test_the_key_is_the_user(new_key: Callable[..., NewKey]) -> None:
    assert get_user_model() is ApiKey
    plain, admin = new_key(4095 & ~int(Permission.ADMIN)).key, new_key(Permission.ADMIN).key
    assert (plain.is_staff, plain.is_superuser, plain.has_perm("x"), plain.has_module_perms("keys")) == (False,) * 4
    assert (admin.is_staff, admin.is_superuser, admin.has_perm("x"), admin.has_perms(["x"])) == (True,) * 4
    admin.expires_at = timezone.now() - timedelta(seconds=1)
    assert not admin.is_active
    assert not admin.has_perm("x")


def test_live_admins(new_key: Callable[..., NewKey]) -> None:
    new_key(Permission.KEYS_MANAGE | Permission.SHARE)
    wanted = new_key(Permission.ADMIN | Permission.OBJECTS_READ).key
    dead = new_key(Permission.ADMIN).key
    ApiKey.objects.filter(pk=dead.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert list(ApiKey.objects.live().admins()) == [wanted]
