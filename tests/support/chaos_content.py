"""Objects that say themselves which they are: key, version and size stand in the bytes, and decide all the others.

So a reader without any other knowledge tells a whole object from a mix of two, and from one with a wrong bit.
"""

import hashlib
from dataclasses import dataclass

MAGIC = b"\x8dchaos\x8d\n"
"""Begins every block, so that a fault proxy knows objects' bytes from all else that goes by."""
BLOCK_BYTES = 16 << 10
MIN_BYTES = 128


class Mixed(Exception):
    """Bytes that are no object, or parts of several."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One version of an object, as it was put: a copy keeps that of its source. ``version`` grows with every put."""

    version: int
    size: int
    key: str

    def __str__(self) -> str:
        return f"{self.version}:{self.size}:{self.key}"

    @classmethod
    def of(cls, text: str) -> "Identity":
        """The identity of its text. Raises ValueError."""
        version, size, key = text.split(":", 2)
        return cls(int(version), int(size), key)

    def body(self) -> bytes:
        """All bytes of the object."""
        blocks = []
        for number, start in enumerate(range(0, self.size, BLOCK_BYTES)):
            head = MAGIC + (f"{self}\n".encode() if number == 0 else b"")
            digest = hashlib.shake_128(f"{number} {self}".encode())
            blocks.append((head + digest.digest(BLOCK_BYTES - len(head)))[: self.size - start])
        return b"".join(blocks)


def identify(body: bytes) -> Identity:
    """Which object these are all the bytes of. Raises Mixed."""
    line = body[: MIN_BYTES * 2].partition(b"\n")[2].partition(b"\n")[0]
    try:
        identity = Identity.of(line.decode())
    except ValueError:
        raise Mixed(f"{len(body)} bytes that begin with {body[:60]!r}") from None
    expected = identity.body()
    if body == expected:
        return identity
    if len(body) != len(expected):
        raise Mixed(f"{len(body)} bytes of {identity}")
    wrong = next(at for at, (one, other) in enumerate(zip(body, expected, strict=True)) if one != other)
    count = sum(one != other for one, other in zip(body, expected, strict=True))
    raise Mixed(f"{identity} with {count} bytes wrong, the first at {wrong}")
