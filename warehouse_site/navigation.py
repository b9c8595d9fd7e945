"""What the frame of every page shows: the menu of what the key may look at, the session's keys, the chosen theme."""

from dataclasses import dataclass

from django.http import HttpRequest

from keys.permissions import Permission
from keys.rights import KeyRights
from keys.ring import held_keys
from keys.web.pages import rights_of_request
from warehouse_site import logs


@dataclass(frozen=True, slots=True)
class Entry:
    """A section: ``name`` is its page's URL name, too."""

    name: str
    title: str
    icon: str
    shortcut: str
    """What is typed after g to go there."""
    needs: tuple[Permission, ...] = ()
    """One of these is enough."""
    everywhere: bool = True
    """False: it is enough to have that in some bucket, or for some keys of one."""


ENTRIES = (
    Entry("dashboard", "Dashboard", "dashboard", "d"),
    Entry(
        "buckets",
        "Buckets",
        "bucket",
        "b",
        (Permission.BUCKETS_READ, Permission.OBJECTS_READ, Permission.OBJECTS_WRITE),
        everywhere=False,
    ),
    Entry("shares", "Shares", "share", "s", (Permission.SHARE,), everywhere=False),
    Entry("servers", "Servers", "server", "e", (Permission.VOLUMES_READ,)),
    Entry("volumes", "Volumes", "volume", "v", (Permission.VOLUMES_READ,)),
    Entry("keys", "Keys", "key", "k", (Permission.KEYS_READ, Permission.KEYS_MANAGE)),
    Entry("activity", "Activity", "activity", "a", (Permission.ADMIN,)),
)


THEME_COOKIE = "theme"
THEMES = ("light", "dark")
"""Those that one can choose; else it is as the system has it."""


def navigation(request: HttpRequest) -> dict[str, object]:
    """A context processor. Nothing is asked of the database before a template shows it."""
    theme = request.COOKIES.get(THEME_COOKIE, "")
    return {
        "navigation": lambda: _entries(request),
        "held_keys": lambda: held_keys(request) if hasattr(request, "session") else [],
        "theme": theme if theme in THEMES else "",
        "request_id": logs.request_id.get(),
    }


def _entries(request: HttpRequest) -> list[Entry]:
    rights = rights_of_request(request) if hasattr(request, "user") else None
    if rights is None:
        return []
    return [entry for entry in ENTRIES if _may_see(entry, rights)]


def _may_see(entry: Entry, rights: KeyRights) -> bool:
    if not entry.needs or any(rights.allows(right) for right in entry.needs):
        return True
    return not entry.everywhere and any(rights.buckets(right) for right in entry.needs)
