"""What is in an object, shown in a real browser: in its form, and without running any of it."""

import io
import re
import struct
import wave
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, StorageState, expect

from tests.browser.conftest import UI_CHUNK_SIZE, watched_page
from tests.support.store import Store
from tests.support.waiting import wait_until

ATTACK = (
    "</pre></td></details><script>fetch('/attacked')</script><img src=/attacked onerror=fetch('/attacked')>"
    "<svg onload=fetch('/attacked')></svg><iframe src=/attacked></iframe><style>@import '/attacked'</style>"
)
HOSTILE_NAME = "..//a b<img src=/attacked onerror=fetch('/attacked')>#?%\u202e"
LONG_SECONDS = 2 * UI_CHUNK_SIZE // 8000
ALIEN = "script, img, iframe, svg:not(.icon), style, [onload], [onerror], a[href^=java]"
RAW_TOO = ("notes.md", "picture.svg")
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]>>endobj\ntrailer<</Root 1 0 R>>\n"
)


def object_page(bucket: str, key: str, **query: str) -> str:
    return f"/buckets/{bucket}/object?{urlencode({'key': key, **query})}"


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("#preview iframe")


@contextmanager
def unwatched_page(chromium: Browser, **options: Any) -> Iterator[Page]:
    """A page whose console may tell that something was blocked."""
    context = chromium.new_context(**options)
    yield context.new_page()
    context.close()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 1500)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x30\x90\x70" * width) * height)
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def sound(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(8000)
        out.writeframes(bytes(range(256)) * (seconds * 8000 // 256 + 1))
    return buffer.getvalue()


def test_each_kind_in_its_form(ui_store: Store, ui_bucket: str, ui: Page) -> None:
    api = ui_store.api()
    bodies = {
        "notes.md": b"# Harbour\n\nSee [the map](https://map.example/).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "run.py": b"def run():\n    return 'ok'\n",
        "people.csv": "name;city\nZoë;Köln\n".encode(),
        "tree.json": b'{"list": [1.50, {"deep": null}]}',
        "stuff.zip": zipped("in/one.txt"),
        "plain.txt": "zwölf".encode("latin-1"),
        "bytes.bin": b"\x00\x01ABC",
        "empty": b"",
    }
    shown = {
        "notes.md": "role=heading[name='Harbour']",
        "run.py": "css=.numbered .k >> text=def",
        "people.csv": "role=cell[name='Köln']",
        "tree.json": "css=.tree .m >> text=1.50",
        "stuff.zip": "role=row[name='in/one.txt 1.5 kB']",
        "plain.txt": "text=zwölf",
        "bytes.bin": "text=00 01 41 42 43",
        "empty": "text=it has no bytes",
    }
    for key, body in bodies.items():
        api.put(ui_bucket, key, body)
        ui.goto(object_page(ui_bucket, key))
        expect(frame_of(ui).locator(shown[key]).first).to_be_visible()
    ui.goto(object_page(ui_bucket, "notes.md"))
    ui.get_by_role("link", name="Raw").click()
    expect(frame_of(ui).get_by_text("# Harbour")).to_be_visible()
    expect(ui).to_have_url(re.compile("as=raw"))
    ui.reload()
    expect(frame_of(ui).get_by_text("# Harbour")).to_be_visible()
    ui.get_by_role("link", name="Formatted").click()
    link = frame_of(ui).get_by_role("link", name="the map")
    expect(link).to_have_attribute("rel", "nofollow noopener noreferrer")


def test_more_is_shown_on_demand_and_without_scripts(
    ui_store: Store, ui_bucket: str, chromium: Browser, signed_in: StorageState
) -> None:
    log = b"".join(b"%07d a line of a log\n" % number for number in range(12_000))
    ui_store.api().put(ui_bucket, "a.log", log)
    with watched_page(chromium, storage_state=signed_in, base_url=ui_store.url, java_script_enabled=False) as page:
        page.goto(object_page(ui_bucket, "a.log"))
        expect(frame_of(page).get_by_text("0000001 a line")).to_be_visible()
        assert frame_of(page).get_by_text("0009000 a line").count() == 0
        page.get_by_role("link", name="Show more").click()
        expect(frame_of(page).get_by_text("0009000 a line")).to_be_attached()
        expect(page.get_by_role("link", name="Show more")).to_have_count(0)


def test_nothing_of_what_is_shown_runs(
    ui_store: Store, ui_bucket: str, ui: Page, chromium: Browser, signed_in: StorageState
) -> None:
    api = ui_store.api()
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' onload=\"fetch('/attacked')\">{ATTACK}</svg>"
    corpus = {
        "page.html": ATTACK,
        "page.xhtml": f"<html xmlns='http://www.w3.org/1999/xhtml'>{ATTACK}</html>",
        "picture.svg": svg,
        "notes.md": f"{ATTACK}\n\n[go](javascript:fetch('/attacked'))\n\n![x](/attacked)\n\n```{ATTACK}\n{ATTACK}\n```",
        "table.csv": f'{ATTACK},=HYPERLINK("/attacked")\n<img src=/attacked>,2\n',
        "tree.json": f'{{"<img src=/attacked>": "{ATTACK}"}}',
        "code.php": f"<?php echo 1; ?>{ATTACK}",
        "plain.txt": ATTACK,
        "no.pdf": f"<html>{ATTACK}",
        f"{HOSTILE_NAME}.md": ATTACK,
        f"{HOSTILE_NAME}.png": ATTACK,
    }
    asked: list[str] = []

    def watch(page: Page) -> None:
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))

    watch(ui)
    for key, text in {**corpus, "names.zip": zipped(ATTACK, "../../x")}.items():
        body = text.encode() if isinstance(text, str) else text
        answer = api.lease(ui_bucket, max_bytes=len(body)).put(0, key, body, Content_Type="text/html")
        assert answer.status == 201
        for way in ("formatted", "raw") if key in RAW_TOO else ("formatted",):
            ui.goto(object_page(ui_bucket, key, **{"as": way}))
            if ui.locator("#preview iframe").count():
                expect(frame_of(ui).locator("h1")).to_be_attached()
                assert frame_of(ui).locator(ALIEN).count() == 0
                assert ui.frames[1].evaluate("self.origin") == "null"
    with unwatched_page(chromium, storage_state=signed_in, base_url=ui_store.url) as alone:
        watch(alone)
        for key, way in (("picture.svg", "file"), ("page.html", "file"), ("page.html", "raw"), ("no.pdf", "")):
            alone.goto(f"/buckets/{ui_bucket}/preview?{urlencode({'key': key, 'as': way})}")
            assert alone.evaluate("self.origin") == "null"
    assert len(asked) > 50
    assert [url for url in asked if "/attacked" in urlsplit(url).path] == []
    ours = {urlsplit(url).netloc for url in (ui_store.url, *(one["url"] for one in api.get("servers")["results"]))}
    assert {urlsplit(url).netloc for url in asked} <= ours


def wait_for_length(ui: Page, player: str, seconds: int) -> None:
    wait_until(lambda: ui.evaluate(f"Math.round({player}.duration) || 0") == seconds, what="the length")


def test_pictures_sound_and_pdf(ui_store: Store, ui_bucket: str, ui: Page) -> None:
    api = ui_store.api()
    api.put(ui_bucket, "a.png", png(40, 30))
    ui.goto(object_page(ui_bucket, "a.png"))
    expect(ui.locator("#preview img")).to_have_js_property("naturalWidth", 40)
    expect(ui.get_by_text("The browser can't show this")).not_to_be_visible()
    api.put(ui_bucket, "no.png", b"no picture")
    ui.goto(object_page(ui_bucket, "no.png"))
    expect(ui.get_by_text("The browser can't show this")).to_be_visible()
    tune = sound(60)
    long_tune = sound(LONG_SECONDS)
    api.put(ui_bucket, "a.wav", tune)
    api.put(ui_bucket, "film.webm", tune)  # browsers look at the bytes: the element is a film's
    api.put_chunks(ui_bucket, "long.wav", long_tune)
    for key, kind, seconds in (("a.wav", "audio", 60), ("film.webm", "video", 60), ("long.wav", "audio", LONG_SECONDS)):
        ui.goto(object_page(ui_bucket, key))
        player = f"document.querySelector('#preview {kind}')"
        wait_for_length(ui, player, seconds)
        position = ui.evaluate(
            f"""seconds => new Promise(done => {{
                  const player = {player};
                  player.onseeked = () => done(player.currentTime);
                  player.currentTime = seconds - 5;
                }})""",
            seconds,
        )
        assert round(position) == seconds - 5
    api.put(ui_bucket, "a.pdf", PDF)
    with ui.expect_response(lambda answer: urlsplit(answer.url).path.endswith("/preview")) as answered:
        ui.goto(object_page(ui_bucket, "a.pdf"))
    assert answered.value.headers["content-type"] == "application/pdf"
    expect(ui.get_by_role("link", name="Open it in a tab")).to_be_visible()
