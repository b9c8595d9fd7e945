"""The keys that one browser session holds: one of them acts, the others can be switched to.

    session["ring"]  [[key id, session hash], ...]     the one that was signed in with last stands last
    Django's own entries                               which of them acts

Each is bound to its session hash, as Django binds the one that acts: a key that was weakened, deleted or has expired
drops out by itself and takes no other with it.
"""

from typing import Final

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.middleware import get_user
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from keys.errors import KeyUnknown, OtherKeyActs
from keys.models import ApiKey
from keys.printable import printable
from keys.services.sign_in import mark_used, record_sign_out

MAX_KEYS: Final = 10
"""With an eleventh the one that was signed in with longest ago leaves."""
KEY_HEADER: Final = "Acting-Key"
KEY_FIELD: Final = "acting_key"
_RING: Final = "ring"
_CARRIED: Final = "_ring_carried"
"""On a request: the ring as it was before Django emptied the session for another key."""


def acting_key(request: HttpRequest) -> ApiKey | AnonymousUser:
    """Whose session it is. One whose key was weakened is emptied by Django; the ring is put back, for the others."""
    ring = request.session.get(_RING)
    user = get_user(request)
    if ring and _RING not in request.session:
        request.session[_RING] = ring
    assert isinstance(user, (ApiKey, AnonymousUser))
    return user


def held_keys(request: HttpRequest) -> list[ApiKey]:
    """The keys of this session that are still good, in the order in which they were signed in with.

    One query, and none where the key that acts is the only one.
    """
    entries = _entries(request.session)
    acting = getattr(request, "user", None)
    if isinstance(acting, ApiKey) and [key_id for key_id, _ in entries] == [acting.pk]:
        return [acting]
    rows = ApiKey.objects.in_bulk([key_id for key_id, _ in entries])
    good = [(rows[key_id], bound) for key_id, bound in entries if key_id in rows and _is_bound(rows[key_id], bound)]
    if len(good) < len(entries):
        _keep(request.session, [(key.pk, bound) for key, bound in good])
    return [key for key, _ in good]


def carry_ring(request: HttpRequest) -> None:
    """To be called before a sign-in, which empties the session of another key."""
    if hasattr(request, "session"):
        setattr(request, _CARRIED, _entries(request.session))


def add_to_ring(request: HttpRequest, key: ApiKey) -> None:
    """Puts the key that has just signed in beside those that were there before."""
    others = [entry for entry in getattr(request, _CARRIED, []) if entry[0] != key.pk]
    for gone in ApiKey.objects.filter(pk__in=[key_id for key_id, _ in others[: 1 - MAX_KEYS]]):
        record_sign_out(key=gone)
    _keep(request.session, [*others[1 - MAX_KEYS :], (key.pk, key.get_session_auth_hash())])


def switch_to(request: HttpRequest, *, key_id: int) -> ApiKey:
    """Has another of the session's keys act from here on. Raises KeyUnknown when it is none of them (any more)."""
    key = _held(request, key_id)
    session = request.session
    session[SESSION_KEY] = str(key.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = key.get_session_auth_hash()
    session.cycle_key()  # a session's id never stands for two keys
    request.user = key
    mark_used(key=key)
    return key


def leave(request: HttpRequest, *, key_id: int) -> ApiKey | None:
    """Signs one key out. The key that acts then: of those left the last one if it was the acting one; None: nobody.

    Raises KeyUnknown when the session does not hold it.
    """
    left = _held(request, key_id)
    others = [key for key in held_keys(request) if key != left]
    record_sign_out(key=left)
    _keep(request.session, [entry for entry in _entries(request.session) if entry[0] != left.pk])
    acting = request.user
    if isinstance(acting, ApiKey) and acting != left:
        return acting
    if others:
        return switch_to(request, key_id=others[-1].pk)
    request.session.flush()
    request.user = AnonymousUser()
    return None


def require_same_key(request: HttpRequest, *, said: str | None, advice: str = "load the page again") -> None:
    """Raises OtherKeyActs where what asks was made for another key than acts now; ``said`` is that key's id, if any.

    ``advice``: what its reader can do then. Pages say so in a field of their forms (`KEY_FIELD`) and, by their scripts,
    in a header (`KEY_HEADER`).
    """
    acting = request.user
    if said and isinstance(acting, ApiKey) and said != str(acting.pk):
        raise OtherKeyActs(
            f"You switched to the key “{printable(acting.name)}” in another tab. Nothing was done: {advice}."
        )


def _held(request: HttpRequest, key_id: int) -> ApiKey:
    for key in held_keys(request):
        if key.pk == key_id:
            return key
    raise KeyUnknown("You are not signed in with that key any more.")


def _entries(session: SessionBase) -> list[tuple[int, str]]:
    """Ids and hashes, those of the acting key included, be its session from before there were rings."""
    entries = [(int(key_id), str(bound)) for key_id, bound in session.get(_RING, [])]
    acting = session.get(SESSION_KEY)
    if acting is not None and int(acting) not in [key_id for key_id, _ in entries]:
        entries.append((int(acting), session.get(HASH_SESSION_KEY, "")))
    return entries


def _keep(session: SessionBase, entries: list[tuple[int, str]]) -> None:
    session[_RING] = [list(entry) for entry in entries]


def _is_bound(key: ApiKey, bound: str) -> bool:
    return key.is_active and constant_time_compare(bound, key.get_session_auth_hash())
