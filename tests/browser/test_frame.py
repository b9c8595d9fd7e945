"""The frame of every page: who is signed in, where one can go, what is told beside the page."""

import re

from playwright.sync_api import Browser, Page, expect

from keys.permissions import Permission
from tests.browser.conftest import sign_in_with, watched_page
from tests.support.store import Store

HOSTILE = '<img src=x onerror="document.title=1">' + "x" * 60


def make_key(store: Store, name: str, permissions: int = int(Permission.BUCKETS_READ)) -> str:
    return str(store.api().post("keys", {"name": name, "permissions": permissions})["key"])


def test_signing_in_leads_where_one_wanted_to_go(ui_store: Store, page: Page) -> None:
    page.goto(f"{ui_store.url}/keys?q=a%26b")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(ui_store.key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{ui_store.url}/keys?q=a%26b")
    page.locator("details.account summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("API key")).to_be_visible()


def test_keys_of_one_session_are_added_and_switched(chromium: Browser, ui_store: Store) -> None:
    with watched_page(chromium, storage_state=sign_in_with(ui_store.url, ui_store.key), base_url=ui_store.url) as page:
        page.goto("/")
        account = page.locator("details.account")
        account.locator("summary").click()
        account.get_by_role("link", name="Add another key").click()
        page.get_by_label("API key").fill(make_key(ui_store, HOSTILE))
        page.get_by_role("button", name="Add the key").dblclick(delay=20)
        expect(account.locator("summary")).to_contain_text(HOSTILE)
        expect(page.get_by_role("link", name="Keys", exact=True)).to_have_count(0)
        page.set_viewport_size({"width": 390, "height": 844})
        account.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(".menu-items").first.bounding_box()["x"] >= 0  # type: ignore[index]
        account.locator("summary").click()
        other = page.context.new_page()
        other.goto("/")
        account.locator("summary").click()
        account.get_by_role("button", name="Switch to").click()
        expect(page.locator(".toast")).to_contain_text("You act with the key")
        expect(page.get_by_role("link", name="Keys", exact=True)).to_be_visible()
        # The other tab still shows the page of the other key: what it sends does nothing.
        other.evaluate("htmx.ajax('GET', '/', { target: '#main' })")
        expect(other.locator(".toast.error")).to_contain_text("in another tab")
        account.locator("summary").click()
        account.get_by_role("button", name="Sign out <img").click()
        account.locator("summary").click()
        expect(account.get_by_text("Signed in with a key")).to_be_visible()
        assert page.title() != "1"


def test_messages_are_closed_and_never_pile_up(ui: Page) -> None:
    ui.goto("/")
    ui.evaluate("for (let n = 0; n < 3; n++) warehouse.toast('It failed.', 'error')")
    expect(ui.locator(".toast")).to_have_count(1)
    expect(ui.get_by_role("alert")).to_have_text(re.compile("It failed."))
    ui.evaluate("warehouse.toast('Another.', 'error')")
    ui.get_by_role("button", name="Close this message").first.click()
    expect(ui.locator(".toast")).to_have_count(1)
    ui.keyboard.press("Escape")
    expect(ui.locator(".toast")).to_have_count(0)
    expect(ui.locator("#toasts")).to_have_attribute("aria-live", "polite")


def test_everything_is_reached_by_keys(ui: Page) -> None:
    ui.goto("/")
    ui.keyboard.press("?")
    dialog = ui.get_by_role("dialog")
    expect(dialog).to_be_visible()
    ui.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    ui.keyboard.type("gk")
    expect(ui).to_have_url(re.compile("/keys$"))
    ui.keyboard.press("j")
    expect(ui.locator("main .table tbody tr").first.locator("a").first).to_be_focused()
    ui.keyboard.press("n")
    expect(ui).to_have_url(re.compile("/new-key$"))
    ui.get_by_label("Name").first.fill("gd?")
    expect(dialog).not_to_be_visible()
    expect(ui).to_have_url(re.compile("/new-key$"))


def test_a_theme_is_there_from_the_first_paint(ui: Page) -> None:
    ui.goto("/")
    root = ui.locator("html")
    ui.locator("details.account summary").click()
    ui.get_by_role("button", name="Dark").click()
    expect(root).to_have_attribute("data-theme", "dark")
    expect(ui.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    answer = ui.reload()
    assert answer is not None
    assert 'data-theme="dark"' in answer.text()
    ui.locator("details.account summary").click()
    ui.get_by_role("button", name="Auto").click()
    expect(root).not_to_have_attribute("data-theme", re.compile(""))
