"""Buckets and the objects in them, as somebody with a mouse, a keyboard or a phone goes through them."""

import re

from playwright.sync_api import Browser, Locator, Page, StorageState, expect

from tests.browser.conftest import watched_page
from tests.support.store import Store

HOSTILE = "a b/<img src=x onerror=alert(1)>#?%\n\u202e..//x.txt"
MANY = 230


def fill(store: Store, bucket: str, *keys: str) -> None:
    lease = store.api().lease(bucket, count=len(keys), max_bytes=100)
    for slot, key in enumerate(keys):
        assert lease.put(slot, key, b"x").status == 201


def rows(page: Page) -> Locator:
    """The names in the list of objects."""
    return page.locator("#object-list tbody bdi")


def test_a_bucket_lives_and_dies(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    name = f"{ui_bucket}-new"
    ui.goto("/buckets")
    ui.get_by_role("link", name="New bucket").click()
    ui.get_by_label("Name").fill(ui_bucket)
    ui.get_by_role("button", name="Create").click()
    expect(ui.get_by_text("There is a bucket")).to_be_visible()
    ui.get_by_label("Name").fill(name)
    ui.get_by_label("Most bytes").fill("1.5 GB")
    ui.get_by_role("button", name="Create").dblclick(delay=20)
    expect(ui.get_by_role("heading", level=1)).to_have_text(name)
    assert ui_store.api().get(f"buckets/{name}")["quota_bytes"] == 1_500_000_000
    fill(ui_store, name, "k1", "k2")
    ui.get_by_role("link", name="Settings").click()
    ui.get_by_role("link", name="Delete").click()
    expect(ui.get_by_text("2 objects")).to_be_visible()
    ui.get_by_label("Name of the bucket").fill("another")
    ui.keyboard.press("Enter")
    expect(ui.get_by_text("This is not its name.")).to_be_visible()
    ui.get_by_label("Name of the bucket").fill(name)
    ui.keyboard.press("Enter")
    expect(ui).to_have_url("/buckets")
    expect(ui.get_by_text("2 objects are being deleted")).to_be_visible()
    expect(ui.get_by_role("rowheader", name=name)).to_have_count(0)  # the list tells by itself when it is gone


def test_folders_search_and_endless_pages(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    fill(ui_store, ui_bucket, *[f"many/{at:04}" for at in range(MANY)], "a/b/sun.txt", "top.txt", HOSTILE)
    ui.goto(f"/buckets/{ui_bucket}")
    expect(rows(ui)).to_have_text(["a b", "a", "many", "top.txt"])
    ui.get_by_role("link", name="many").click()
    expect(rows(ui)).to_have_count(100)
    ui.keyboard.press("End")
    expect(rows(ui)).to_have_count(200)
    ui.keyboard.press("End")
    expect(rows(ui)).to_have_count(MANY)
    ui.get_by_label("Search the whole bucket").press_sequentially("SUN")
    expect(rows(ui)).to_have_count(1)
    expect(ui.get_by_role("status").filter(has_text="1 object found")).to_have_count(1)
    expect(ui).to_have_url(re.compile(r"\?prefix=many%2F&q=SUN$"))
    ui.keyboard.press("Escape")
    expect(ui.get_by_label("Search the whole bucket")).not_to_be_focused()
    ui.get_by_label("Search the whole bucket").fill("")
    expect(ui).to_have_url(re.compile(r"\?prefix=many%2F$"))
    ui.get_by_label("Search the whole bucket").fill("sun")
    expect(ui).to_have_url(re.compile("q=sun"))
    ui.reload()
    ui.get_by_role("link", name="sun.txt").click()
    expect(ui.get_by_role("heading", level=1)).to_have_text("sun.txt")
    ui.get_by_role("navigation", name="Where you are").get_by_role("link", name="b", exact=True).click()
    expect(rows(ui)).to_have_text(["sun.txt"])
    ui.get_by_role("link", name=ui_bucket).click()
    ui.get_by_role("link", name="Newest first").click()
    expect(rows(ui)).to_have_count(100)
    ui.keyboard.press("n")
    expect(ui.locator("#folder")).to_be_focused()
    ui.keyboard.type("new")
    ui.keyboard.press("Enter")
    expect(ui.get_by_role("heading", level=1)).to_have_text("new")


def test_hostile_names_are_gone_through_and_deleted(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    fill(ui_store, ui_bucket, HOSTILE, HOSTILE.replace("\n", "\r\n"))
    ui.goto(f"/buckets/{ui_bucket}")
    for _ in range(3):
        ui.locator("#object-list tbody a").first.click()
        expect(ui.locator("#object-list")).to_be_visible()
    ui.locator("#object-list tbody a").first.click()
    expect(ui.get_by_role("heading", level=1)).to_have_text("x.txt")
    assert ui.locator("main img[src=x]").count() == 0
    ui.get_by_role("button", name="Delete").click()
    ui.get_by_role("button", name="Delete").click()
    expect(ui.get_by_text("1 object is deleted.")).to_be_visible()
    assert [one["key"] for one in ui_store.api().get(f"buckets/{ui_bucket}/objects")["results"]] == [
        HOSTILE.replace("\n", "\r\n")
    ]


def test_what_is_chosen_stays_chosen_and_is_moved(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    fill(ui_store, ui_bucket, "a/1", "b", "c", "d")
    ui.goto(f"/buckets/{ui_bucket}")
    bar = ui.get_by_role("region", name="What is chosen")
    expect(bar).not_to_be_visible()
    ui.get_by_label("Choose b").check()
    ui.get_by_label("Choose d").click(modifiers=["Shift"])
    ui.get_by_label("Choose c").uncheck()
    ui.get_by_label("Choose a", exact=True).check()
    expect(bar).to_contain_text("3 chosen")
    fill(ui_store, ui_bucket, "came in")
    ui.evaluate("document.body.dispatchEvent(new Event('objects-changed'))")
    expect(ui.get_by_label("Choose came in")).to_be_visible()
    expect(bar).to_contain_text("3 chosen")
    bar.get_by_role("button", name="Move").click()
    ui.get_by_label("Folder").fill("to/here")
    ui.get_by_role("button", name="Move").click()
    expect(ui.get_by_text("3 objects are moved.")).to_be_visible()
    expect(rows(ui)).to_have_text(["a", "b", "d"])
    ui.get_by_label("Choose all").check()
    bar.get_by_role("button", name="Delete").click()
    expect(ui.get_by_text("1 folder")).to_be_visible()
    ui.get_by_role("button", name="Delete").click()
    expect(ui.get_by_text("3 objects are deleted.")).to_be_visible()
    expect(ui.get_by_role("heading", name="Nothing is in this folder")).to_be_visible()


def test_a_folder_is_deleted_part_by_part(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    """The page goes on by itself until all is gone; here by a request that says that it is not the first."""
    fill(ui_store, ui_bucket, "a/1", "a/2", "b")
    ui.goto(f"/buckets/{ui_bucket}")
    ui.get_by_label("Choose a", exact=True).check()
    ui.get_by_role("region", name="What is chosen").get_by_role("button", name="Delete").click()
    ui.evaluate(
        """() => {
            const form = document.querySelector("#deletion form");
            for (const [name, value] of [["deleted", "7"], ["confirmed", "1"]])
              form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
            form.setAttribute("hx-post", location.pathname);
            form.setAttribute("hx-target", "#deletion");
            htmx.process(form);
        }"""
    )
    ui.get_by_role("button", name="Delete").click()
    expect(ui.get_by_text("9 objects are deleted.")).to_be_visible()
    ui.get_by_role("link", name="Back to the list").click()
    expect(rows(ui)).to_have_text(["b"])


def test_all_of_it_works_without_scripts(
    chromium: Browser, ui_store: Store, signed_in: StorageState, ui_bucket: str
) -> None:
    fill(ui_store, ui_bucket, *[f"k{at:03}" for at in range(120)], "z/1")
    with watched_page(chromium, storage_state=signed_in, base_url=ui_store.url, java_script_enabled=False) as page:
        page.goto(f"/buckets/{ui_bucket}")
        page.get_by_role("link", name="More").click()
        expect(rows(page)).to_have_count(21)
        page.get_by_label("Search the whole bucket").fill("k00")
        page.keyboard.press("Enter")
        expect(rows(page)).to_have_count(10)
        page.get_by_label("Choose k001").check()
        page.get_by_label("Choose k002").check()
        bar = page.get_by_role("region", name="What is chosen")
        bar.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("2 objects are deleted.")).to_be_visible()
        expect(rows(page)).to_have_count(8)
