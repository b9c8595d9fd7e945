"""The admin site's pages of volumes: no column of a wide table is hidden."""

from playwright.sync_api import Page, expect

from tests.browser.test_signing_in import sign_in
from tests.support.store import Store

WIDTH = 1500
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


def test_the_last_column_is_seen(store: Store, page: Page) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 900})
    page.goto(store.url + "/admin/")
    sign_in(page, store.key)
    expect(page).to_have_url(store.url + "/admin/")
    for path in ("volumes/volume/", "volumes/volume/1/change/", "volumes/replica/"):
        page.goto(f"{store.url}/admin/{path}")
        assert page.evaluate(TOO_WIDE) == [], path
