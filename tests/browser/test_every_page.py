"""Every page of the web UI: it opens, nothing in it is refused or wider than a phone, and axe-core finds nothing."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, StorageState

from tests.browser.conftest import sign_in_with, watched_page
from tests.browser.walk import WALK, Stop
from tests.conftest import StartStore
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


@pytest.fixture(scope="module")
def shop(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of these tests alone: others count what is in theirs."""
    with start_store(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module")
def shown(shop: Store) -> Showcase:
    return fill(shop)


@pytest.fixture(scope="module")
def admin(shop: Store) -> StorageState:
    return sign_in_with(shop.url, shop.key)


@pytest.mark.parametrize("stop", WALK, ids=lambda stop: stop.slug + ("-anonymous" if stop.anonymous else ""))
def test_a_page_is_whole(stop: Stop, chromium: Browser, shop: Store, admin: StorageState, shown: Showcase) -> None:
    options: dict[str, Any] = {"base_url": shop.url, "viewport": DESK, "color_scheme": "light"}
    if not stop.anonymous:
        options["storage_state"] = admin
    with watched_page(chromium, **options) as page:
        assert stop.open(page, shown).status == 200
        if stop.name == "preview":  # a frame of the object's page, whose sandbox runs no script
            return
        assert page.locator("h1").count() == 1
        assert page.title().endswith(" · Warehouse")
        page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE})
        assert page.evaluate(FIND, None) == []
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(FIND, ["color-contrast"]) == []
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        assert page.evaluate(FIND, None) == []
        assert page.evaluate(WIDER) == []
        page.emulate_media(color_scheme="light")
        assert page.evaluate(FIND, ["color-contrast"]) == []
