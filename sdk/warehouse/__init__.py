"""Client of Warehouse, a self-hosted object store."""

from typing import TYPE_CHECKING, Any

from warehouse._version import __version__
from warehouse.errors import (
    ApiError,
    ChecksumMismatch,
    Conflict,
    ConnectionFailed,
    Invalid,
    NoSpace,
    NotFound,
    ObjectChanged,
    ObjectDamaged,
    ObjectLost,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ProtocolError,
    SourceChanged,
    Throttled,
    TooLarge,
    TransferError,
    Unauthorized,
    Unavailable,
    WarehouseError,
)
from warehouse.transfer import Progress, TransferConfig
from warehouse.types import Bucket, ObjectInfo, Prefix, Share

if TYPE_CHECKING:
    from warehouse._groups import Group
    from warehouse.client import Client

__all__ = [
    "ApiError",
    "Bucket",
    "ChecksumMismatch",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Group",
    "Invalid",
    "NoSpace",
    "NotFound",
    "ObjectChanged",
    "ObjectDamaged",
    "ObjectInfo",
    "ObjectLost",
    "OutcomeUnknown",
    "PermissionDenied",
    "PreconditionFailed",
    "Prefix",
    "Progress",
    "ProtocolError",
    "Share",
    "SourceChanged",
    "Throttled",
    "TooLarge",
    "TransferConfig",
    "TransferError",
    "Unauthorized",
    "Unavailable",
    "WarehouseError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # The client brings requests and what that imports; the command line must be up, and deaf to no Ctrl-C, before.
    if name == "Client":
        from warehouse.client import Client

        return Client
    if name == "Group":
        from warehouse._groups import Group

        return Group
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
