"""The page that a share's link opens, and the password that may stand before it."""

import os
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.support.store import CHUNK_SIZE, Store

HOSTILE = "folder/a b <img src=x onerror=alert(1)>#?%.txt"
BODY = os.urandom(2 * CHUNK_SIZE + 7)


def share(store: Store, bucket: str, key: str, **terms: Any) -> str:
    return str(store.api().post("shares", {"bucket": bucket, "key": key, **terms})["url"])


def download(page: Page) -> bytes:
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    return Path(started.value.path()).read_bytes()


def test_a_file_is_looked_at_and_downloaded(store: Store, page: Page, bucket: str) -> None:
    store.api().put(bucket, HOSTILE, BODY[:1000])
    store.api().put_chunks(bucket, "film.mkv", BODY)
    for key, body in ((HOSTILE, BODY[:1000]), ("film.mkv", BODY)):
        page.goto(share(store, bucket, key, max_downloads=2, expires_in_seconds=3600))
        expect(page.get_by_role("heading", level=1)).to_have_text(key.removeprefix("folder/"))
        expect(page.get_by_text("2 of 2")).to_be_visible()
        assert download(page) == body
        page.reload()
        expect(page.get_by_text("1 of 2")).to_be_visible()
        assert page.locator("main img").count() == 0, "a name is only text"
        with page.expect_download() as started:
            page.get_by_role("link", name="Download").click()
        assert started.value.suggested_filename.startswith(key.removeprefix("folder/")[:4])


def test_a_password_is_asked_for_once(store: Store, page: Page, bucket: str) -> None:
    store.api().put(bucket, "holiday.txt", b"sun")
    url = share(store, bucket, "holiday.txt", password="let me in")
    page.goto(url)
    expect(page.get_by_label("Password")).to_be_focused()
    assert "holiday" not in page.content()
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_have_text("The password is wrong.")
    page.get_by_label("Password").fill("let me in")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("holiday.txt")
    assert page.url == url
    assert download(page) == b"sun"
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_have_text("holiday.txt")
    other = share(store, bucket, "holiday.txt", password="let me in")
    page.goto(other)
    expect(page.get_by_label("Password")).to_be_visible()


def test_what_is_shown_inline_runs_nothing(store: Store, page: Page, bucket: str) -> None:
    script = b"<h1>shown</h1><script>document.title = 'it ran'</script>" + b" " * CHUNK_SIZE
    store.api().put_chunks(bucket, "page.html", script, content_type="text/html")
    said: list[str] = []
    page.context.on("console", lambda message: said.append(message.text))
    shown = page.context.new_page()
    shown.goto(share(store, bucket, "page.html", inline=True))
    shown.get_by_role("link", name="Open").click()
    expect(shown.get_by_role("heading", level=1)).to_have_text("shown")
    assert shown.url.startswith(store.url + "/s/")
    assert shown.title() != "it ran"
    assert any("sandbox" in text for text in said), "the browser refused to run it"


def test_a_link_that_has_ended_says_so(store: Store, page: Page, bucket: str) -> None:
    store.api().put(bucket, "k", b"x")
    ended = page.context.new_page()  # a 410 is an error in the eyes of the other one
    ended.goto(share(store, bucket, "k", one_time=True))
    expect(ended.get_by_text("It can be fetched once")).to_be_visible()
    assert download(ended) == b"x"
    answer = ended.reload()
    assert answer is not None
    assert answer.status == 410
    expect(ended.get_by_role("heading", level=1)).to_have_text("This link has ended")
    answer = ended.goto(store.url + "/s/nothing")
    assert answer is not None
    assert answer.status == 404
