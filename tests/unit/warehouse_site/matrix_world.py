"""A small store in one process whose every thing can be named: what the rights matrix asks for, and who asks."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple, Self
from uuid import UUID

from django.utils import timezone

from buckets.models import Bucket
from buckets.services.buckets import BucketSettings, create_bucket, update_bucket
from buckets.services.shares import create_share
from buckets.services.uploads import create_upload
from keys.models import ApiKey
from keys.permissions import ALL_PERMISSIONS, Permission
from keys.rights import GrantRow
from keys.services.keys import NewKey, create_key, delete_key, update_key
from keys.services.sign_in import issue_tokens
from keys.tokens import AccessToken
from tests.unit.buckets.lab import Lab, make_key
from tests.unit.volumes.factories import figures, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Replica, Server

OWN, OTHER = "own", "other"
PREFIX = "in/"
KEYS = ("in/a", "out/a")
"""In each of the two buckets."""


class Target(NamedTuple):
    """What a request is about."""

    bucket: str
    key: str


INSIDE = Target(OWN, "in/a")
OUTSIDE = Target(OWN, "out/a")
ELSEWHERE = Target(OTHER, "in/a")
TARGETS = (INSIDE, OUTSIDE, ELSEWHERE)


class Caller(NamedTuple):
    """A key that asks: bits that it has everywhere, and grants."""

    permissions: int = 0
    grants: tuple[GrantRow, ...] = ()


@dataclass
class World:
    """Two buckets with the same two keys in each, an upload under way and a share for each target, and one server with
    one volume."""

    lab: Lab
    admin: ApiKey
    weak: NewKey
    uploads: dict[Target, UUID]
    shares: dict[Target, int]
    _tokens: dict[Caller, str] = field(default_factory=dict)

    @classmethod
    def make(cls, fake_server: FakeVolumeServer) -> Self:
        server = make_server(
            id=fake_server.id,
            instance=fake_server.instance,
            public_url=fake_server.url,
            internal_url=fake_server.url,
        )
        volume = make_volume(server)
        fake_server.volumes[volume.pk] = figures(volume.pk)
        admin = make_key(permissions=int(Permission.ADMIN))
        lab = Lab(server=server, volume=volume, bucket=create_bucket(name=OWN), key=admin)
        create_bucket(name=OTHER)
        for bucket in (OWN, OTHER):
            for key in KEYS:
                assert lab.put(key, bucket=bucket).as_json()["state"] == "committed"
        return cls(
            lab=lab,
            admin=admin,
            weak=create_key(actor=None, name="weak"),
            uploads={
                target: create_upload(bucket=target.bucket, holder=lab.rights, key=target.key, size=10).upload.pk
                for target in TARGETS
            },
            shares={
                target: create_share(
                    maker=lab.rights, maker_name="admin", bucket=target.bucket, key=target.key
                ).share.pk
                for target in TARGETS
            },
        )

    def token_of(self, caller: Caller) -> str:
        """An access token of a key with these rights."""
        if caller not in self._tokens:
            self._tokens[caller] = _access(make_key(permissions=caller.permissions, grants=caller.grants))
        return self._tokens[caller]

    def put_bucket_away(self, target: Target) -> None:
        """The target's bucket gets another name; grants on the old one stay."""
        Bucket.objects.filter(name=target.bucket).update(name="away")

    def empty_bucket(self, target: Target) -> None:
        """A new and empty bucket takes the place of the target's."""
        self.put_bucket_away(target)
        create_bucket(name=target.bucket)

    def lose_server(self, target: Target) -> None:
        """The server is gone for good, and all it had is on another one, too."""
        volume = self.lab.volume
        nobody = "http://127.0.0.1:1"
        Server.objects.filter(pk=self.lab.server.pk).update(last_seen_at=None, internal_url=nobody)
        Replica.objects.create(
            volume=volume,
            server=make_server(),
            role=Replica.Role.SECONDARY,
            state=Replica.State.OPEN,
            epoch=volume.epoch,
            whole_epoch=volume.opened_epoch,
            reported_at=timezone.now(),
        )

    def open_bucket(self, target: Target) -> None:
        """Anybody may read the content of the target's bucket."""
        update_bucket(name=target.bucket, settings=BucketSettings(visibility="public-read"))


def strangers() -> dict[str, str | None]:
    """What may stand in the Authorization header and lets nobody in, though all of these keys had every right."""
    other_admin = make_key(permissions=int(Permission.ADMIN))  # noqa: F841 - the last one may not go
    deleted, weakened, expired_key, expired_token = (make_key(permissions=ALL_PERMISSIONS) for _ in range(4))
    tokens = {
        "a bad token": "nonsense",
        "a foreign token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
        "an expired token": _expired(_access(expired_token)),
        "the token of a deleted key": _access(deleted),
        "the token of a weakened key": _access(weakened),
        "the token of an expired key": _access(expired_key),
    }
    delete_key(actor=None, key_id=deleted.pk)
    update_key(actor=None, key_id=weakened.pk, permissions=ALL_PERMISSIONS & ~int(Permission.ADMIN))
    ApiKey.objects.filter(pk=expired_key.pk).update(expires_at=timezone.now())
    return {"no token": None} | {name: f"Bearer {token}" for name, token in tokens.items()}


def _access(key: ApiKey) -> str:
    return issue_tokens(key=key).access


def _expired(access: str) -> str:
    token = AccessToken(access)  # type: ignore[arg-type]
    token.set_exp(from_time=timezone.now() - timedelta(days=1))
    return str(token)
