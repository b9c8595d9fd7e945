"""Uploads from a browser to the volume servers, and downloads to its disk."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, StorageState, expect

from tests.browser.conftest import UI_CHUNK_SIZE
from tests.support.store import Store
from tests.support.waiting import wait_until

MB = 1_000_000
HOSTILE = "a b <img src=x onerror=alert(1)>#?%.txt"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB, no chunk of which is like another."""
    path = tmp_path_factory.mktemp("large") / "film.bin"
    block = os.urandom(MB)
    with path.open("wb") as file:
        for number in range(300):
            file.write(number.to_bytes(4, "big") + block[4:])
    return path


@pytest.fixture
def slow(ui: Page) -> Iterator[Page]:
    """A page that sends 80 MB a second, until `full_speed`."""
    session = ui.context.new_cdp_session(ui)
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1}
    session.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": 80 * MB})
    ui.full_speed = lambda: session.send(  # type: ignore[attr-defined]
        "Network.emulateNetworkConditions", {**conditions, "uploadThroughput": -1}
    )
    ui.on("dialog", lambda dialog: dialog.accept())
    return ui


def choose(page: Page, *paths: Path) -> None:
    page.locator("#upload-files").set_input_files(paths)


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("list", name="Files").get_by_role("listitem").filter(has_text=name)


def told(page: Page, text: str) -> None:
    expect(page.locator("#uploads [role=status]")).to_have_text(text)


def crcs_of(path: Path) -> list[int]:
    with path.open("rb") as file:
        return [zlib.crc32(piece) for piece in iter(lambda: file.read(UI_CHUNK_SIZE), b"")]


def test_a_large_file_goes_on_after_a_reload(slow: Page, ui_store: Store, ui_bucket: str, large: Path) -> None:
    sent: list[str] = []
    slow.on("requestfinished", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    slow.goto(f"/buckets/{ui_bucket}")
    choose(slow, large)
    expect(row(slow, "film.bin")).to_contain_text(re.compile("[2-9][0-9] % of 300 MB"))
    slow.reload()
    left = slow.get_by_role("listitem").filter(has_text="was not finished")
    expect(left).to_contain_text(re.compile("MB of 300 MB are stored"))
    slow.full_speed()  # type: ignore[attr-defined]
    left.locator("input").set_input_files(large)
    told(slow, "1 file uploaded.")
    expect(slow.get_by_role("link", name="film.bin")).to_be_visible()
    found = ui_store.api().look_up(ui_bucket, "film.bin")["film.bin"]
    assert found["size"] == large.stat().st_size
    assert [chunk["crc32"] for chunk in found["chunks"]] == crcs_of(large)
    assert len(sent) <= len(found["chunks"]) + 4, "what was stored was not sent again"


def test_pause_go_on_and_cancel(slow: Page, ui_store: Store, ui_bucket: str, large: Path) -> None:
    slow.goto(f"/buckets/{ui_bucket}")
    choose(slow, large)
    uploads = slow.get_by_role("region", name="Upload")
    expect(row(slow, "film.bin")).to_contain_text(re.compile("[1-9] % of"))
    slow.get_by_role("button", name="Pause film.bin").click()
    told(slow, "Uploads are paused.")
    expect(row(slow, "film.bin")).to_contain_text("paused at")
    expect(row(slow, "film.bin")).to_contain_text("on their way will be sent anew")
    uploads.get_by_role("button", name="Go on", exact=True).click()
    expect(row(slow, "film.bin")).to_contain_text(re.compile("[2-9]. % of"))
    uploads.get_by_role("button", name="Cancel", exact=True).click()
    expect(row(slow, "film.bin")).to_have_count(0)
    slow.reload()
    expect(slow.get_by_text("This bucket is empty")).to_be_visible()
    expect(slow.get_by_text("was not finished")).to_have_count(0)

    def is_gone() -> bool:  # the page was left in the moment of the cancellation
        state = ui_store.api().get(f"buckets/{ui_bucket}")
        return (state["object_count"], state["reserved_bytes"]) == (0, 0)

    wait_until(is_gone, what="the end of the upload")


def test_folders_come_and_go_with_all_their_names(ui: Page, ui_store: Store, ui_bucket: str, tmp_path: Path) -> None:
    ui_store.api().put(ui_bucket, f"in/{HOSTILE}/first", b"first")
    files = {HOSTILE: b"hostile", "deep/er/ünïcode 文.md": b"# deep", "empty": b"", "more.bin": os.urandom(3 * MB)}
    for name, body in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    folder = f"in/{HOSTILE}/"
    ui.goto(f"/buckets/{ui_bucket}?prefix={quote(folder)}")
    ui.locator("#upload-folders").set_input_files(tmp_path / "photos")
    told(ui, "4 files uploaded.")
    expect(ui.get_by_role("rowheader").get_by_role("link", name="photos")).to_be_visible()
    api = ui_store.api()
    assert {key: api.read(ui_bucket, key) for key in api.list(ui_bucket)} == {
        f"{folder}first": b"first",
        **{f"{folder}photos/{name}": body for name, body in files.items()},
    }
    ui.get_by_role("checkbox", name="Choose photos").check()
    ui.get_by_role("checkbox", name="Choose first").check()
    with ui.expect_download() as started:
        ui.get_by_role("region", name="What is chosen").get_by_role("button", name="Download").click()
    with zipfile.ZipFile(started.value.path()) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == {
            "first": b"first",
            **{f"photos/{name}": body for name, body in files.items()},
        }
    assert ui.locator("main img").count() == 0, "a name is only text"


def test_what_is_dropped_is_uploaded_and_nothing_is_replaced_unasked(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    api = ui_store.api()
    for key in ("one.txt", "two.txt"):
        api.put(ui_bucket, key, b"old")
    ui.goto(f"/buckets/{ui_bucket}")
    drop = """(names) => {
        const data = new DataTransfer();
        for (const name of names) data.items.add(new File(["new"], name, { type: "text/plain" }));
        for (const type of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    ui.evaluate(drop, ["one.txt", "two.txt", "three.txt"])
    dialog = ui.get_by_role("dialog", name="Replace what is there?")
    expect(dialog).to_contain_text("one.txt and 1 other are there already.")
    dialog.get_by_role("button", name="Skip").click()
    expect(ui.get_by_text("2 files skipped.")).to_be_visible()
    told(ui, "1 file uploaded.")
    assert [api.read(ui_bucket, key) for key in ("one.txt", "three.txt")] == [b"old", b"new"]
    assert api.look_up(ui_bucket, "three.txt")["three.txt"]["content_type"] == "text/plain"
    ui.evaluate(drop, ["one.txt"])
    dialog.get_by_role("button", name="Replace").click()
    told(ui, "2 files uploaded.")
    assert api.read(ui_bucket, "one.txt") == b"new"
    ui.evaluate(drop, ["one.txt"])
    expect(dialog).to_be_visible()
    ui.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    turned = "\u202egpj.exe"
    ui.evaluate(drop, [turned])
    told(ui, "3 files uploaded.")
    assert api.read(ui_bucket, turned) == b"new"
    expect(ui.locator("#uploads").get_by_text("\ufffdgpj.exe")).to_be_visible()
    ui.evaluate(drop, ["x" * 1025])
    expect(ui.get_by_role("alert")).to_contain_text("The name is too long")


def test_what_fails_is_tried_again_by_itself_or_by_hand(
    chromium: Browser, ui_store: Store, ui_bucket: str, signed_in: StorageState, tmp_path: Path
) -> None:
    for name, size in (("small", 10), ("large", 9 * MB)):
        (tmp_path / name).write_bytes(os.urandom(size))
    # A page of its own: what is refused stands in the console.
    page = chromium.new_context(storage_state=signed_in, base_url=ui_store.url).new_page()
    answers = {"small": ["lost", "503"], "large": ["503", "lost"]}

    def meet(route: Route) -> None:
        request = route.request
        name = "small" if "warehouse-key" in request.headers else "large"
        if request.method != "PUT" or not answers[name]:
            route.continue_()
        elif answers[name].pop() == "lost":
            route.abort()
        else:
            body = {"title": "No", "status": 503, "code": "outcome_unknown", "detail": "It is not known."}
            route.fulfill(status=503, json=body, headers={"Access-Control-Allow-Origin": ui_store.url})

    page.route(re.compile("intent="), meet)
    page.goto(f"/buckets/{ui_bucket}")
    choose(page, tmp_path / "small", tmp_path / "large")
    told(page, "2 files uploaded.")
    assert answers == {"small": [], "large": []}
    api = ui_store.api()
    for name in answers:
        assert api.read(ui_bucket, name) == (tmp_path / name).read_bytes()
    page.route(re.compile("/leases$"), lambda route: route.fulfill(status=403, json={"detail": "You may not."}))
    page.reload()
    (tmp_path / "other").write_bytes(b"other")
    choose(page, tmp_path / "other")
    expect(row(page, "other")).to_contain_text("You may not.")
    expect(page.get_by_role("alert")).to_contain_text("1 failed")
    page.unroute_all()
    page.get_by_role("button", name="Retry other").click()
    told(page, "1 file uploaded.")
    page.context.close()


def test_an_object_of_any_size_is_downloaded(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    api = ui_store.api()
    bodies = {HOSTILE: b"one chunk", "several.bin": os.urandom(2 * UI_CHUNK_SIZE + 7)}
    api.put(ui_bucket, HOSTILE, bodies[HOSTILE])
    api.put_chunks(ui_bucket, "several.bin", bodies["several.bin"])
    for key, body in bodies.items():
        ui.goto(f"/buckets/{ui_bucket}/object?key={quote(key)}")
        with ui.expect_download() as started:
            ui.get_by_role("link", name="Download").click()
        assert Path(started.value.path()).read_bytes() == body
        assert started.value.suggested_filename.startswith(key[:4])


@pytest.fixture
def refused(chromium: Browser, ui_store: Store, signed_in: StorageState) -> Iterator[Page]:
    """A page of its own: what is refused stands in the console."""
    context = chromium.new_context(storage_state=signed_in, base_url=ui_store.url)
    yield context.new_page()
    context.close()


def test_what_came_meanwhile_is_only_replaced_when_told(
    refused: Page, ui_store: Store, ui_bucket: str, tmp_path: Path
) -> None:
    api = ui_store.api()
    files = {"small": b"mine", "large": os.urandom(2 * MB)}
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)

    def come(route: Route) -> None:
        answer = route.fetch()
        for name in files:
            api.put(ui_bucket, name, b"theirs")
        route.fulfill(response=answer)

    refused.route(re.compile("/stat$"), come, times=1)
    refused.goto(f"/buckets/{ui_bucket}")
    choose(refused, *(tmp_path / name for name in files))
    told(refused, "0 files uploaded, 2 failed.")
    for name in files:
        expect(row(refused, name)).to_contain_text("somebody else put it there meanwhile")
        assert api.read(ui_bucket, name) == b"theirs"
        refused.get_by_role("button", name=f"Replace {name}").click()
    told(refused, "2 files uploaded.")
    assert {name: api.read(ui_bucket, name) for name in files} == files


def test_an_answer_that_was_lost_neither_fails_nor_undoes(
    refused: Page, ui_store: Store, ui_bucket: str, tmp_path: Path
) -> None:
    api = ui_store.api()
    api.put(ui_bucket, "old", b"old")
    for name in ("new", "old"):
        (tmp_path / name).write_bytes(b"mine")
    put = {"new": 0, "old": 0}

    def lose(route: Route) -> None:
        if route.request.method != "PUT":
            return route.continue_()
        name = route.request.headers["warehouse-key"]
        put[name] += 1
        code = {"new": "expired", "old": "needle_taken"}[name]
        if put[name] == 1:
            assert route.fetch().status == 201
            if name == "old":
                api.put(ui_bucket, "old", b"theirs")
                return route.abort()
        elif name == "new":
            return route.continue_()
        allowed = {"Access-Control-Allow-Origin": ui_store.url}
        return route.fulfill(status=409, json={"status": 409, "code": code, "detail": "No."}, headers=allowed)

    refused.route(re.compile("intent="), lose)
    refused.goto(f"/buckets/{ui_bucket}")
    choose(refused, tmp_path / "new")
    told(refused, "1 file uploaded.")
    assert put["new"] == 2, "by a second needle, which found what the first had made"
    choose(refused, tmp_path / "old")
    refused.get_by_role("button", name="Replace", exact=True).click()
    expect(row(refused, "old")).to_contain_text("Somebody else replaced or deleted it meanwhile.")
    assert (put["old"], api.read(ui_bucket, "old")) == (2, b"theirs")


def test_neither_a_wrong_clock_nor_a_browser_that_keeps_nothing_stops_uploads(
    ui: Page, ui_bucket: str, tmp_path: Path
) -> None:
    leases: list[str] = []

    def age(route: Route) -> None:
        leases.append(route.request.url)
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "expires_at": "2001-01-01T00:00:00Z"})

    for name, size in (("one", 1), ("two", 2), ("large", 2 * MB)):
        (tmp_path / name).write_bytes(os.urandom(size))
    ui.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    ui.route(re.compile("/leases$"), age)
    ui.goto(f"/buckets/{ui_bucket}")
    choose(ui, *(tmp_path / name for name in ("one", "two", "large")))
    told(ui, "3 files uploaded.")
    assert len(leases) <= 2, "each lease serves at least one file"


def test_only_the_same_file_of_the_same_key_goes_on(ui: Page, ui_store: Store, ui_bucket: str, tmp_path: Path) -> None:
    api = ui_store.api()
    body = os.urandom(2 * MB)
    for name in ("film", "other"):
        (tmp_path / name).write_bytes(body)
        os.utime(tmp_path / name, (10**9, 10**9))
    ui.goto(f"/buckets/{ui_bucket}")
    with ui.expect_response(re.compile("/uploads$")) as made:
        choose(ui, tmp_path / "film")
    told(ui, "1 file uploaded.")
    upload = made.value.json()["id"]
    assert api.request("DELETE", f"buckets/{ui_bucket}/objects/film").status == 204
    kept = {"id": upload, "bucket": ui_bucket, "key": "film", "isNew": True, "size": len(body), "modified": 10**12}
    remember = """(one) => localStorage.uploads = JSON.stringify(
        [{ ...one, acting: one.acting ?? document.body.dataset.key, until: Date.now() + 1e6, at: 0 }])"""
    ui.evaluate(remember, kept)
    choose(ui, tmp_path / "film")
    expect(ui.get_by_role("link", name="film")).to_be_visible()
    told(ui, "1 file uploaded.")
    assert api.read(ui_bucket, "film") == body, "an upload that was over was not taken for this one"

    begun = api.post(f"buckets/{ui_bucket}/uploads", {"key": "film", "size": len(body)})["id"]
    ui.evaluate(remember, {**kept, "id": begun, "acting": "0"})
    ui.reload()
    expect(ui.get_by_role("link", name="film")).to_be_visible()
    left = ui.get_by_role("listitem").filter(has_text="was not finished")
    assert left.count() == 0, "another key's"
    ui.evaluate(remember, {**kept, "id": begun})
    ui.reload()
    left.locator("input").set_input_files(tmp_path / "other")
    expect(ui.get_by_role("alert")).to_contain_text("This is another file")


def test_what_hangs_is_told_and_a_list_that_could_not_be_had_is_asked_for_again(
    chromium: Browser, ui_store: Store, ui_bucket: str, signed_in: StorageState
) -> None:
    # A page of its own: what is refused stands in the console.
    ui = chromium.new_context(storage_state=signed_in, base_url=ui_store.url).new_page()
    ui.goto(f"/buckets/{ui_bucket}")
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if route.request.headers.get("hx-target") == "object-list" and not refused:
            refused.append(route.request.url)
            route.abort("connectionrefused")
        else:
            route.fallback()

    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    ui.route(re.compile("intent="), hold)
    ui.route(re.compile("/buckets/"), refuse_once)
    ui.locator("#upload-files").set_input_files({"name": "new.txt", "mimeType": "text/plain", "buffer": b"new"})
    expect(ui.locator("#uploads").get_by_text("waiting for the store")).to_be_visible()
    held.pop().continue_()
    told(ui, "1 file uploaded.")
    expect(ui.get_by_role("rowheader").get_by_role("link", name="new.txt")).to_be_visible()
    assert len(refused) == 1
    ui.context.close()
