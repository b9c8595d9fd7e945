"""Keys in the web UI: made, changed, ended; the number and the JSON follow what is chosen."""

import json
import re

import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import sign_in_with, watched_page
from tests.support.store import Store

HOSTILE = "by hand a b/<img onerror=…>#?%.txt"


def shown_json(page: Page) -> dict[str, object]:
    text = page.locator("#body").text_content()
    assert text is not None
    found: dict[str, object] = json.loads(text)
    return found


def test_a_key_is_made_by_hand_and_works(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    ui.goto("/keys")
    ui.get_by_role("link", name="New key").click()
    ui.get_by_label("Name", exact=True).fill(HOSTILE)
    ui.get_by_role("button", name="Read only").click()
    expect(ui.locator("#bits")).to_have_text("9")
    ui.get_by_label("Read and list objects").uncheck()
    expect(ui.locator("#bits")).to_have_text("8")
    row = ui.get_by_role("group", name="Grant 1")
    row.get_by_label("Bucket", exact=True).fill(ui_bucket)
    expect(ui.locator("#bucket-names option", has_text=ui_bucket)).to_have_count(1)
    row.get_by_label("Prefix").fill("a/<b>")
    row.get_by_label("read", exact=True).check()
    row.get_by_label("write", exact=True).check()
    ui.get_by_role("button", name="Add a grant").click()
    expect(ui.get_by_role("group", name="Grant 2").get_by_label("Bucket", exact=True)).to_be_focused()
    ui.keyboard.type("another")
    ui.get_by_role("button", name="Remove this grant").nth(1).click()
    expect(ui.get_by_role("group", name="Grant 2")).to_have_count(0)
    assert shown_json(ui) == {
        "name": HOSTILE,
        "permissions": 8,
        "grants": [{"bucket": ui_bucket, "prefix": "a/<b>", "permissions": 3}],
    }
    ui.get_by_role("button", name="Make the key").dblclick(delay=20)
    secret = ui.locator("#secret").inner_text()
    assert re.fullmatch(r"whk_\d+_[\w-]{20,}", secret)
    ui.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ui.get_by_role("button", name="Copy").click()
    expect(ui.get_by_text("Copied.")).to_be_visible()
    assert ui.evaluate("navigator.clipboard.readText()") == secret
    token = requests.post(f"{ui_store.url}/api/v1/tokens", json={"key": secret}, timeout=10).json()["access"]
    said = requests.get(f"{ui_store.url}/api/v1/buckets", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert ui_bucket in [bucket["name"] for bucket in said.json()["results"]]
    ui.get_by_role("link", name="All keys").click()
    ui.get_by_label("Search keys").fill("by hand")
    expect(ui.locator("#key-list tbody tr")).to_have_count(1)
    expect(ui).to_have_url(re.compile("q=by"))
    ui.get_by_role("link", name=HOSTILE).click()
    ui.get_by_role("link", name="Delete this key").click()
    ui.get_by_label("Type the key’s name").fill(HOSTILE)
    ui.get_by_role("button", name="Delete this key").click()
    expect(ui.get_by_text(f"The key {HOSTILE} is deleted.")).to_be_visible()
    assert requests.post(f"{ui_store.url}/api/v1/tokens", json={"key": secret}, timeout=10).status_code == 401


def test_a_key_is_changed_in_two_tabs(ui: Page, ui_store: Store) -> None:
    made = ui_store.api().post("keys", {"name": "two tabs", "permissions": 3})
    address = f"/keys/{made['id']}"
    ui.goto(address)
    other = ui.context.new_page()  # what it is refused is an error to a browser's console
    other.goto(address)
    ui.get_by_label("Create, overwrite, copy and rename objects").uncheck()
    ui.get_by_role("button", name="Save changes").click()
    expect(ui.get_by_text("The key two tabs is saved.")).to_be_visible()
    other.get_by_label("Name", exact=True).fill("mine")
    other.keyboard.press("Enter")
    expect(other.get_by_role("alert")).to_contain_text("Somebody else changed this key")
    expect(other.get_by_role("heading", name="What this key is now")).to_be_visible()
    expect(other.get_by_label("Name", exact=True)).to_have_value("mine")
    other.get_by_role("button", name="Save changes").click()
    expect(other.get_by_text("The key mine is saved.")).to_be_visible()


def test_without_scripts_grants_come_and_go(chromium: Browser, ui_store: Store) -> None:
    state = sign_in_with(ui_store.url, ui_store.key)
    with watched_page(chromium, storage_state=state, base_url=ui_store.url, java_script_enabled=False) as page:
        page.goto("/new-key")
        page.get_by_label("Name", exact=True).fill("plain")
        page.get_by_role("button", name="Add a grant").click()
        second = page.get_by_role("group", name="Grant 2")
        second.get_by_label("Bucket", exact=True).fill("b")
        second.get_by_label("read", exact=True).check()
        page.get_by_role("button", name="Remove this grant").first.click()
        page.get_by_role("button", name="Read only").click()
        expect(page.locator("#bits")).to_have_text("9")
        expect(page.get_by_label("Name", exact=True)).to_have_value("plain")
        page.get_by_role("button", name="Make the key").click()
        expect(page.locator("#secret")).to_contain_text("whk_")
