"""One range of bytes out of a Range header (RFC 9110, section 14). Pure functions."""

import re

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MAX_DIGITS = 19


class Unsatisfiable(ValueError):
    """The range lies behind the end."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte, inclusive, of what is asked for; None where the header asks for nothing we know.

    Several ranges, other units and nonsense are passed over, as a server may. Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not header.isascii() or max(map(len, match.groups())) > _MAX_DIGITS:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return max(size - int(last), 0), size - 1
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    return int(first), min(int(last), size - 1) if last else size - 1
