"""A real Chromium."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.programs import missing, program
from tests.support.waiting import PATIENCE_S

expect.set_options(timeout=PATIENCE_S * 1000)

_FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One headless browser for all tests."""
    binary = program("chromium") or program("google-chrome") or program("chromium-browser")
    if binary is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, headless=True, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page with no cookies, which fails the test when a script or a style of it does not load."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_S * 1000)
    opened = context.new_page()
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    opened.on("requestfailed", lambda request: broken.append(f"{request.url} {request.failure}"))
    yield opened
    context.close()
    # What a page was still loading when the test went to the next one is no failure.
    assert [what for what in broken if "ERR_ABORTED" not in what] == []
