"""The walk through the web UI leaves out no page."""

from collections.abc import Iterable, Iterator

from django.urls import URLPattern, URLResolver, get_resolver

from tests.browser.walk import NO_PAGES, WALK


def pages(patterns: Iterable[URLPattern | URLResolver]) -> Iterator[str]:
    """Names of what people look at: views of the web modules that have a template, or answer a GET."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from pages(pattern.url_patterns)
        elif ".web." in pattern.callback.__module__ and pattern.name and pattern.name != "login":
            view = getattr(pattern.callback, "view_class", None)
            assert view is not None
            if "get" in view.http_method_names or hasattr(view, "template_name"):
                yield pattern.name


def test_every_page_is_in_the_walk_and_every_walked_one_is_there() -> None:
    walked = {stop.name for stop in WALK}
    assert walked | NO_PAGES == set(pages(get_resolver().url_patterns)), "see tests/browser/walk.py"


def test_stops_have_names_of_their_own() -> None:
    slugs = [(stop.slug, stop.anonymous) for stop in WALK]
    assert len(set(slugs)) == len(slugs)
