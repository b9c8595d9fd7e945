"""What the master answers for a needle. Plain values, in the shape of the wire and of the rows that keep them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keys.errors import WarehouseError


@dataclass(frozen=True, slots=True)
class Committed:
    """The needle is the object's version, or its upload's last missing chunk. ``updated_at`` is RFC 3339 text."""

    bucket: str
    key: str
    size: int
    etag: str
    updated_at: str

    def as_json(self) -> dict[str, object]:
        return {
            "state": "committed",
            "bucket": self.bucket,
            "key": self.key,
            "size": self.size,
            "etag": self.etag,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class Stored:
    """The needle is chunk ``index`` of an upload that has others missing; ``size`` is the chunk's."""

    bucket: str
    key: str
    size: int
    upload: str
    index: int

    def as_json(self) -> dict[str, object]:
        return {
            "state": "stored",
            "bucket": self.bucket,
            "key": self.key,
            "size": self.size,
            "upload": self.upload,
            "index": self.index,
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """The needle is dead; ``code`` is that of a domain error."""

    code: str
    title: str
    detail: str

    @classmethod
    def of(cls, error: WarehouseError) -> "Refused":
        return cls(code=error.code, title=error.title, detail=error.detail)

    def as_json(self) -> dict[str, object]:
        return {"state": "refused", "code": self.code, "title": self.title, "detail": self.detail}


Verdict = Committed | Stored | Refused

_STATES: dict[str, type[Committed | Stored | Refused]] = {
    "committed": Committed,
    "stored": Stored,
    "refused": Refused,
}


def from_json(document: Mapping[str, Any]) -> Verdict:
    """The verdict that `as_json` made."""
    fields = dict(document)
    return _STATES[fields.pop("state")](**fields)


def rfc3339(when: datetime) -> str:
    """A moment as the API writes it: UTC, with microseconds and ``Z``."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
