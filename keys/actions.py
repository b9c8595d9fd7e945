"""What the audit trail calls things: stable names, which other programs may filter by."""

from enum import StrEnum
from typing import Final

from django.db import models


class Action(StrEnum):
    """What was done. A denied try of the API is named by its route and method instead: `bucket.delete`."""

    KEY_CREATE = "key.create"
    KEY_UPDATE = "key.update"
    KEY_DELETE = "key.delete"
    KEY_END_SESSIONS = "key.end_sessions"
    KEY_ROTATE = "key.rotate"
    KEY_SIGN_IN = "key.sign_in"
    KEY_SIGN_OUT = "key.sign_out"
    TOKEN_REUSE = "token.reuse"  # noqa: S105 - no password
    BUCKET_CREATE = "bucket.create"
    BUCKET_UPDATE = "bucket.update"
    BUCKET_RECOUNT = "bucket.recount"
    BUCKET_CLOSE = "bucket.close"
    BUCKET_DELETE = "bucket.delete"
    OBJECT_PUT = "object.put"
    OBJECT_UPDATE = "object.update"
    OBJECT_DELETE = "object.delete"
    OBJECT_COPY = "object.copy"
    OBJECT_RENAME = "object.rename"
    OBJECT_COMMIT = "object.commit"
    SHARE_CREATE = "share.create"
    SHARE_UPDATE = "share.update"
    SHARE_REVOKE = "share.revoke"
    SHARE_OPEN = "share.open"
    SHARE_FORGET = "share.forget"
    UPLOAD_ABORT = "upload.abort"
    SERVER_REGISTER = "server.register"
    SERVER_DEREGISTER = "server.deregister"
    SERVER_UPDATE = "server.update"
    SERVER_FORGET = "server.forget"
    VOLUME_SEAL = "volume.seal"
    VOLUME_COMPACT = "volume.compact"
    VOLUME_SCRUB = "volume.scrub"
    VOLUME_SWEEP = "volume.sweep"
    STORE_CHECK = "store.check"
    VOLUME_PLACE = "volume.place"
    STORE_ACCEPT = "store.accept"
    TASK_RUN = "task.run"
    STORE_REBUILD = "store.rebuild"
    MORE_DENIED = "denied.more"


WORDS: Final[dict[str, str]] = {
    Action.KEY_CREATE: "Create a key",
    Action.KEY_UPDATE: "Change a key",
    Action.KEY_DELETE: "Delete a key",
    Action.KEY_END_SESSIONS: "End a key's sessions",
    Action.KEY_ROTATE: "Invalidate all tokens",
    Action.KEY_SIGN_IN: "Sign in",
    Action.KEY_SIGN_OUT: "Sign out",
    Action.TOKEN_REUSE: "Use a spent token",
    Action.BUCKET_CREATE: "Create a bucket",
    Action.BUCKET_UPDATE: "Change a bucket",
    Action.BUCKET_RECOUNT: "Count a bucket anew",
    Action.BUCKET_CLOSE: "Close a bucket",
    Action.BUCKET_DELETE: "Delete a bucket",
    Action.OBJECT_PUT: "Put objects",
    Action.OBJECT_UPDATE: "Change an object",
    Action.OBJECT_DELETE: "Delete objects",
    Action.OBJECT_COPY: "Copy objects",
    Action.OBJECT_RENAME: "Rename objects",
    Action.OBJECT_COMMIT: "Commit a group",
    Action.SHARE_CREATE: "Share an object",
    Action.SHARE_UPDATE: "Change a share",
    Action.SHARE_REVOKE: "Revoke a share",
    Action.SHARE_OPEN: "Open a share",
    Action.SHARE_FORGET: "Forget ended shares",
    Action.UPLOAD_ABORT: "Give up an upload",
    Action.SERVER_REGISTER: "Register a server",
    Action.SERVER_DEREGISTER: "Stop a server",
    Action.SERVER_UPDATE: "Change a server",
    Action.SERVER_FORGET: "Forget a server",
    Action.VOLUME_SEAL: "Seal a volume",
    Action.VOLUME_COMPACT: "Compact a volume",
    Action.VOLUME_SCRUB: "Scrub a volume",
    Action.VOLUME_SWEEP: "Sweep a volume",
    Action.VOLUME_PLACE: "Place copies of a volume",
    Action.STORE_CHECK: "Check the store",
    Action.STORE_ACCEPT: "Accept the database",
    Action.STORE_REBUILD: "Rebuild the database",
    Action.TASK_RUN: "Run a task",
    Action.MORE_DENIED: "More that was denied",
}
"""What each is, in words that are true whether it was done, denied or failed."""


class Through(models.TextChoices):
    """By which door it came."""

    API = "api", "API"
    ADMIN = "admin", "admin site"
    WEB = "web", "web pages"
    SERVER = "server", "volume server"
    COMMAND = "command", "command line"
    TASK = "task", "background task"


class Outcome(models.TextChoices):
    DONE = "done", "done"
    DENIED = "denied", "denied"
    FAILED = "failed", "failed"
