"""What every route of the API needs, one entry each: the rights matrix follows from it.

A new route, or a new method of one, gets an entry in `ROUTES`:

    Route("uploads", "POST", on_key(Permission.OBJECTS_WRITE), status=201, body={"key": "{key}", "size": 1}),

- the name of its URL and the method;
- `needs`: the rights it asks for. `in_store(bits)`: everywhere, no grant will do. `somewhere(bits)`: on any bucket.
  `on_bucket(bits)`: on the target's bucket, be it for one prefix of it. `on_whole_bucket(bits)`: for all of it.
  `on_key(bits)`: for the target's key. Several are given as a list. `ANY_KEY`: whoever is signed in;
  `ANYBODY`: no sign-in needed, but a token that is sent must be good; `OPEN`: tokens are not looked at;
- `status`: of a call that is allowed, 200 unless said;
- `body`, `query`: what a good call sends. Names in braces stand for values of the target and of the store, see
  `values`; the arguments of the URL are values too, so a new one gets a line there;
- `arrange`: what must be done right before, such as emptying a bucket; each call is undone after it;
- `shows`: for answers that leave out what the key may not see: the names that stand in the answer, and what they are
  of (`Shown.BUCKETS`, `Shown.KEYS` of the target's bucket, or `Shown.KEY`: the target's, or nothing).

`case` tells entries of one route and method apart.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keys.permissions import ALL_PERMISSIONS, Permission
from keys.services.sign_in import issue_tokens
from tests.unit.warehouse_site.matrix_world import Target, World


class Scope(enum.Enum):
    """For what a right must be held."""

    STORE = enum.auto()
    SOMEWHERE = enum.auto()
    BUCKET = enum.auto()
    WHOLE_BUCKET = enum.auto()
    KEY = enum.auto()


@dataclass(frozen=True)
class Need:
    """Each of the bits of `permissions`, in `scope`."""

    permissions: Permission
    scope: Scope


def in_store(permissions: Permission) -> Need:
    return Need(permissions, Scope.STORE)


def somewhere(permissions: Permission) -> Need:
    return Need(permissions, Scope.SOMEWHERE)


def on_bucket(permissions: Permission) -> Need:
    return Need(permissions, Scope.BUCKET)


def on_whole_bucket(permissions: Permission) -> Need:
    return Need(permissions, Scope.WHOLE_BUCKET)


def on_key(permissions: Permission) -> Need:
    return Need(permissions, Scope.KEY)


class Door(enum.Enum):
    """Where no right is needed."""

    ANY_KEY = "any key that lives"
    ANYBODY = "anybody without a bad token"
    OPEN = "anybody"


ANY_KEY, ANYBODY, OPEN = Door.ANY_KEY, Door.ANYBODY, Door.OPEN


class Shown(enum.Enum):
    """Of what an answer leaves out what the key may not see."""

    BUCKETS = enum.auto()
    KEYS = enum.auto()
    KEY = enum.auto()


@dataclass(frozen=True)
class Route:
    """One route and method: what it needs, and how to call it."""

    name: str
    method: str
    needs: Need | Sequence[Need] | Door
    status: int = 200
    case: str = ""
    body: object = None
    query: str = ""
    arrange: Callable[[World, Target], None] | None = None
    shows: tuple[Shown, Callable[[Any], Iterable[str]]] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.name}" + (f" ({self.case})" if self.case else "")

    @property
    def required(self) -> tuple[Need, ...]:
        if isinstance(self.needs, Door):
            return ()
        return (self.needs,) if isinstance(self.needs, Need) else tuple(self.needs)

    @property
    def bits(self) -> int:
        """All the rights together that it needs."""
        together = 0
        for need in self.required:
            together |= need.permissions
        return together & ALL_PERMISSIONS


def values(world: World, at: Target) -> dict[str, Callable[[], object]]:
    """What the arguments of URLs, and names in braces in bodies, stand for in calls about a target."""
    return {
        "bucket": lambda: at.bucket,
        "key": lambda: at.key,
        "upload_id": lambda: world.uploads[at],
        "share_id": lambda: world.shares[at],
        "key_id": lambda: world.weak.key.pk,
        "key_text": lambda: world.weak.text,
        "refresh": lambda: issue_tokens(key=world.weak.key).refresh,
        "server_id": lambda: world.lab.server.pk,
        "volume_id": lambda: world.lab.volume.pk,
        "task": lambda: "volumes.tasks.check_servers",
    }


def keys_in(name: str) -> Callable[[Any], Iterable[str]]:
    """The `key` of each member of a list in the answer."""
    return lambda answer: [one["key"] for one in answer[name]]


ROUTES = (
    # --- the store itself ---
    Route("api-root", "GET", ANYBODY),
    Route("api-root-slash", "GET", ANYBODY),
    Route("health", "GET", OPEN),
    Route("jwks", "GET", OPEN),
    Route("schema", "GET", OPEN),
    Route("docs", "GET", OPEN),
    # --- signing in, keys ---
    Route("tokens", "POST", OPEN, body={"key": "{key_text}"}),
    Route("tokens-refresh", "POST", OPEN, body={"refresh": "{refresh}"}),
    Route("tokens-revoke", "POST", OPEN, status=204, body={"refresh": "{refresh}"}),
    Route("keys", "GET", in_store(Permission.KEYS_READ)),
    Route("keys", "POST", in_store(Permission.KEYS_MANAGE), status=201, body={"name": "new"}),
    Route("key", "GET", in_store(Permission.KEYS_READ)),
    Route("key", "PATCH", in_store(Permission.KEYS_MANAGE), body={"name": "other"}),
    Route("key", "DELETE", in_store(Permission.KEYS_MANAGE), status=204),
    Route("audit", "GET", in_store(Permission.ADMIN)),
    # --- servers and volumes ---
    Route("servers", "GET", in_store(Permission.VOLUMES_READ)),
    Route("server", "GET", in_store(Permission.VOLUMES_READ)),
    Route("server", "PATCH", in_store(Permission.VOLUMES_MANAGE), body={"admin_state": "maintenance"}),
    Route("server", "DELETE", in_store(Permission.VOLUMES_MANAGE), status=204, arrange=World.lose_server),
    Route("volumes", "GET", in_store(Permission.VOLUMES_READ)),
    Route("volume", "GET", in_store(Permission.VOLUMES_READ)),
    Route("volume-compact", "POST", in_store(Permission.VOLUMES_MANAGE), status=202, body={}),
    Route("volume-scrub", "POST", in_store(Permission.VOLUMES_MANAGE), status=202),
    Route("tasks", "GET", in_store(Permission.VOLUMES_READ)),
    Route("task", "GET", in_store(Permission.VOLUMES_READ)),
    Route("task-run", "POST", in_store(Permission.ADMIN), status=202),
    Route("usage", "GET", in_store(Permission.VOLUMES_READ)),
    Route("usage-history", "GET", in_store(Permission.VOLUMES_READ)),
    Route("proof", "GET", in_store(Permission.VOLUMES_READ)),
    Route("proof", "POST", in_store(Permission.VOLUMES_MANAGE), status=202, body={}),
    # --- buckets ---
    Route(
        "buckets",
        "GET",
        somewhere(Permission.BUCKETS_READ),
        shows=(Shown.BUCKETS, lambda answer: [one["name"] for one in answer["results"]]),
    ),
    Route(
        "buckets",
        "POST",
        on_whole_bucket(Permission.BUCKETS_WRITE),
        status=201,
        body={"name": "{bucket}"},
        arrange=World.put_bucket_away,
    ),
    Route("bucket", "GET", on_bucket(Permission.BUCKETS_READ)),
    Route("bucket", "PATCH", on_whole_bucket(Permission.BUCKETS_WRITE), body={"quota_objects": 9}),
    Route("bucket", "DELETE", on_whole_bucket(Permission.BUCKETS_DELETE), status=204, arrange=World.empty_bucket),
    Route(
        "bucket",
        "DELETE",
        on_whole_bucket(Permission.BUCKETS_DELETE | Permission.OBJECTS_DELETE),
        case="with all that is in it",
        query="force=true",
        status=202,
    ),
    # --- objects ---
    Route("objects", "GET", on_bucket(Permission.OBJECTS_READ), shows=(Shown.KEYS, keys_in("results"))),
    Route(
        "objects",
        "GET",
        on_bucket(Permission.OBJECTS_READ),
        case="newest",
        query="order=newest",
        shows=(Shown.KEYS, keys_in("results")),
    ),
    Route("object", "GET", on_key(Permission.OBJECTS_READ)),
    Route("object", "PATCH", on_key(Permission.OBJECTS_WRITE), body={"metadata": {"a": "b"}}),
    Route("object", "DELETE", on_key(Permission.OBJECTS_DELETE), status=204),
    Route("content", "GET", on_key(Permission.OBJECTS_READ), status=307),
    Route("content", "GET", ANYBODY, case="of a public bucket", status=307, arrange=World.open_bucket),
    Route("object", "GET", on_key(Permission.OBJECTS_READ), case="of a public bucket", arrange=World.open_bucket),
    Route(
        "objects",
        "GET",
        on_bucket(Permission.OBJECTS_READ),
        case="of a public bucket",
        arrange=World.open_bucket,
        shows=(Shown.KEYS, keys_in("results")),
    ),
    Route(
        "downloads",
        "POST",
        on_bucket(Permission.OBJECTS_READ),
        body={"keys": ["{key}"]},
        shows=(Shown.KEY, keys_in("objects")),
    ),
    Route(
        "stat-objects",
        "POST",
        on_bucket(Permission.OBJECTS_READ),
        body={"keys": ["{key}"]},
        shows=(Shown.KEY, keys_in("objects")),
    ),
    Route(
        "copy-objects",
        "POST",
        on_key(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE),
        body={"copies": [{"from": "{key}", "to": "{key}"}]},
    ),
    Route(
        "rename-objects",
        "POST",
        on_key(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE | Permission.OBJECTS_DELETE),
        body={"renames": [{"from": "{key}", "to": "{key}/b"}]},
    ),
    Route(
        "rename-objects",
        "POST",
        on_key(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE | Permission.OBJECTS_DELETE),
        case="a prefix",
        body={"prefix": "{key}", "to_prefix": "{key}/b"},
    ),
    Route(
        "commits",
        "POST",
        on_key(Permission.OBJECTS_DELETE),
        case="a delete",
        body={"operations": [{"op": "delete", "key": "{key}"}]},
    ),
    Route(
        "commits",
        "POST",
        on_key(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE),
        case="a copy",
        body={"operations": [{"op": "copy", "from": "{key}", "to": "{key}"}]},
    ),
    Route("delete-objects", "POST", on_key(Permission.OBJECTS_DELETE), body={"keys": ["{key}"]}),
    # --- writing ---
    Route(
        "leases",
        "POST",
        on_whole_bucket(Permission.OBJECTS_WRITE),
        status=201,
        body={"count": 1, "max_bytes": 1},
    ),
    Route(
        "leases",
        "POST",
        on_key(Permission.OBJECTS_WRITE),
        case="with a prefix",
        status=201,
        body={"count": 1, "max_bytes": 1, "prefix": "{key}"},
    ),
    Route("uploads", "POST", on_key(Permission.OBJECTS_WRITE), status=201, body={"key": "{key}", "size": 1}),
    Route("upload", "GET", on_key(Permission.OBJECTS_WRITE)),
    Route("upload", "DELETE", on_key(Permission.OBJECTS_WRITE), status=204),
    # --- shares; those asked for are another key's ---
    Route("shares", "GET", somewhere(Permission.SHARE)),
    Route(
        "shares",
        "POST",
        on_key(Permission.SHARE | Permission.OBJECTS_READ),
        status=201,
        body={"bucket": "{bucket}", "key": "{key}"},
    ),
    Route("share-detail", "GET", in_store(Permission.ADMIN)),
    Route("share-detail", "PATCH", in_store(Permission.ADMIN), body={"description": "other"}),
    Route("share-detail", "DELETE", in_store(Permission.ADMIN), status=204),
)
