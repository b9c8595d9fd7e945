"""The dashboard in a browser: it counts by itself, lives, and changes its span of time in place."""

import re

from playwright.sync_api import Browser, Page, StorageState, expect

from tests.browser.conftest import watched_page
from tests.support.store import Store

MAX_BYTES, MAX_REQUESTS = 100_000, 5


def test_it_counts_by_itself_and_tells_what_happens(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    ui.clock.install()
    ui.goto("/")
    expect(ui.locator("#figures").get_by_text("Free space")).to_be_visible()
    expect(ui.locator("#status")).to_contain_text("2 of 2 online")
    name = f"{ui_bucket} <b>&.txt"
    recent = ui.locator("#recent")
    expect(recent).to_be_visible()
    ui_store.api().put(ui_bucket, name, b"hello")
    ui.clock.run_for(11_000)
    expect(recent.get_by_text(name, exact=True)).to_be_visible()


def test_the_first_page_is_light(ui: Page) -> None:
    network = ui.context.new_cdp_session(ui)
    network.send("Network.enable")
    sizes: list[float] = []
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    ui.goto("/")
    expect(ui.locator("#figures").get_by_text("Free space")).to_be_visible()
    assert len(sizes) <= MAX_REQUESTS
    assert sum(sizes) < MAX_BYTES


def test_another_span_of_time_comes_in_place(ui: Page) -> None:
    ui.goto("/")
    ui.evaluate("window.stayed = true")
    week = ui.get_by_role("link", name="Week")
    week.focus()
    ui.keyboard.press("Enter")
    expect(week).to_have_attribute("aria-current", "true")
    expect(week).to_be_focused()
    expect(ui).to_have_url(re.compile(r"/\?range=week$"))
    ui.get_by_role("link", name="Table", exact=True).click()
    expect(ui).to_have_url(re.compile(r"/\?range=week&as=table$"))
    expect(ui.get_by_role("link", name="Plots", exact=True)).to_be_visible()
    assert ui.evaluate("window.stayed")
    ui.go_back()
    expect(week).to_have_attribute("aria-current", "true")


def test_without_javascript_links_lead_to_the_same(chromium: Browser, ui_store: Store, signed_in: StorageState) -> None:
    with watched_page(chromium, storage_state=signed_in, base_url=ui_store.url, java_script_enabled=False) as page:
        page.goto("/?range=hour")
        page.get_by_role("link", name="Count buckets").click()
        expect(page.get_by_text("Free space")).to_be_visible()
        expect(page.get_by_role("link", name="Hour")).to_have_attribute("aria-current", "true")
        page.get_by_role("link", name="Month").click()
        expect(page.get_by_role("link", name="Month")).to_have_attribute("aria-current", "true")
        expect(page.get_by_text("Free space")).to_be_visible()
