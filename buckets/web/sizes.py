"""Sizes as people type them."""

import re
from typing import Final

_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50,
}  # fmt: skip
_NAMES: Final = (
    ("PB", 10**15), ("PiB", 1 << 50), ("TB", 10**12), ("TiB", 1 << 40), ("GB", 10**9), ("GiB", 1 << 30),
    ("MB", 10**6), ("MiB", 1 << 20), ("kB", 10**3), ("KiB", 1 << 10),
)  # fmt: skip
_GROUP: Final = 3
"""Digits between marks of thousands, be these commas or dots."""
_SIZE: Final = re.compile(r"\s*([0-9]{1,20})(?:[.,]([0-9]{1,6}))?\s*([A-Za-z]{0,3})\s*", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of ``10 GB``, ``1.5 TiB`` or ``1024``. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise ValueError("A size is a number and a unit, such as 500 MB, 10 GB or 1.5 TiB.")
    whole, fraction = match[1], match[2] or ""
    if len(fraction) == _GROUP and whole != "0":
        exact = fraction.rstrip("0") or "0"
        exact = exact if len(exact) < _GROUP else f"{fraction}0"
        raise ValueError(
            f"A size is read in two ways where three digits follow: type {whole}{fraction}, or {whole}.{exact}."
        )
    parts_of_byte = int(10 ** len(fraction))
    size_bytes, rest = divmod(int(whole + fraction) * unit, parts_of_byte)
    if rest and (unit == 1 or not size_bytes):
        raise ValueError("A size is a number of whole bytes.")
    return size_bytes


def written_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` makes the same number of."""
    for name, unit in _NAMES:
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"
