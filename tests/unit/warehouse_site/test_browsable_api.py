"""In a browser every address of the API is a page, with forms that begin with an example, or with what is there."""

import html
import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.lab import make_key
from tests.unit.warehouse_site.matrix_routes import ROUTES, Route, values
from tests.unit.warehouse_site.matrix_world import INSIDE, World
from tests.unit.warehouse_site.test_rights_matrix import FOUND
from warehouse_site.openapi import body_example

NO_PAGES = {"content", "schema", "jwks", "docs", "share", "share-download", "share-content"}
"""Bytes, documents for programs, and pages of their own."""
PAGES = [route for route in ROUTES if not route.case and route.name not in NO_PAGES]


@pytest.fixture
def browser(world: World) -> Client:
    client = Client(headers={"Accept": "text/html,*/*;q=0.8"})
    client.force_login(make_key(permissions=int(Permission.ADMIN)))
    return client


def page(browser: Client, route: Route, world: World) -> Any:
    known = values(world, INSIDE)
    url = reverse(FOUND[route.name].full_name, kwargs={name: known[name]() for name in FOUND[route.name].arguments})
    return browser.get(url + (f"?{route.query}" if route.query else ""))


@pytest.mark.parametrize("route", [route for route in PAGES if route.method == "GET"], ids=str)
def test_every_get_is_a_page(route: Route, browser: Client, world: World) -> None:
    answer = page(browser, route, world)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    text = answer.content.decode()
    assert "<!DOCTYPE html>" in text
    assert "//cdn" not in text
    for script in re.findall(r"<script(.*?)>", text):
        assert "src=" in script or "application/json" in script, "the policy allows no script in the page"


def content_of_form(text: str, method: str) -> str:
    """What the form of a method begins with."""
    forms = re.findall(r"<form.*?</form>", text, re.DOTALL)
    [form] = [form for form in forms if f'title="Make a {method} request' in form]
    [raw] = re.findall(r"<textarea[^>]*>(.*?)</textarea>", form, re.DOTALL)
    return html.unescape(raw).strip()


@pytest.mark.parametrize("route", [route for route in PAGES if route.method == "POST"], ids=str)
def test_every_form_begins_with_an_example(route: Route, browser: Client, world: World) -> None:
    """Where there is nothing to GET, the page says so, and has the form all the same."""
    content = content_of_form(page(browser, route, world).content.decode(), route.method)
    path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", FOUND[route.name].path)
    example = body_example(path, route.method)
    if example is None:
        assert not content
    else:
        assert json.loads(content) == example


CHANGING = [route for route in PAGES if route.method in {"PATCH", "PUT"}]


@pytest.mark.parametrize("route", CHANGING, ids=str)
def test_forms_of_changes_begin_with_what_is_there(route: Route, browser: Client, world: World) -> None:
    """One click on a page must not set all of a real bucket to the example of the documentation."""
    shown = page(browser, route, world)
    content = json.loads(content_of_form(shown.content.decode(), route.method))
    url = shown.request["PATH_INFO"]
    before = browser.get(url, headers={"Accept": "application/json"}).json()
    assert content
    assert content.items() <= before.items() or "grants" in content
    same = browser.generic(route.method, url, json.dumps(content), content_type="application/json")
    assert same.status_code == 200, same.content
    assert browser.get(url, headers={"Accept": "application/json"}).json() == before
    # The page that answers a change begins with what came of it, one that refuses with nothing.
    again = content_of_form(same.content.decode(), route.method)
    assert json.loads(again) == content
    refused = browser.generic(route.method, url, '{"nonsense": 1}', content_type="application/json")
    assert json.loads(content_of_form(refused.content.decode(), route.method)) == {}


def test_a_key_is_offered_with_its_grants(browser: Client) -> None:
    key = make_key(grants=(GrantRow("photos", "a/", int(Permission.OBJECTS_READ)),))
    text = browser.get(f"/api/v1/keys/{key.pk}").content.decode()
    content = json.loads(content_of_form(text, "PATCH"))
    assert content["grants"] == [{"bucket": "photos", "prefix": "a/", "permissions": 1}]
    assert "id" not in content


def test_metadata_is_offered_whole(browser: Client, world: World) -> None:
    bucket = world.lab.bucket.name
    world.lab.put("k", bucket=bucket, metadata={"a": "1", "b": "2"})
    text = browser.get(f"/api/v1/buckets/{bucket}/objects/k").content.decode()
    assert json.loads(content_of_form(text, "PATCH"))["metadata"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize("path", ["keys/999", "shares/999", "buckets/none", "buckets/none/objects/k"])
def test_what_is_not_there_has_an_empty_form(browser: Client, world: World, path: str) -> None:
    answer = browser.get(f"/api/v1/{path}")
    assert answer.status_code == 404
    assert json.loads(content_of_form(answer.content.decode(), "PATCH")) == {}
