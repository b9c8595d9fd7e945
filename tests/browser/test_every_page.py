"""Every page of the web UI: it opens, nothing in it is refused or wider than a phone, and axe-core finds nothing."""

from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, StorageState

from tests.browser.conftest import watched_page
from tests.browser.walk import WALK, Stop
from tests.support.showcase import Showcase, fill
from tests.support.store import Store

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
FIND = """
async (rules) => {
  const options = { iframes: false, resultTypes: ["violations"], ...(rules && { runOnly: rules }) };
  const { violations } = await axe.run(document, options);
  return violations.flatMap(({ id, nodes }) => nodes.map(({ html, any }) =>
    `${id}: ${html.slice(0, 300)}: ${any.map((check) => check.message).join("; ")}`));
}
"""
WIDER = """
() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => `${one.tagName} ${one.className} ${one.getBoundingClientRect().right}`).slice(0, 10)
"""


@pytest.fixture(scope="session")
def shown(ui_store: Store) -> Showcase:
    return fill(ui_store)


@pytest.mark.parametrize("stop", WALK, ids=lambda stop: stop.slug + ("-anonymous" if stop.anonymous else ""))
def test_a_page_is_whole(
    stop: Stop, chromium: Browser, ui_store: Store, signed_in: StorageState, shown: Showcase
) -> None:
    options: dict[str, Any] = {"base_url": ui_store.url, "viewport": DESK, "color_scheme": "light"}
    if not stop.anonymous:
        options["storage_state"] = signed_in
    with watched_page(chromium, **options) as page:
        answer = page.goto(stop.url(shown), wait_until="load")
        assert answer is not None
        assert answer.status == 200
        if stop.name == "preview":  # a frame of the object's page, whose sandbox runs no script
            return
        assert page.locator("h1").count() == 1
        page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE})
        assert page.evaluate(FIND, None) == []
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(FIND, ["color-contrast"]) == []
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        assert page.evaluate(FIND, None) == []
        assert page.evaluate(WIDER) == []
        page.emulate_media(color_scheme="light")
        assert page.evaluate(FIND, ["color-contrast"]) == []
