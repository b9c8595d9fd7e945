"""Tags and filters of the web UI's templates."""

from datetime import datetime
from typing import Any, Final

from django import template
from django.http import HttpRequest, QueryDict
from django.template import Context
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from keys.printable import bytes_text, shown
from keys.ring import KEY_FIELD

register = template.Library()
register.filter("bytes", bytes_text)
register.filter(shown)

_LONGEST_AGE_S: Final = 30 * 24 * 3600
"""What is older is told by its date."""

# Drawn on a grid of 24 by 24, by lines alone.
_ICONS: Final = {
    "dashboard": "M4 13h6V4H4zM14 20h6v-9h-6zM4 20h6v-3H4zM14 7h6V4h-6z",
    "bucket": "M4 7c0 1.7 3.6 3 8 3s8-1.3 8-3-3.6-3-8-3-8 1.3-8 3zM4 7l2 12c.3 1.2 3 2 6 2s5.7-.8 6-2l2-12",
    "folder": "M3 6a1 1 0 0 1 1-1h5l2 2.5h9a1 1 0 0 1 1 1V18a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1z",
    "file": "M6 3h8l4 4v14H6zM14 3v4h4",
    "server": "M4 4h16v7H4zM4 13h16v7H4zM8 7.5h.01M8 16.5h.01",
    "volume": "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
    "key": "M13 8.5a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0zM11.7 11.7L20 20M15.5 15.5l3-3",
    "share": "M8.5 13.3l7 4M15.5 6.7l-7 4M18 8a2.5 2.5 0 1 0-2.5-2.5A2.5 2.5 0 0 0 18 8zM6 14.5A2.5 "
    "2.5 0 1 0 3.5 12 2.5 2.5 0 0 0 6 14.5zM18 21a2.5 2.5 0 1 0-2.5-2.5A2.5 2.5 0 0 0 18 21z",
    "activity": "M3 12h4l3-8 4 16 3-8h4",
    "plus": "M12 5v14M5 12h14",
    "search": "M11 18a7 7 0 1 0-7-7 7 7 0 0 0 7 7zM20 20l-4-4",
    "upload": "M12 16V4M7 9l5-5 5 5M4 16v4h16v-4",
    "download": "M12 4v12M7 11l5 5 5-5M4 16v4h16v-4",
    "trash": "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
    "edit": "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
    "copy": "M9 9h11v11H9zM5 15H4V4h11v1",
    "more": "".join(f"M{x}.5 12a.5.5 0 1 0 1 0a.5.5 0 1 0-1 0" for x in (4, 11, 18)),
    "close": "M6 6l12 12M18 6L6 18",
    "check": "M5 13l4 4L19 7",
    "warn": "M12 4l9 16H3zM12 10v4M12 17h.01",
    "error": "M12 21a9 9 0 1 0-9-9 9 9 0 0 0 9 9zM12 8v5M12 16h.01",
    "info": "M12 21a9 9 0 1 0-9-9 9 9 0 0 0 9 9zM12 11v5M12 8h.01",
    "menu": "M4 7h16M4 12h16M4 17h16",
    "sun": "M12 16a4 4 0 1 0-4-4 4 4 0 0 0 4 4zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4"
    "M5.6 18.4L7 17M17 7l1.4-1.4",
    "moon": "M20 14a8 8 0 1 1-10-10 6.5 6.5 0 0 0 10 10z",
    "user": "M12 12a4 4 0 1 0-4-4 4 4 0 0 0 4 4zM4 21c0-4 4-6 8-6s8 2 8 6",
    "out": "M10 4H4v16h6M15 8l4 4-4 4M19 12H9",
    "chevron": "M9 6l6 6-6 6",
    "up": "M12 19V5M6 11l6-6 6 6",
    "link": "M10 14a4 4 0 0 0 6 .5l3-3a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-6-.5l-3 3a4 4 0 0 0 5.7 5.7l1-1",
    "eye": "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 15a3 3 0 1 0-3-3 3 3 0 0 0 3 3z",
    "lock": "M6 11h12v9H6zM8 11V8a4 4 0 0 1 8 0v3",
    "pause": "M9 5v14M15 5v14",
    "play": "M7 5l11 7-11 7z",
    "retry": "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
    "image": "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 5M9 9h.01",
    "audio": "M9 18a3 3 0 1 1-3-3 3 3 0 0 1 3 3zM9 18V6l11-2v12M20 16a3 3 0 1 1-3-3 3 3 0 0 1 3 3z",
    "video": "M3 6h12v12H3zM15 10l6-3v10l-6-3",
    "archive": "M4 4h16v4H4zM5 8v12h14V8M10 12h4",
    "code": "M8 7l-5 5 5 5M16 7l5 5-5 5",
    "text": "M6 4h12v16H6zM9 8h6M9 12h6M9 16h4",
    "pdf": "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
}


@register.filter
def count(value: int | None) -> str:
    """``1,234,567``"""
    return "–" if value is None else f"{value:,}"


@register.simple_tag
def when(moment: datetime | None, empty: str = "never") -> SafeString | str:
    """How long ago, or when; the exact time is in the title."""
    if moment is None:
        return empty
    now = timezone.now()
    exact = date_format(timezone.localtime(moment), "j F Y, H:i:s") + " UTC"
    distance_s = abs((now - moment).total_seconds())
    if distance_s > _LONGEST_AGE_S:
        words = date_format(timezone.localtime(moment), "j M Y")
    elif distance_s < 60:
        words = "just now" if moment <= now else "in a moment"
    elif moment <= now:
        words = f"{timesince(moment, now, depth=1)} ago"
    else:
        words = f"in {timesince(now, moment + (moment - now) / 100, depth=1)}"  # a week from now is no six days
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, words)


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """An icon; without a label it is an ornament that screen readers pass over."""
    role = format_html('role="img" aria-label="{}"', label) if label else mark_safe('aria-hidden="true"')
    return format_html('<svg class="icon" viewBox="0 0 24 24" {}><path d="{}"/></svg>', role, _ICONS[name])


@register.simple_tag
def badge(text: object, tone: str = "soft") -> SafeString:
    """A short state; ``tone``: ok, warn, bad, soft."""
    return format_html('<span class="badge {}">{}</span>', tone, text)


@register.simple_tag
def meter(total: int, used: int = 0, garbage: int = 0, label: str = "") -> SafeString:
    """A bar of what is used and what of it is garbage; the figures are in its name."""
    whole = max(total, 1)
    garbage_width = min(100.0, 100 * garbage / whole)
    live_width = max(0.0, min(100.0, 100 * used / whole) - garbage_width)
    tone = "bad" if used > 0.95 * whole else "warn" if used > 0.85 * whole else ""
    return format_html(
        '<svg class="meter {}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="all" width="100" height="8"/><rect class="live" width="{}" height="8"/>'
        '<rect class="garbage" x="{}" width="{}" height="8"/></svg>',
        tone,
        label or f"{bytes_text(used)} of {bytes_text(total)} used",
        f"{live_width:.2f}",
        f"{live_width:.2f}",
        f"{garbage_width:.2f}",
    )


@register.simple_tag(takes_context=True)
def live(context: Context, seconds: int = 5) -> SafeString:
    """Attributes of a part that fetches itself anew while somebody looks at it."""
    request: HttpRequest = context["request"]
    return format_html(
        'data-live hx-get="{}" hx-trigger="every {}s" hx-target="this" hx-swap="outerHTML"',
        request.get_full_path(),
        seconds,
    )


@register.simple_tag(takes_context=True)
def query(context: Context, **changes: Any) -> str:
    """The query of this address with some of its values changed, or taken out where they are empty: ``?a=1&b=2``."""
    given: QueryDict = context["request"].GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            given.pop(name, None)
        else:
            given[name] = str(value)
    return f"?{given.urlencode()}" if given else "?"


@register.simple_tag(takes_context=True)
def csrf_token(context: Context) -> SafeString:
    """Django's own, and the key that the form is made for: in another tab one may switch to another (`keys.ring`)."""
    key = getattr(context.get("user"), "pk", None)
    fields = format_html('<input type="hidden" name="csrfmiddlewaretoken" value="{}">', context.get("csrf_token", ""))
    return (
        fields if key is None else format_html('{}<input type="hidden" name="{}" value="{}">', fields, KEY_FIELD, key)
    )
