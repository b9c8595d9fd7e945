"""What is damaged in a volume's file, as it is found, told and kept."""

from dataclasses import dataclass
from typing import Any

MAX_LISTED = 1000
"""Of a volume's damage so much is told one by one; of what goes beyond it only the number is known."""

BAD_CRC = "the CRC of its record does not match"
NO_RECORD = "there is no genuine record here"
CUT_OFF = "the file ends before it"
BAD_SUPERBLOCK = "this copy of the superblock is not what was written"
READ = "a read found that it is not what was written"


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a volume's file that are not what was written. ``needle``: whose record they are, if that is known."""

    offset: int
    size_bytes: int
    needle: int | None
    reason: str

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes

    def to_json(self) -> dict[str, object]:
        """As it stands in `/admin/damaged` and in `N.state`."""
        needle = None if self.needle is None else f"{self.needle:016x}"
        return {"needle": needle, "offset": self.offset, "bytes": self.size_bytes, "reason": self.reason}

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Damage":
        """Raises KeyError, TypeError, ValueError."""
        needle = found["needle"]
        return cls(
            int(found["offset"]),
            int(found["bytes"]),
            None if needle is None else int(needle, 16),
            str(found["reason"]),
        )


def name_needles(damage: Damage, needles: list[tuple[int, int, int]]) -> list[Damage]:
    """Damage of which no header tells whose it is, divided among the ``needles`` (id, offset, bytes) that lie there.

    Sorted by offset; what is nobody's stands between them, without a needle. All of it together is ``damage``.
    """
    divided, at = [], damage.offset
    for needle, offset, size_bytes in sorted(needles, key=lambda found: found[1]):
        if offset > at:
            divided.append(Damage(at, offset - at, None, damage.reason))
        divided.append(Damage(offset, min(size_bytes, damage.end - offset), needle, damage.reason))
        at = divided[-1].end
    if at < damage.end:
        divided.append(Damage(at, damage.end - at, None, damage.reason))
    return divided
