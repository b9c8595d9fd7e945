import pytest

from keys.errors import PermissionDenied
from keys.permissions import ALL_PERMISSIONS, DESCRIPTIONS, Permission, names
from keys.rights import GrantRow, KeyRights

READ, WRITE, DELETE = Permission.OBJECTS_READ, Permission.OBJECTS_WRITE, Permission.OBJECTS_DELETE


def rights(permissions: int = 0, *grants: GrantRow, active: bool = True) -> KeyRights:
    return KeyRights(1, 1, int(permissions), grants, None, is_active=active)


def test_the_bits_are_the_documented_ones() -> None:
    assert {bit.name: int(bit) for bit in Permission} == {
        "OBJECTS_READ": 1, "OBJECTS_WRITE": 2, "OBJECTS_DELETE": 4, "BUCKETS_READ": 8, "BUCKETS_WRITE": 16,
        "BUCKETS_DELETE": 32, "VOLUMES_READ": 64, "VOLUMES_MANAGE": 128, "KEYS_READ": 256, "KEYS_MANAGE": 512,
        "SHARE": 1024, "ADMIN": 2048,
    }  # fmt: skip
    assert sum(Permission) == ALL_PERMISSIONS
    assert set(DESCRIPTIONS) == set(Permission)
    assert names(5) == ["OBJECTS_READ", "OBJECTS_DELETE"]


def test_global_bits_hold_in_every_bucket() -> None:
    key = rights(READ)
    assert key.allows(READ)
    assert key.allows(READ, bucket="b", key="any")
    assert not key.allows(WRITE, bucket="b", key="any")
    assert not key.allows(READ | WRITE, bucket="b")


def test_admin_has_every_bit() -> None:
    assert all(rights(Permission.ADMIN).allows(bit) for bit in Permission)


@pytest.mark.parametrize(
    ("prefix", "key", "covered"),
    [
        ("logs", "logs", True),
        ("logs", "logs2/x", True),  # a prefix is plain text
        ("logs/", "logs2/x", False),
        ("logs/", "logs", False),
        ("logs/", "logs/x", True),
        ("logs/", "Logs/x", False),
        ("", "anything", True),
        ("é", "e\u0301", False),  # other code points, other key
    ],
)
def test_a_grant_covers_exactly_its_prefix(prefix: str, key: str, covered: bool) -> None:
    held = rights(0, GrantRow("b", prefix, READ))
    assert held.allows(READ, bucket="b", key=key) is covered
    assert not held.allows(READ, bucket="b2", key=key)
    assert not held.allows(READ)


def test_without_a_key_any_grant_of_the_bucket_counts() -> None:
    held = rights(0, GrantRow("b", "deep/", READ))
    assert held.allows(READ, bucket="b")
    assert not held.allows(WRITE, bucket="b")


def test_a_lease_prefix_must_be_covered_whole() -> None:
    held = rights(0, GrantRow("b", "logs/", WRITE))
    assert held.allows(WRITE, bucket="b", key="logs/2024", prefix=True)
    assert not held.allows(WRITE, bucket="b", key="log", prefix=True)
    assert not held.allows(WRITE, bucket="b", key="", prefix=True)
    assert not held.allows(WRITE, bucket="b", prefix=True)


def test_bits_from_several_grants_and_the_key_add_up() -> None:
    held = rights(READ, GrantRow("b", "", WRITE), GrantRow("b", "x/", DELETE))
    assert held.allows(READ | WRITE | DELETE, bucket="b", key="x/1")
    assert not held.allows(READ | WRITE | DELETE, bucket="b", key="y/1")


def test_a_dead_key_may_do_nothing() -> None:
    dead = rights(Permission.ADMIN, GrantRow("b", "", READ), active=False)
    assert not dead.allows(READ, bucket="b", key="k")
    assert dead.prefixes(READ, bucket="b") == ()
    assert dead.buckets(READ) == frozenset()
    assert not dead.covers(permissions=0, grants=())


def test_prefixes_are_the_outermost_ones() -> None:
    held = rights(
        0, GrantRow("b", "b/", READ), GrantRow("b", "a/x/", READ), GrantRow("b", "a/", READ), GrantRow("b", "w", WRITE)
    )
    assert held.prefixes(READ, bucket="b") == ("a/", "b/")
    assert held.prefixes(WRITE, bucket="b") == ("w",)
    assert held.prefixes(READ, bucket="other") == ()
    assert rights(READ).prefixes(READ, bucket="b") is None
    assert rights(0, GrantRow("b", "", READ)).prefixes(READ, bucket="b") is None


def test_buckets_name_where_a_bit_holds() -> None:
    held = rights(0, GrantRow("a", "x", READ), GrantRow("b", "", WRITE))
    assert held.buckets(READ) == {"a"}
    assert rights(READ).buckets(READ) is None


def test_require_names_what_is_missing() -> None:
    with pytest.raises(PermissionDenied, match="OBJECTS_WRITE on bucket 'b' and key 'k'"):
        rights(READ).require(WRITE, bucket="b", key="k")
    rights(READ).require(READ, bucket="b", key="k")


@pytest.mark.parametrize(
    ("permissions", "grants", "covered"),
    [
        (0, (), True),
        (READ, (), True),
        (READ | WRITE, (), False),
        (Permission.ADMIN, (), False),
        (0, (GrantRow("b", "x/", WRITE),), True),
        (0, (GrantRow("b", "x/y", WRITE),), True),
        (0, (GrantRow("b", "x", WRITE),), False),
        (0, (GrantRow("b", "", WRITE),), False),
        (0, (GrantRow("c", "x/", WRITE),), False),
        (0, (GrantRow("c", "", READ),), True),
        (0, (GrantRow("b", "x/", READ | WRITE | DELETE),), False),
    ],
)
def test_a_key_covers_only_what_it_holds(permissions: int, grants: tuple[GrantRow, ...], covered: bool) -> None:
    holder = rights(READ, GrantRow("b", "x/", WRITE))
    assert holder.covers(permissions=int(permissions), grants=grants) is covered
