"""The menu: what a key may look at, and nothing else."""

import pytest
from django.test import RequestFactory

from keys.permissions import Permission
from keys.rights import GrantRow
from keys.services.keys import create_key
from warehouse_site.navigation import navigation

ALWAYS = ["dashboard"]


def menu(permissions: int, *grants: GrantRow) -> list[str]:
    request = RequestFactory().get("/")
    request.user = create_key(actor=None, name="a key", permissions=permissions, grants=grants).key
    entries = navigation(request)["navigation"]
    assert callable(entries)
    return [entry.name for entry in entries()]


@pytest.mark.parametrize(
    ("permissions", "more"),
    [
        (Permission.BUCKETS_READ, ["buckets"]),
        (Permission.OBJECTS_READ, ["buckets"]),
        (Permission.OBJECTS_WRITE, ["buckets"]),
        (Permission.SHARE, ["shares"]),
        (Permission.VOLUMES_READ, ["servers", "volumes"]),
        (Permission.KEYS_READ, ["keys"]),
        (Permission.KEYS_MANAGE, ["keys"]),
        (Permission.ADMIN, ["buckets", "shares", "servers", "volumes", "keys", "activity"]),
    ],
)
def test_the_menu_offers_what_the_key_may_look_at(db: None, permissions: Permission, more: list[str]) -> None:
    assert menu(int(permissions)) == [*ALWAYS, *more]


@pytest.mark.parametrize(
    ("permission", "section"), [(Permission.SHARE, "shares"), (Permission.OBJECTS_WRITE, "buckets")]
)
def test_a_right_somewhere_is_enough(db: None, permission: Permission, section: str) -> None:
    assert menu(0, GrantRow("photos", "2026/", int(permission))) == [*ALWAYS, section]
