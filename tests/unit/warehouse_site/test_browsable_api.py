"""In a browser every address of the API is a page, with forms that begin with an example."""

import html
import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from keys.permissions import Permission
from tests.unit.buckets.lab import make_key
from tests.unit.warehouse_site.matrix_routes import ROUTES, Route, values
from tests.unit.warehouse_site.matrix_world import INSIDE, World
from tests.unit.warehouse_site.test_rights_matrix import FOUND, world  # noqa: F401 - a fixture
from warehouse_site.openapi import body_example

NO_PAGES = {"content", "schema", "jwks", "docs", "share", "share-download", "share-content"}
"""Bytes, documents for programs, and pages of their own."""
PAGES = [route for route in ROUTES if not route.case and route.name not in NO_PAGES]


@pytest.fixture
def browser(world: World) -> Client:  # noqa: F811
    client = Client(headers={"Accept": "text/html,*/*;q=0.8"})
    client.force_login(make_key(permissions=int(Permission.ADMIN)))
    return client


def page(browser: Client, route: Route, world: World) -> Any:  # noqa: F811
    known = values(world, INSIDE)
    url = reverse(route.name, kwargs={name: known[name]() for name in FOUND[route.name].arguments})
    return browser.get(url + (f"?{route.query}" if route.query else ""))


@pytest.mark.parametrize("route", [route for route in PAGES if route.method == "GET"], ids=str)
def test_every_get_is_a_page(route: Route, browser: Client, world: World) -> None:  # noqa: F811
    answer = page(browser, route, world)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    text = answer.content.decode()
    assert "<!DOCTYPE html>" in text
    assert "//cdn" not in text
    for script in re.findall(r"<script(.*?)>", text):
        assert "src=" in script or "application/json" in script, "the policy allows no script in the page"


@pytest.mark.parametrize("route", [route for route in PAGES if route.method in {"POST", "PATCH"}], ids=str)
def test_every_form_begins_with_an_example(route: Route, browser: Client, world: World) -> None:  # noqa: F811
    """Where there is nothing to GET, the page says so, and has the form all the same."""
    text = page(browser, route, world).content.decode()
    forms = re.findall(r"<form.*?</form>", text, re.DOTALL)
    [form] = [form for form in forms if f'title="Make a {route.method} request' in form]
    [raw] = re.findall(r"<textarea[^>]*>(.*?)</textarea>", form, re.DOTALL)
    path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", FOUND[route.name].path)
    example = body_example(path, route.method)
    if example is None:
        assert not raw.strip()
    else:
        assert json.loads(html.unescape(raw)) == example
