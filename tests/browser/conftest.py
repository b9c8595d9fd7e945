"""A real Chromium."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, StorageState, expect, sync_playwright

from tests.conftest import StartStore
from tests.support.programs import missing, program
from tests.support.store import CHUNK_SIZE, Store
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
    with launched() as browser:
        yield browser


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium, the system's."""
    binary = program("chromium") or program("google-chrome") or program("chromium-browser")
    if binary is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, headless=True, args=_FLAGS)
        yield browser
        browser.close()


UI_CHUNK_SIZE = 8 << 20


@pytest.fixture(scope="session")
def ui_store(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A running store with two volume servers for the web UI, which is the same on any database."""
    env = {"WAREHOUSE_CHUNK_SIZE": str(UI_CHUNK_SIZE)}
    with start_store(tmp_path_factory.mktemp("ui"), env=env) as running:
        yield running


@pytest.fixture(scope="session")
def store(ui_store: Store) -> Store:
    """The same for all pages: the tests of processes look at both kinds of stores."""
    return ui_store


@pytest.fixture
def bucket(new_bucket: Callable[..., str]) -> str:
    """An empty bucket, whose objects are of several chunks soon."""
    return new_bucket(chunk_size=CHUNK_SIZE)


@pytest.fixture(scope="session")
def signed_in(ui_store: Store) -> StorageState:
    """The cookies of a session of the first admin key."""
    return sign_in_with(ui_store.url, ui_store.key)


@pytest.fixture
def ui(chromium: Browser, ui_store: Store, signed_in: StorageState) -> Iterator[Page]:
    """A page of `ui_store` where its admin key is signed in."""
    with watched_page(chromium, storage_state=signed_in, base_url=ui_store.url) as opened:
        yield opened


@pytest.fixture
def ui_bucket(ui_store: Store) -> str:
    """An empty bucket of `ui_store`."""
    return ui_store.api().make_bucket(f"ui-{os.urandom(4).hex()}")


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page with no cookies, which fails the test when a script or a style of it does not load."""
    with watched_page(chromium) as opened:
        yield opened


def sign_in_with(url: str, key: str) -> StorageState:
    """The cookies of a session that begins with this key."""
    with requests.Session() as session:
        page = session.get(f"{url}/sign-in")
        token = session.cookies["csrftoken"]
        answer = session.post(page.url, {"key": key, "csrfmiddlewaretoken": token}, allow_redirects=False)
        assert answer.status_code in (302, 303), answer.text
        cookies = [{"name": name, "value": value, "url": url} for name, value in session.cookies.items()]
    return {"cookies": cookies, "origins": []}  # type: ignore[typeddict-item]


@contextmanager
def watched_page(chromium: Browser, **options: Any) -> Iterator[Page]:
    """A page that fails the test when a script or a style of it does not load, or the console has errors."""
    context = chromium.new_context(**options)
    context.set_default_timeout(PATIENCE_S * 1000)
    opened = context.new_page()
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    opened.on("requestfailed", lambda request: broken.append(f"{request.url} {request.failure}"))
    yield opened
    context.close()
    # What a page was still loading when the test went to the next one is no failure; nor is a form that comes back.
    assert [what for what in broken if "ERR_ABORTED" not in what and "status of 422" not in what] == []
