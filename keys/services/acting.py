"""Who works in this thread, from where, and through what: what the audit trail writes beside every change.

The doors of the house open a scope (middleware, the confirm lane, Celery's signals), authentication says who came in,
services only `record` what they do. Threads serve one request after the other, so a scope ends with its request;
where none is open it is somebody at the machine: a command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from keys.actions import Through


@dataclass(frozen=True, slots=True)
class Acting:
    """``key_id``: None for the system itself, or for somebody who is not known (yet). Texts may be empty."""

    through: Through = Through.COMMAND
    address: str = ""
    request_id: str = ""
    key_id: int | None = None
    key_name: str = ""


_AT_THE_MACHINE = Acting()
_scope: ContextVar[Acting | None] = ContextVar("acting", default=None)


def acting() -> Acting:
    return _scope.get() or _AT_THE_MACHINE


@contextmanager
def acting_as(who: Acting) -> Iterator[None]:
    """A scope; the one around it, if any, is back when it ends."""
    before = _scope.set(who)
    try:
        yield
    finally:
        _scope.reset(before)


def begin(who: Acting) -> None:
    """Opens a scope where its end is another call: `end`."""
    _scope.set(who)


def end() -> None:
    _scope.set(None)


def identify(*, key_id: int, key_name: str) -> None:
    """Says which key it is that works in the scope; without a scope nothing, for nobody would forget it again."""
    scope = _scope.get()
    if scope is not None:
        _scope.set(replace(scope, key_id=key_id, key_name=key_name))
