"""Links that are made, used, changed and ended, and the trail that all of it leaves."""

import re
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, StorageState, expect

from tests.support.store import Store

HOSTILE = "a b/<img src=x onerror=alert(1)>#?%.txt"


def new_link(bucket: str, key: str) -> str:
    return f"/new-share?{urlencode({'bucket': bucket, 'key': key})}"


def test_a_link_from_its_making_to_its_end(ui: Page, page: Page, ui_store: Store, ui_bucket: str) -> None:
    ui_store.api().put(ui_bucket, HOSTILE, b"sun")
    ui.goto(new_link(ui_bucket, HOSTILE))
    expect(ui.get_by_label("It ends at")).not_to_be_visible()
    ui.get_by_label("The link ends").select_option("at")
    expect(ui.get_by_label("It ends at")).to_be_visible()
    ui.get_by_label("The link ends").select_option("day")
    ui.get_by_label("It can be downloaded").select_option("some")
    ui.get_by_label("So many times").fill("3")
    ui.get_by_label("Password").fill("let me in")
    ui.get_by_role("button", name="Make the link").dblclick(delay=20)
    expect(ui.get_by_role("heading", level=1)).to_have_text("The link is ready")
    link = ui.get_by_label("Copy it now").get_by_role("textbox").input_value()
    ui.get_by_role("button", name="Copy").click()
    expect(ui.locator(".toast")).to_be_visible()

    page.goto(link)  # somebody without a key
    page.get_by_label("Password").fill("let me in")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=alert(1)>#?%.txt")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    assert Path(started.value.path()).read_bytes() == b"sun"

    ui.goto("/shares?" + urlencode({"bucket": ui_bucket}))
    row = ui.get_by_role("row").filter(has_text=HOSTILE)
    expect(row).to_contain_text("1 of 3")
    row.get_by_role("link", name="Change").click()
    ui.get_by_label("It can be downloaded").select_option("any")
    ui.get_by_label("Ask for no password any more").check()
    ui.get_by_role("button", name="Save").click()
    expect(ui.locator(".toast")).to_contain_text("changed")
    expect(ui.get_by_text("any number of times")).to_be_visible()
    ui.get_by_role("link", name="Revoke").click()
    ui.get_by_role("button", name="Revoke the link").click()
    expect(ui.locator(".toast")).to_contain_text("ended")
    ui.get_by_role("link", name="Revoked").click()
    expect(ui).to_have_url(re.compile("state=revoked"))
    expect(ui.get_by_role("row").filter(has_text=HOSTILE)).to_contain_text("revoked")
    assert page.request.get(link, headers={"Accept": "text/html"}).status == 410


def test_without_scripts(chromium: Browser, ui_store: Store, signed_in: StorageState, ui_bucket: str) -> None:
    ui_store.api().put(ui_bucket, "two\nlines", b"x")
    context = chromium.new_context(storage_state=signed_in, base_url=ui_store.url, java_script_enabled=False)
    plain = context.new_page()
    plain.goto(new_link(ui_bucket, "two\nlines"))
    plain.get_by_label("The link ends").select_option("at")
    plain.get_by_role("button", name="Make the link").click()
    expect(plain.get_by_text("Fill this in")).to_be_visible()
    plain.get_by_label("It ends at").fill("2099-12-31T23:59")
    plain.get_by_role("button", name="Make the link").click()
    expect(plain.get_by_role("textbox")).to_have_value(re.compile("/s/"))
    plain.goto(f"/buckets/{ui_bucket}/object-shares?" + urlencode({"key": "two\nlines"}))
    plain.get_by_role("link", name="Revoke").click()
    plain.get_by_role("button", name="Revoke the link").click()
    expect(plain.locator(".links li").filter(has_text="revoked")).to_have_count(1)
    plain.goto("/activity")
    plain.get_by_label("Bucket").fill(ui_bucket)
    plain.get_by_role("button", name="Filter").click()
    expect(plain.locator("tbody th")).to_have_text([re.compile(text) for text in ("Revoke", "Share", "Put", "Create")])
    context.close()


def test_the_trail_is_filtered_and_watched(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    ui.goto("/activity")
    ui.evaluate("document.body.dataset.same = 'page'")
    ui.get_by_label("Bucket").fill(ui_bucket)
    ui.keyboard.press("Enter")
    rows = ui.locator("#activity-list tbody tr")
    expect(rows).to_have_count(1)
    expect(ui).to_have_url(re.compile(f"bucket={ui_bucket}"))
    ui.get_by_role("link", name="Live").click()
    expect(ui.get_by_role("link", name="Live: stop")).to_be_visible()
    ui.locator("h1").click()  # a part is left alone while somebody works in it
    ui_store.api().put(ui_bucket, HOSTILE, b"x")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(HOSTILE)
    rows.first.locator("summary").click()
    expect(rows.first).to_contain_text("object.put")
    assert ui.evaluate("document.body.dataset.same") == "page", "nothing of it was loaded anew but the list"
