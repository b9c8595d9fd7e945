"""Tags of the place on an object's page where its preview stands."""

from typing import Protocol

from django import template
from django.http import QueryDict
from django.template import Context
from django.utils.http import urlencode

from buckets.previews.plans import Plan, plan

register = template.Library()


class Previewed(Protocol):
    """What is asked of an object, be it a row or what a selector found."""

    key: str
    size: int
    content_type: str


@register.simple_tag(takes_context=True)
def preview_plan(context: Context, shown: Previewed) -> Plan:
    """How the object is to be shown, as the page's address has it."""
    asked: QueryDict = context["request"].GET
    return plan(
        key=shown.key,
        content_type=shown.content_type,
        size=shown.size,
        way=asked.get("as", ""),
        window=asked.get("bytes", ""),
    )


@register.simple_tag
def preview_query(shown: Previewed, chosen: Plan) -> str:
    """The query of the preview's own address."""
    if chosen.element in ("image", "audio", "video"):
        return urlencode({"key": shown.key, "as": "file"})
    return urlencode({"key": shown.key, "as": "raw" if chosen.is_raw else "formatted", "bytes": chosen.window})
