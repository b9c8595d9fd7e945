"""Client of Warehouse, a self-hosted object store."""

from warehouse._version import __version__
from warehouse.client import Client
from warehouse.errors import (
    ApiError,
    ChecksumMismatch,
    Conflict,
    ConnectionFailed,
    Invalid,
    NoSpace,
    NotFound,
    ObjectChanged,
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
from warehouse.types import Bucket, ObjectInfo, Prefix

__all__ = [
    "ApiError",
    "Bucket",
    "ChecksumMismatch",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Invalid",
    "NoSpace",
    "NotFound",
    "ObjectChanged",
    "ObjectInfo",
    "OutcomeUnknown",
    "PermissionDenied",
    "PreconditionFailed",
    "Prefix",
    "Progress",
    "ProtocolError",
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
