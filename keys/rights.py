"""What a key may do, as plain values: no database, no clock.

    global bits ── hold in every bucket
    grants      ── (bucket, prefix, bits): hold for keys of that bucket that start with the prefix

A prefix is the plain text it is: `logs` covers `logs2/x` too, `logs/` does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from keys.errors import PermissionDenied
from keys.permissions import ALL_PERMISSIONS, Permission, names

ANYBODY = 0
"""In the place of a key's id in what is signed for nobody in particular. Keys are numbered from 1, so that no revoked
key is ever meant by it: such URLs end by their expiry alone."""


@dataclass(frozen=True, slots=True)
class GrantRow:
    """Rights (`permissions`, bits) on the keys of one bucket that start with `prefix`."""

    bucket: str
    prefix: str
    permissions: int

    def covers(self, key: str) -> bool:
        return key.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class KeyRights:
    """The rights of one API key at one moment."""

    id: int
    generation: int
    permissions: int
    grants: tuple[GrantRow, ...]
    expires_at: datetime | None
    is_active: bool
    name: str = field(default="", compare=False)

    @property
    def everywhere(self) -> int:
        """The bits that hold in every bucket: ADMIN has all of them."""
        return ALL_PERMISSIONS if self.permissions & Permission.ADMIN else self.permissions

    def allows(
        self, permission: Permission, *, bucket: str | None = None, key: str | None = None, prefix: bool = False
    ) -> bool:
        """Whether every bit of `permission` is held.

        Without `bucket`: everywhere. With `bucket` alone: there, be it only for some prefix of it.
        With `key`: for that key. With `prefix`, `key` is the start of the keys meant, and all of them must be
        covered (no key at all: the whole bucket).
        """
        if not self.is_active:
            return False
        lacking = int(permission) & ~self.everywhere
        if not lacking:
            return True
        if bucket is None:
            return False
        if prefix and key is None:
            key = ""
        held = 0
        for grant in self.grants:
            if grant.bucket == bucket and (key is None or grant.covers(key)):
                held |= grant.permissions
        return not lacking & ~held

    def prefixes(self, permission: Permission, *, bucket: str) -> tuple[str, ...] | None:
        """The key prefixes of `bucket` that `permission` (one bit) holds for, sorted, none inside another.

        None means the whole bucket, an empty tuple nothing at all.
        """
        if self.allows(permission, bucket=bucket, prefix=True):
            return None
        if not self.is_active:
            return ()
        held = sorted(
            {grant.prefix for grant in self.grants if grant.bucket == bucket and grant.permissions & permission}
        )
        outermost: list[str] = []
        for text in held:
            if not outermost or not text.startswith(outermost[-1]):
                outermost.append(text)
        return tuple(outermost)

    def buckets(self, permission: Permission) -> frozenset[str] | None:
        """The names of the buckets where `permission` (one bit) holds for some key. None means every bucket."""
        if self.allows(permission):
            return None
        if not self.is_active:
            return frozenset()
        return frozenset(grant.bucket for grant in self.grants if grant.permissions & permission)

    def require(
        self, permission: Permission, *, bucket: str | None = None, key: str | None = None, prefix: bool = False
    ) -> None:
        """Raise PermissionDenied unless `allows` says yes."""
        if not self.allows(permission, bucket=bucket, key=key, prefix=prefix):
            where = "" if bucket is None else f" on bucket {bucket!r}"
            if key:
                where += f" and {'prefix' if prefix else 'key'} {key!r}"
            needed = " and ".join(names(permission))
            raise PermissionDenied(f"This key does not have {needed}{where}.", permission=needed)

    def require_any(self, *permissions: Permission, bucket: str) -> None:
        """Raise PermissionDenied unless one of them is held in the bucket, be it only for some prefix of it."""
        if not any(self.allows(permission, bucket=bucket) for permission in permissions):
            needed = " or ".join(names(sum(permissions)))
            raise PermissionDenied(f"This key does not have {needed} on bucket {bucket!r}.", permission=needed)

    def covers(self, *, permissions: int, grants: Iterable[GrantRow]) -> bool:
        """Whether a key with these bits and grants would be no stronger than this one."""
        if not self.is_active or permissions & ~self.everywhere:
            return False
        return all(
            self.allows(Permission(grant.permissions), bucket=grant.bucket, key=grant.prefix, prefix=True)
            for grant in grants
        )


def public_reader(bucket: str) -> KeyRights:
    """What anybody may do with a bucket that is public to read: get its objects, nothing else."""
    grant = GrantRow(bucket=bucket, prefix="", permissions=int(Permission.OBJECTS_READ))
    return KeyRights(id=ANYBODY, generation=0, permissions=0, grants=(grant,), expires_at=None, is_active=True)
