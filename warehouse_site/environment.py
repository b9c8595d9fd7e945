"""Reading settings from environment variables.

Every variable is declared with its default and its meaning in one breath, and remembered, so that the documents
and the system checks can be held against what the code reads. A value that cannot be understood is kept as a
finding (the check `warehouse.E001` reports it) and the default is used until then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Variable:
    """One documented environment variable; `default` as one would write it."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A variable whose value could not be used, and why."""

    name: str
    value: str
    reason: str


def parse_size(text: str) -> int:
    """Bytes of `80MiB`, `16 GiB` or `1024`. Raises ValueError."""
    digits = text.strip().rstrip("BbIiKkMmGgTt ")
    unit = text.strip()[len(digits) :].strip().upper()
    if not digits.isascii() or not digits.isdigit() or unit not in _UNITS:
        raise ValueError("a size is a whole number of bytes, KiB, MiB, GiB or TiB, such as 80MiB")
    return int(digits) * _UNITS[unit]


class Environment:
    """A reader over a mapping of variables."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.variables: list[Variable] = []
        self.findings: list[Finding] = []

    def text(self, name: str, default: str, meaning: str) -> str:
        return self._read(name, default, meaning, lambda text: text)

    def number(self, name: str, default: str, meaning: str, *, least: int, most: int) -> int:
        return self._read(name, default, meaning, lambda text: _within(_whole(text), least, most))

    def size(self, name: str, default: str, meaning: str, *, least: int, most: int) -> int:
        """A number of bytes, written with or without a unit."""
        return self._read(name, default, meaning, lambda text: _within(parse_size(text), least, most))

    def choice(self, name: str, default: str, meaning: str, *, of: tuple[str, ...]) -> str:
        def parse(text: str) -> str:
            if text not in of:
                raise ValueError(f"one of {', '.join(of)} is expected")
            return text

        return self._read(name, default, meaning, parse)

    def flag(self, name: str, default: str, meaning: str) -> bool:
        return self.choice(name, default, meaning, of=("0", "1")) == "1"

    def url(self, name: str, default: str, meaning: str) -> str:
        """An http or https origin, without a slash at its end."""

        return self._read(name, default, meaning, lambda text: _origin(text) if text else "")

    def names(self, name: str, default: str, meaning: str) -> list[str]:
        """A comma-separated list."""
        return self._read(name, default, meaning, lambda text: [part.strip() for part in text.split(",") if part])

    def hours(self, name: str, default: str, meaning: str) -> tuple[int, int] | None:
        """A span of the day such as `22-6`, from the beginning of one hour to that of the other; empty: None."""
        return self._read(name, default, meaning, lambda text: _hours(text) if text else None)

    def _read(self, name: str, default: str, meaning: str, parse: Callable[[str], T]) -> T:
        self.variables.append(Variable(name, default, meaning))
        value = self._values.get(name, "")
        if value:
            try:
                return parse(value)
            except ValueError as error:
                self.findings.append(Finding(name, value, str(error)))
        return parse(default)


def _origin(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL that starts with http:// or https:// is expected")
    parts = urlsplit(text)
    if not parts.hostname or parts.port == 0:
        raise ValueError("a URL with a host is expected")
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("only a scheme, a host and a port are expected: the store is served at the root of its origin")
    return f"{parts.scheme}://{parts.netloc}"


def _hours(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        begin, end = _within(_whole(first.strip()), 0, 23), _within(_whole(last.strip()), 0, 24)
    except ValueError:
        begin = end = 0
    if begin == end:
        raise ValueError("two hours of the day are expected, such as 22-6")
    return begin, end


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("a whole number is expected")
    return int(text)


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"a value from {least} to {most} is expected")
    return value
