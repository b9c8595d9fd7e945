"""Values that the client takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Bucket", "ObjectInfo", "Prefix", "Share"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as the master tells it; ``settings`` holds whatever else it tells."""

    name: str
    created_at: datetime | None
    object_count: int
    total_bytes: int
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Bucket":
        known = {"name", "created_at", "object_count", "total_bytes"}
        return cls(
            name=body["name"],
            created_at=parse_time(body.get("created_at")),
            object_count=int(body.get("object_count") or 0),
            total_bytes=int(body.get("total_bytes") or 0),
            settings={name: value for name, value in body.items() if name not in known},
        )


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its bytes.

    ``etag`` is opaque and belongs to this version alone; give it to ``if_match``.
    ``metadata`` is empty in lists, ``updated_at`` is None where the answer does not tell it.
    """

    key: str
    size: int
    etag: str
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    updated_at: datetime | None = None

    @classmethod
    def from_json(cls, body: Mapping[str, Any], **more: Any) -> "ObjectInfo":
        return cls(
            key=body["key"],
            size=int(body["size"]),
            etag=body["etag"],
            content_type=more.get("content_type") or body.get("content_type") or "",
            metadata=more.get("metadata") or body.get("metadata") or {},
            updated_at=parse_time(body.get("updated_at")),
        )


@dataclass(frozen=True, slots=True)
class Prefix:
    """What all keys up to the next delimiter have in common: a "folder" in a list."""

    key: str


@dataclass(frozen=True, slots=True)
class Share:
    """A link to one object, for somebody without a key.

    ``url`` is known right after it was made and never again: the store keeps a hash of it.
    ``state`` is live, expired, used_up, revoked, or denied: the key that made it is gone, or may no longer share.
    None for ``expires_at`` and ``max_downloads``: no end, no limit.
    """

    id: int
    bucket: str
    key: str
    state: str
    expires_at: datetime | None
    max_downloads: int | None
    download_count: int
    has_password: bool
    description: str = ""
    url: str = ""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Share":
        return cls(
            id=int(body["id"]),
            bucket=body["bucket"],
            key=body["key"],
            state=body["state"],
            expires_at=parse_time(body.get("expires_at")),
            max_downloads=body.get("max_downloads"),
            download_count=int(body["download_count"]),
            has_password=bool(body.get("has_password")),
            description=body.get("description") or "",
            url=body.get("url") or "",
        )


def parse_time(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
