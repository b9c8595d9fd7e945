"""The rights a key can hold, as bits of one integer."""

import enum
from collections.abc import Iterable
from typing import Final


class Permission(enum.IntFlag):
    """What a key may do; bits on the key hold everywhere, bits of a grant in its bucket and prefix alone."""

    OBJECTS_READ = 1
    OBJECTS_WRITE = 2
    OBJECTS_DELETE = 4
    BUCKETS_READ = 8
    BUCKETS_WRITE = 16
    BUCKETS_DELETE = 32
    VOLUMES_READ = 64
    VOLUMES_MANAGE = 128
    KEYS_READ = 256
    KEYS_MANAGE = 512
    SHARE = 1024
    ADMIN = 2048


ALL_PERMISSIONS: Final = (1 << 12) - 1

GRANTABLE: Final = (
    Permission.OBJECTS_READ
    | Permission.OBJECTS_WRITE
    | Permission.OBJECTS_DELETE
    | Permission.BUCKETS_READ
    | Permission.BUCKETS_WRITE
    | Permission.BUCKETS_DELETE
    | Permission.SHARE
)
"""The bits that mean something inside one bucket; a grant holds no others."""

DESCRIPTIONS: Final[dict[Permission, str]] = {
    Permission.OBJECTS_READ: "Read and list objects",
    Permission.OBJECTS_WRITE: "Create, overwrite, copy and rename objects",
    Permission.OBJECTS_DELETE: "Delete objects",
    Permission.BUCKETS_READ: "See buckets and their settings",
    Permission.BUCKETS_WRITE: "Create buckets and change their settings",
    Permission.BUCKETS_DELETE: "Delete buckets",
    Permission.VOLUMES_READ: "See volume servers, volumes and usage",
    Permission.VOLUMES_MANAGE: "Seal, compact, scrub and move volumes",
    Permission.KEYS_READ: "See keys (never their secrets)",
    Permission.KEYS_MANAGE: "Create, change and delete keys that are not stronger",
    Permission.SHARE: "Make share links",
    Permission.ADMIN: "Everything, and the system itself",
}


def bits_of(given: Iterable[str]) -> int:
    """The bits of names, in whatever case. Raises ValueError for one that there is not."""
    bits = 0
    for name in given:
        try:
            bits |= Permission[name.strip().upper()]
        except KeyError:
            known = ", ".join(names(ALL_PERMISSIONS))
            raise ValueError(f"{name[:100]!r} is no permission. There are: {known}.") from None
    return bits


def names(bits: int) -> list[str]:
    """The names of the set bits, lowest first."""
    return [permission.name or "" for permission in Permission if permission & bits]
