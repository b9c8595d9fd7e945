"""What the audit trail calls things: stable names, which other programs may filter by."""

from enum import StrEnum

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
