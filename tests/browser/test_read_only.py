"""A key that may only look: no page offers it what it may not do, and forms that are sent anyway do nothing.

Pages are read here as they come from the store, before any script: what is not in them cannot be clicked.
"""

from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from playwright.sync_api import APIResponse, Browser, Page

from keys.permissions import Permission
from tests.browser.conftest import sign_in_with, watched_page
from tests.support.api import Api
from tests.support.store import Store

HOSTILE = "a b/<img onerror=…>#?%.txt"
LOOKING = Permission.OBJECTS_READ | Permission.BUCKETS_READ | Permission.VOLUMES_READ | Permission.KEYS_READ
MANY_PAGES = 60
ONES_OWN = ("/session/", "/sign-out", "/sign-in")
"""What everybody may send: it changes nothing but one's own session."""


class Offered(HTMLParser):
    """What can be followed on a page, and what can be sent from it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.links: list[str] = []
        self.sends: list[str] = []
        self._form: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("href", "src", "hx-get"):
            if given.get(name):
                self.links.append(urljoin(self.url, given[name]))
        self.sends += [str(given[name]) for name in given if name in ("hx-post", "hx-put", "hx-patch", "hx-delete")]
        if tag == "form":
            sends = (given.get("method") or "").lower() == "post"
            self._form = urljoin(self.url, given.get("action") or self.url) if sends else None
        elif self._form and tag in ("button", "input") and given.get("type", "submit") in ("submit", "image"):
            self.sends.append(urlsplit(urljoin(self.url, given.get("formaction") or self._form)).path)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None


def test_all_that_is_offered_works(chromium: Browser, ui_store: Store, ui_bucket: str) -> None:
    api = ui_store.api()
    api.put(ui_bucket, HOSTILE, b"looked at")
    looker = api.post("keys", {"name": "looker", "permissions": int(LOOKING)})
    state = sign_in_with(ui_store.url, looker["key"])
    with watched_page(chromium, storage_state=state, base_url=ui_store.url) as page:
        waiting, seen, sent = [f"{ui_store.url}/", f"{ui_store.url}/buckets/{ui_bucket}"], set[str](), dict[str, str]()
        while waiting:
            url = waiting.pop(0)
            if url in seen:
                continue
            seen.add(url)
            assert len(seen) < MANY_PAGES, f"there is no end of pages: {sorted(seen)}"
            answer = page.request.get(url, max_redirects=0)
            assert answer.status < 400, (url, answer.status)
            if not answer.headers.get("content-type", "").startswith("text/html"):
                continue
            offered = Offered(url)
            offered.feed(answer.text())
            sent |= {path: url for path in offered.sends if not path.startswith(ONES_OWN)}
            waiting += [plain(link) for link in offered.links if is_ours(link, ui_store, ui_bucket)]
        assert set(sent) <= {f"/buckets/{ui_bucket}/archive"}, sent
        paths = {urlsplit(url).path for url in seen}
        assert {"/buckets", f"/buckets/{ui_bucket}/object", "/servers", "/volumes", "/keys"} <= paths, paths


def is_ours(url: str, store: Store, bucket: str) -> bool:
    """An address of the pages for people; of buckets, those of this test."""
    parts = urlsplit(url)
    if not url.startswith(f"{store.url}/") or parts.path.startswith(("/api/", "/admin/", "/static/", *ONES_OWN)):
        return False
    return not parts.path.startswith("/buckets/") or parts.path.startswith(f"/buckets/{bucket}")


def plain(url: str) -> str:
    """A list and a plot are the same in any order; what is in a bucket is named by its query alone."""
    return url.partition("#")[0] if "/buckets/" in url else url.partition("?")[0]


def test_forms_that_are_sent_anyway_do_nothing(chromium: Browser, ui_store: Store, ui_bucket: str) -> None:
    api = ui_store.api()
    api.put(ui_bucket, HOSTILE, b"looked at")
    looker = api.post("keys", {"name": "forger", "permissions": int(LOOKING)})
    share = api.post("shares", {"bucket": ui_bucket, "key": HOSTILE})
    volume = api.get("volumes")["results"][0]["id"]
    server = api.get("servers")["results"][0]["id"]
    before = everything(api, ui_bucket)
    forged: dict[str, dict[str, Any]] = {
        "/new-bucket": {"name": "forged", "replication": 1, "visibility": "private"},
        f"/buckets/{ui_bucket}/settings": {"visibility": "public-read", "replication": 1},
        f"/buckets/{ui_bucket}/delete": {"name": ui_bucket},
        f"/buckets/{ui_bucket}/delete-objects": {"key": HOSTILE, "confirmed": "1"},
        f"/buckets/{ui_bucket}/move-objects": {"key": HOSTILE, "to": "elsewhere/", "confirmed": "1"},
        f"/new-share?bucket={ui_bucket}&key={quote(HOSTILE)}": {"lasts": "never"},
        f"/shares/{share['id']}": {"max_downloads": "1"},
        f"/shares/{share['id']}/revoke": {},
        "/new-key": {"name": "forged", "rows": 0, "lasts": "never"},
        f"/keys/{looker['id']}": {"name": "forged", "rows": 0, "lasts": "keep", "permissions": "1"},
        f"/keys/{looker['id']}/end-sessions": {},
        f"/keys/{looker['id']}/delete": {"name": "forger"},
        f"/servers/{server}/wish": {"wish": "drain"},
        f"/servers/{server}/forget": {"name": server},
        f"/volumes/{volume}/compact": {},
        f"/volumes/{volume}/scrub": {},
        f"/volumes/{volume}/seal": {},
    }
    state = sign_in_with(ui_store.url, looker["key"])
    with watched_page(chromium, storage_state=state, base_url=ui_store.url) as page:
        page.goto("/keys")
        token = page.evaluate("document.body.dataset.csrf")
        for address, form in forged.items():
            answer = page.request.post(address, form=form, headers={"X-CSRFToken": token}, max_redirects=0)
            assert_refused(page, address, answer)
    assert everything(api, ui_bucket) == before


def assert_refused(page: Page, address: str, answer: APIResponse) -> None:
    """By its status, or by what the page that it leads to says."""
    if answer.status == 303:
        said = page.request.get(answer.headers["location"]).text()
        assert "does not have" in said, (address, answer.headers["location"])
    else:
        assert answer.status == 403, (address, answer.status)


def everything(api: Api, bucket: str) -> dict[str, Any]:
    """What a form could change; what moves by itself is left out."""
    keys = api.get("keys?limit=1000")["results"]
    return {
        "buckets": sorted(found["name"] for found in api.get("buckets?limit=1000")["results"]),
        "bucket": api.get(f"buckets/{bucket}"),
        "objects": api.list(bucket),
        "keys": [{name: value for name, value in key.items() if name != "last_used_at"} for key in keys],
        "shares": api.get("shares")["results"],
        "volumes": [(found["id"], found["state"]) for found in api.get("volumes")["results"]],
        "servers": [(found["id"], found["status"]) for found in api.get("servers")["results"]],
    }


def test_an_object_that_another_tab_deleted(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    api = ui_store.api()
    for key in (HOSTILE, "a b/kept.txt"):
        api.put(ui_bucket, key, b"x")
    folder = f"/buckets/{ui_bucket}?prefix={quote('a b/')}"
    ui.goto(folder)
    other = ui.context.new_page()  # what is not there is an error to a browser's console
    other.goto(folder)
    tick = f"Choose {HOSTILE.rpartition('/')[2]}"
    for tab in (ui, other):
        tab.get_by_label(tick).check()
    for tab in (ui, other):
        tab.get_by_role("button", name="Delete…").click()
        tab.get_by_role("button", name="Delete", exact=True).click()
        tab.get_by_label("Choose kept.txt").wait_for()
        assert tab.get_by_label(tick).count() == 0
    shown = other.goto(f"/buckets/{ui_bucket}/object?key={quote(HOSTILE)}")
    assert shown is not None
    assert shown.status == 404
    assert other.get_by_role("link", name="Buckets").first.is_visible()
    assert api.list(ui_bucket) == ["a b/kept.txt"]
