"""The admin site's pages: no column of a wide table is hidden, and nothing in them is refused by their policy."""

from playwright.sync_api import Page, expect

from tests.browser.test_signing_in import sign_in
from tests.support.store import Store

WIDTH = 1280
"""Of a small laptop's screen; the menu and the filter are open."""
TOO_WIDE = """
() => [...document.querySelectorAll("#content table")].flatMap((table) => {
  const last = table.querySelector("thead th:last-child").getBoundingClientRect();
  let visible = innerWidth;
  for (let holder = table.parentElement; holder; holder = holder.parentElement)
    if (getComputedStyle(holder).overflowX !== "visible")
      visible = Math.min(visible, holder.getBoundingClientRect().right);
  return last.right > visible + 1 ? [`${last.right - visible} px: ${table.innerText.slice(0, 200)}`] : [];
})
"""
"""Tables whose last column is not to be seen without scrolling."""


def test_the_last_column_is_seen(store: Store, page: Page, bucket: str) -> None:
    api = store.api()
    page.set_viewport_size({"width": WIDTH, "height": 900})
    page.goto(store.url + "/admin/")
    sign_in(page, store.key)
    expect(page).to_have_url(store.url + "/admin/")
    api.put(bucket, "a/rather/long/key/of/a/photograph.jpeg", b"x" * 100)
    api.post(f"buckets/{bucket}/uploads", {"key": "on its way", "size": 100_000})
    nowhere_to_break = api.post("buckets", {"name": "x" * 63})["name"]
    api.put(nowhere_to_break, "x" * 300, b"x")
    api.post(f"buckets/{nowhere_to_break}/uploads", {"key": "x" * 300, "size": 100_000, "held": True})
    api.post("shares", {"bucket": nowhere_to_break, "key": "x" * 300})
    grant = {"bucket": nowhere_to_break, "prefix": "x" * 300, "permissions": 7}
    api.post("keys", {"name": "x" * 100, "permissions": 4095, "grants": [grant]})
    api.post(f"buckets/{bucket}/delete", {"keys": [api.put(bucket, "gone", b"x")["key"]]}, status=200)
    page.reload()
    lists = page.locator("#content-main th a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert "/admin/buckets/bucket/" in lists
    for path in (*lists, "/admin/volumes/volume/1/change/", "/admin/keys/apikey/add/", "/admin/buckets/bucket/add/"):
        page.goto(f"{store.url}{path}")
        assert page.evaluate(TOO_WIDE) == [], path


def test_the_integer_follows_the_boxes(store: Store, page: Page) -> None:
    page.goto(store.url + "/admin/")
    sign_in(page, store.key)
    page.goto(store.url + "/admin/keys/apikey/add/")
    number = page.locator(".field-permissions output").first
    expect(number).to_have_text("0")
    page.get_by_label("OBJECTS_READ: Read and list objects").first.check()
    page.get_by_label("ADMIN: Everything, and the system itself").first.check()
    expect(number).to_have_text("2049")
