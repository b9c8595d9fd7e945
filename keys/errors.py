"""The root of every domain error, and what the keys app adds to it.

A domain error says what is wrong in the domain's words. `code` is stable and machine-readable, `title` a short
sentence that never changes with the case, `detail` the case at hand, `extra` further members of the problem
document. Which HTTP status that makes is decided in one place, `warehouse_site.problems`.
"""

from typing import ClassVar


class WarehouseError(Exception):
    """Base of all domain errors of the store."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request could not be carried out"

    def __init__(self, detail: str = "", **extra: object) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or f"{self.title}."
        self.extra = extra


class Invalid(WarehouseError):
    """Some value is not acceptable; `errors` maps field names to what is wrong with them."""

    code = "invalid"
    title = "The request is not valid"

    def __init__(self, detail: str = "", *, errors: dict[str, list[str]] | None = None, **extra: object) -> None:
        if errors is not None:
            extra["errors"] = errors
            detail = detail or "; ".join(f"{field}: {' '.join(texts)}" for field, texts in errors.items())
        super().__init__(detail, **extra)


class Unauthenticated(WarehouseError):
    """Nobody that the store knows: no credentials, or bad or dead ones."""

    code = "not_authenticated"
    title = "Authentication is needed"


class KeyRefused(Unauthenticated):
    """The key is unknown, wrong, expired or deleted; which of these is not told."""

    code = "key_refused"
    title = "The key is not valid"


class TokenRefused(Unauthenticated):
    """The token is malformed, expired, spent, revoked, or of a key that changed."""

    code = "token_refused"
    title = "The token is not valid"


class TooManyFailures(WarehouseError):
    """Too many failed log-ins from one address; `retry_after_s` says when to come back."""

    code = "too_many_failures"
    title = "Too many failed log-ins"


class PermissionDenied(WarehouseError):
    code = "permission_denied"
    title = "The key does not have this right"


class KeyTooStrong(PermissionDenied):
    """A key makes, edits and deletes only keys that are not stronger than itself."""

    code = "key_too_strong"
    title = "That key is stronger than the one used"


class NotFound(WarehouseError):
    code = "not_found"
    title = "There is no such thing"


class KeyUnknown(NotFound):
    code = "key_unknown"
    title = "There is no such key"


class Gone(WarehouseError):
    """It was there, and is over for good."""

    code = "gone"
    title = "This is over"


class Conflict(WarehouseError):
    code = "conflict"
    title = "The request conflicts with what is there"


class KeyChanged(Conflict):
    """Somebody changed the key since its editor saw it; saved now, what they did would be undone unseen."""

    code = "key_changed"
    title = "The key was changed meanwhile"


class LastAdmin(Conflict):
    """Nobody could administer the store any more."""

    code = "last_admin"
    title = "This is the last live ADMIN key"


class OtherKeyActs(Conflict):
    """The page was made for one key of the session, and another one of it acts by now."""

    code = "other_key_acts"
    title = "Another key acts in this session"


class PreconditionFailed(WarehouseError):
    code = "precondition_failed"
    title = "A precondition does not hold"


class OutOfRange(WarehouseError):
    """The part that was asked for is none of what is there; `size`: how much there is."""

    code = "out_of_range"
    title = "There is no such part"


class TooLarge(WarehouseError):
    code = "too_large"
    title = "The request is too large"


class NoSpace(WarehouseError):
    code = "no_space"
    title = "There is no room for this"


class Unavailable(WarehouseError):
    code = "unavailable"
    title = "This cannot be done at the moment"
