"""Signing in with a key, in the admin site and in the browsable API."""

import re

from playwright.sync_api import Page, expect

from tests.support.store import Store


def sign_in(page: Page, key: str) -> None:
    page.locator("form input:not([type=hidden])").first.fill(key)
    page.locator("form [type=submit]").first.click()


def test_admin_site_opens_with_a_key(store: Store, page: Page, bucket: str) -> None:
    page.goto(store.url + "/admin/")
    expect(page).to_have_url(re.compile("/login"))
    sign_in(page, store.key)
    expect(page).to_have_url(store.url + "/admin/")
    page.get_by_role("link", name="Buckets", exact=True).first.click()
    expect(page.get_by_role("link", name=bucket, exact=True)).to_be_visible()
    for model in ("buckets/object", "buckets/chunk", "buckets/upload", "volumes/server", "volumes/volume",
                  "volumes/replica", "keys/apikey"):  # fmt: skip
        answer = page.goto(f"{store.url}/admin/{model}/")
        assert answer is not None
        assert answer.status == 200, model


def test_wrong_key_does_not_open_it(store: Store, page: Page) -> None:
    page.goto(store.url + "/admin/")
    sign_in(page, "whk_1_" + "x" * 43)
    expect(page).to_have_url(re.compile("/login"))
    assert page.context.cookies() == [c for c in page.context.cookies() if c["name"] != "sessionid"]
    page.goto(store.url + "/admin/buckets/bucket/")
    expect(page).to_have_url(re.compile("/login"))


def test_browsable_api_opens_with_a_key(store: Store, page: Page, bucket: str) -> None:
    page.goto(store.url + "/admin/")
    sign_in(page, store.key)
    page.goto(store.url + "/api/v1/buckets")
    expect(page.get_by_text("200 OK")).to_be_visible()
    expect(page.locator(".response-info")).to_contain_text(bucket)


def test_api_docs_load_without_the_internet(store: Store, page: Page) -> None:
    foreign: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((store.url, "data:", "blob:"))
            else foreign.append(request.url))  # fmt: skip
    page.goto(store.url + "/api/docs")
    expect(page.get_by_text("/api/v1/buckets", exact=True).first).to_be_visible()
    assert foreign == []
