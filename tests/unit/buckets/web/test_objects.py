"""The pages of buckets and objects: what they show, to whom, and what they do without JavaScript."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from buckets.models import Bucket, Object
from buckets.services.buckets import BucketSettings, create_bucket, update_bucket
from buckets.services.objects import update_object
from buckets.web.entries import NO_NAME, crumbs
from buckets.web.object_forms import parse_metadata, written_metadata
from buckets.web.selection import field_of
from buckets.web.sizes import parse_size, written_size
from keys.permissions import ALL_PERMISSIONS, Permission
from keys.rights import GrantRow
from tests.unit.buckets.lab import Lab, make_key

HOSTILE = 'a b/<img src=x onerror="alert(1)">#?%&\r\n\u202e..//x'
ALL = "/buckets/photos"
Sign = Callable[..., Client]


@pytest.fixture
def sign_in(db: None) -> Sign:
    """A client that a key with these rights is signed in with."""

    def make(permissions: int = ALL_PERMISSIONS, *grants: GrantRow) -> Client:
        client = Client()
        client.force_login(make_key(permissions=int(permissions), grants=grants))
        return client

    return make


@pytest.fixture
def web(sign_in: Sign) -> Client:
    return sign_in()


def at(path: str, **query: str) -> str:
    return f"{ALL}{path}?{urlencode(query)}" if query else f"{ALL}{path}"


def keys() -> set[str]:
    return set(Object.objects.values_list("key", flat=True))


def part(client: Client, url: str, target: str) -> str:
    answer = client.get(url, headers={"HX-Request": "true", "HX-Target": target})
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def hidden_initials(page: str) -> dict[str, str]:
    """What a form remembers to have shown."""
    return {name: unescape(text) for name, text in re.findall(r'name="(initial-[^"]*)"(?: value="([^"]*)")?', page)}


def names_in(page: str) -> list[str]:
    """What the rows of a list are called, folders with a slash."""
    rows = re.findall(
        r'<a href="[^"]*"\s+(class="folder")?\s*>(?:(?!</a>).)*?</svg>\s*<bdi class="clamped">(.*?)</bdi>',
        page,
        re.DOTALL,
    )
    return [re.sub(r"<.*?>|\s", "", name) + ("/" if folder else "") for folder, name in rows]


# --- pure ---


def test_sizes_are_read_as_they_are_written() -> None:
    for text, size in (
        ("10 GB", 10**10), ("1.5 TiB", 3 << 39), ("1024", 1024), ("0,5kb", 500), (" 7 b ", 7), ("0.125 kB", 125),
        ("1.1250 kB", 1125),
    ):  # fmt: skip
        assert parse_size(text) == size
    for number in (0, 1, 999, 1000, 1024, 10**12, 5 << 30, 123_456_789):
        assert parse_size(written_size(number)) == number
    for wrong in (
        "", "GB", "1 XB", "-1", "1e9", "٣ GB", "1 2", "0.5", "1.5 B", "0.0001 kB", "1,500 MB", "1.500 MB", "12.345 kB",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="A size is"):
            parse_size(wrong)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Ada: 1815",
        " blanks ",
        "two\nlines\r\n",
        '"quoted"',
        "\u202etxt.exe",
        "\xa0",
        "räum \U0001f600",
        "\\n",
        "👨\u200d👩\u200d👧",
        "Привет\n\u2028\U000e0041",
    ],
)
def test_metadata_is_read_as_it_is_written(value: str) -> None:
    metadata = {"b": value, "a-1": "x"}
    assert parse_metadata(written_metadata(metadata).replace("\n", "\r\n")) == metadata


def test_metadata_can_be_read_by_people() -> None:
    assert written_metadata({"a": "Привет 👨\u200d👩\u200d👧"}) == "a: Привет 👨\u200d👩\u200d👧"
    assert written_metadata({"a": "Привет\n\u202e\U000e0041"}) == r'a: "Привет\n\u202e\udb40\udc41"'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("author Ada", "Line 1 has no colon"),
        ("a: 1\n\na: 2", "Line 3 names a a second"),
        ('a: "x', "Line 1: a value that"),
    ],
)
def test_lines_that_are_no_metadata_are_named(lines: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_metadata(lines)


def test_names_below_the_beginning_of_names_are_whole(lab: Lab, web: Client) -> None:
    lab.put_many("a/many/1", "a/many-2", "a/other")
    assert names_in(web.get(at("", prefix="a/many")).content.decode()) == ["many/", "many-2"]


def test_crumbs_lead_through_any_prefix() -> None:
    way = crumbs("b", "//a b/..//x")
    assert [crumb.name for crumb in way] == [NO_NAME, NO_NAME, "a b", "..", NO_NAME, "x…"]
    assert way[2].url == "/buckets/b?prefix=%2F%2Fa+b%2F"
    assert crumbs("b", "") == []


# --- lists ---


def test_folders_then_objects_then_more(lab: Lab, web: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.put_many("b.txt", "a/1", "a/2/3", "c/d", "a.txt")
    page = web.get(ALL).content.decode()
    assert names_in(page) == ["a/", "c/", "a.txt", "b.txt"]
    assert names_in(web.get(at("", prefix="a/")).content.decode()) == ["2/", "1"]
    assert names_in(web.get(at("", order="newest")).content.decode()) == ["a.txt", "c/d", "a/2/3", "a/1", "b.txt"]
    monkeypatch.setattr("buckets.web.objects.PAGE_ROWS", 2)
    first = web.get(ALL).content.decode()
    assert names_in(first) == ["a.txt", "a/"]
    [more] = re.findall(r'id="object-more".*?href="([^"]*)"', first, re.DOTALL)
    assert names_in(web.get(ALL + more).content.decode()) == ["b.txt", "c/"]
    rows = part(web, ALL + more, "object-more")
    assert names_in(rows) == ["b.txt", "c/"]
    assert rows.lstrip().startswith("<tr>")
    assert names_in(part(web, at("", limit="1"), "object-list")) == ["a.txt", "a/"], "never fewer than a page"


def test_search_finds_in_the_whole_bucket(lab: Lab, web: Client) -> None:
    lab.put_many("a/Sun.jpg", "b/c/sunny", "moon")
    found = part(web, at("", q="SUN", prefix="b/"), "object-list")
    assert names_in(found) == ["a/Sun.jpg", "b/c/sunny"]
    assert "2  objects found" in found
    assert "Nothing found" in web.get(at("", q="<b>\0")).content.decode()


def test_hostile_names_are_shown_opened_and_deleted(lab: Lab, web: Client) -> None:
    lab.put_many(HOSTILE, "innocent")
    folder = HOSTILE[: HOSTILE.index("/") + 1]
    for url in (ALL, at("", prefix=folder), at("", q="img"), at("", order="newest"), at("/object", key=HOSTILE)):
        page = web.get(url)
        assert page.status_code == 200
        text = page.content.decode()
        assert "<img src=x" not in text
        assert "\u202e" not in text
    field = field_of("key", HOSTILE)
    assert field.name == "quoted-key", "a browser would change its line breaks"
    asked = web.post(at("/delete-objects"), {field.name: field.value})
    assert "1 object" in asked.content.decode()
    assert keys() == {HOSTILE, "innocent"}
    done = web.post(at("/delete-objects"), {field.name: field.value, "confirmed": "1", "back": "https://evil.example/"})
    assert (done.status_code, done.headers["Location"]) == (303, ALL)
    assert keys() == {"innocent"}


def test_a_page_costs_the_same_however_large_the_bucket(lab: Lab, web: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keys.selectors.CACHE_SECONDS", 3600)
    urls = [ALL, at("", prefix="d1/"), at("", order="newest"), at("", q="k"), at("/object", key="d1/k1")]

    def statements(url: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert web.get(url).status_code == 200
        return len(captured)

    lab.put_many("d1/k1", "d2/k2")
    statements(ALL)  # what is remembered from then on
    before = [statements(url) for url in urls]
    lab.put_many(*[f"d{at % 40}/k{at}" for at in range(1000)])
    assert [statements(url) for url in urls] == before
    assert max(before) <= 12


@pytest.mark.parametrize(
    "url",
    [
        "/buckets?open=a/b", "/buckets?q=%00&after=%00", f"{ALL}?limit={'9' * 5000}", f"{ALL}?q=%00{'x' * 3000}",
        f"{ALL}?prefix=%00", f"{ALL}?after=%00", f"{ALL}?order=newest&after=x", f"{ALL}?prefix={'x' * 2000}",
        f"{ALL}?folder=%00", "/buckets/a%00b", "/buckets/a%00b/settings", f"{ALL}/object", f"{ALL}/object?key=%00",
        f"{ALL}/download?key=%00", f"{ALL}/archive?prefix=%00", "/new-share?bucket=a%00&key=k",
        "/new-share?bucket=photos&key=%00",
        f"{ALL}/object?key=nothing", "/buckets/nothing", "/buckets/nothing/delete",
    ],
)  # fmt: skip
def test_nonsense_is_refused_as_what_it_is(lab: Lab, web: Client, url: str) -> None:
    assert web.get(url).status_code in {200, 400, 404, 422}


# --- changes ---


@pytest.mark.parametrize("path", ["/delete-objects", "/move-objects"])
def test_a_question_without_a_choice_leads_to_the_list(lab: Lab, web: Client, path: str) -> None:
    lab.put_many("k")
    for url in (at(path), at(path, key="k", confirmed="1")):
        answer = web.get(url)
        assert (answer.status_code, answer.headers["Location"]) == (303, ALL)
    assert web.head(at(path)).status_code == 303
    assert keys() == {"k"}


def test_folders_are_deleted_part_by_part(lab: Lab, web: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.put_many("a/1", "a/2", "a/3", "ab", "b/1")
    monkeypatch.setattr("buckets.web.object_changes.DELETED_AT_ONCE", 2)
    page = web.post(at("/delete-objects"), {"prefix": ["a/", "b/"]}).content.decode()
    assert "2 folders" in page
    assert "4 objects" in re.sub(r"<.*?>|\s+", " ", page).replace("  ", " ")
    page = web.post(at("/delete-objects"), {"prefix": ["a/", "b/"], "confirmed": "1"}).content.decode()
    assert "2 objects are deleted, and there are more" in page
    assert keys() == {"a/3", "ab", "b/1"}
    again = {"prefix": ["a/", "b/"], "confirmed": "1", "deleted": "2"}
    page = part_of_post(web, at("/delete-objects"), again, "deletion")
    assert "4 objects are deleted." in page
    assert keys() == {"ab"}


def test_what_is_asked_before_folders_go_is_bounded(
    lab: Lab, web: Client, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.put_many("a/1", "a/2", "b/1", "c/1")
    chosen = {"prefix": ["a/", "b/", "c/"]}

    def question(client: Client) -> str:
        page = client.post(at("/delete-objects"), chosen).content.decode()
        return " ".join(re.sub(r"<.*?>", " ", page).split())

    assert "with 4 objects" in question(web)
    with monkeypatch.context() as patch:
        patch.setattr("buckets.web.object_changes.COUNTED", 2)
        assert "with more than 2 objects" in question(web)
    with monkeypatch.context() as patch:
        patch.setattr("buckets.web.object_changes.FOLDERS_COUNTED", 2)
        assert "with more than 3 objects" in question(web)
    unread = question(sign_in(Permission.OBJECTS_DELETE))
    assert "with all that is in them will be deleted" in unread


def part_of_post(client: Client, url: str, data: dict[str, Any], target: str) -> str:
    return client.post(url, data, headers={"HX-Request": "true", "HX-Target": target}).content.decode()


def test_what_is_chosen_is_moved_all_of_it_or_nothing(lab: Lab, web: Client) -> None:
    lab.put_many("a/1", "a/b/2", "k", "to/k")
    chosen = {"key": "k", "prefix": "a/b/"}
    assert 'value="a/b/"' in web.post(at("/move-objects"), chosen).content.decode()
    taken = web.post(at("/move-objects"), {**chosen, "folder": "to", "confirmed": "1"})
    assert taken.status_code == 422
    assert keys() == {"a/1", "a/b/2", "k", "to/k"}
    moved = web.post(at("/move-objects"), {**chosen, "folder": "to", "overwrite": "on", "confirmed": "1"})
    assert moved.headers["Location"] == at("", prefix="to/")
    assert keys() == {"a/1", "to/b/2", "to/k"}
    inside = web.post(at("/move-objects"), {"prefix": ["to/", "a/"], "folder": "to/b/", "confirmed": "1"})
    assert "moved into itself" in inside.content.decode()


def test_one_is_renamed(lab: Lab, web: Client) -> None:
    lab.put_many("a/\n1", "f/g/2")
    [_, quoted] = field_of("key", "a/\n1")
    asked = web.post(at("/move-objects"), {"quoted-key": quoted}).content.decode()
    assert 'value="a/"' in asked
    web.post(at("/move-objects"), {"quoted-key": quoted, "folder": "a/", "name": "one", "confirmed": "1"})
    web.post(at("/move-objects"), {"prefix": "f/g/", "folder": "f/", "name": "h", "confirmed": "1"})
    assert keys() == {"a/one", "f/h/2"}
    same = web.post(at("/move-objects"), {"key": "a/one", "folder": "a/", "name": "one", "confirmed": "1"})
    assert same.status_code == 422


# --- rights ---


def test_details_are_changed(lab: Lab, web: Client) -> None:
    lab.put(HOSTILE)
    url = at("/object-details", key=HOSTILE)
    assert unescape(
        re.findall(r'href="([^"]*object-details[^"]*)"', web.get(at("/object", key=HOSTILE)).content.decode())[0]
    ) == (url)
    page = web.get(url).content.decode()
    [etag] = re.findall(r'name="etag" value="([^"]+)"', page)
    given = {"content_type": "text/html", "metadata": 'author: Ada\r\nnote: "a\\nb"', "etag": etag}
    for wrong, told in (
        ({"content_type": "nonsense"}, "looks like type/subtype"),
        ({"content_type": ""}, "This field is required."),
        ({"metadata": "Author: Ada"}, "A metadata name has"),
        ({"metadata": "author"}, "has no colon"),
        ({"metadata": f"a: {'x' * 2048}"}, "at most 2048 bytes"),
    ):
        refused = web.post(url, given | wrong)
        assert refused.status_code == 422
        assert told in refused.content.decode()
    saved = web.post(url, given, follow=True).content.decode()
    found = Object.objects.get()
    assert (found.content_type, found.metadata) == ("text/html", {"author": "Ada", "note": "a\nb"})
    assert "The details are saved." in saved
    assert "Ada" in saved
    late = web.post(url, given | {"metadata": "author: Grace"})
    assert late.status_code == 409
    page = late.content.decode()
    assert "has changed since this page was loaded" in page
    assert '<dt class="mono">author</dt>' in page, "what it is now stands beside"
    assert "author: Grace" in page
    found.refresh_from_db()
    assert found.metadata == {"author": "Ada", "note": "a\nb"}
    [etag] = re.findall(r'name="etag" value="([^"]+)"', page)
    web.post(url, {**given, "metadata": "author: Grace", "etag": etag})
    found.refresh_from_db()
    assert found.metadata == {"author": "Grace"}
    web.post(url, {**given, "etag": found.etag})
    shown = web.get(url).content.decode()
    assert "note: &quot;a\\nb&quot;" in shown
    [etag] = re.findall(r'name="etag" value="([^"]+)"', shown)
    web.post(url, {**given, "etag": etag})
    assert Object.objects.get().etag == etag, "nothing new, no new version"


def test_details_that_are_overtaken_while_they_are_saved(
    lab: Lab, web: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.put("k")
    url = at("/object-details", key="k")
    given = {"content_type": "text/html", "metadata": "author: Ada", "etag": Object.objects.get().etag}

    def overtaken(**values: Any) -> Any:
        monkeypatch.undo()
        update_object(bucket="photos", key="k", metadata={"author": "Grace"})
        return update_object(**values)

    monkeypatch.setattr("buckets.web.objects.update_object", overtaken)
    late = web.post(url, given)
    assert late.status_code == 409
    assert "<bdi>Grace</bdi>" in late.content.decode()
    [etag] = re.findall(r'name="etag" value="([^"]+)"', late.content.decode())
    assert web.post(url, given | {"etag": etag}).status_code == 303
    assert Object.objects.get().metadata == {"author": "Ada"}


def test_only_what_the_key_may_read_is_shown(lab: Lab, sign_in: Sign) -> None:
    lab.put_many("a/b/1", "a/c/2", "d")
    reader = sign_in(0, GrantRow("photos", "a/b/", int(Permission.OBJECTS_READ)))
    assert names_in(reader.get(ALL).content.decode()) == ["a/"]
    assert names_in(reader.get(at("", prefix="a/")).content.decode()) == ["b/"]
    assert names_in(reader.get(at("", q="a")).content.decode()) == ["a/b/1"]
    page = reader.get("/buckets").content.decode()
    assert ALL in page
    assert "3" not in re.sub(r"<.*?>", "", page[page.index("<tbody") : page.index("</tbody")]), "no counts"
    for url in (at("/object", key="d"), at("/settings"), at("/delete"), "/new-bucket"):
        assert reader.get(url).status_code == 403, url
    assert sign_in(Permission.VOLUMES_READ).get(ALL).status_code == 403
    assert sign_in(Permission.VOLUMES_READ).get("/buckets").status_code == 403
    assert Client().get(ALL).headers["Location"].startswith("/sign-in")


def test_what_a_key_may_not_do_is_neither_offered_nor_done(lab: Lab, sign_in: Sign) -> None:
    lab.put_many("a/1", "b")
    reader = sign_in(Permission.OBJECTS_READ | Permission.BUCKETS_READ)
    pages = "".join(
        reader.get(url).content.decode()
        for url in ("/buckets", ALL, at("", prefix="a/"), at("/object", key="b"), at("/settings"))
    )
    for offered in (
        'delete-objects"',
        "move-objects",
        "new-bucket",
        "New folder",
        "Save",
        f"{ALL}/delete",
        "object-details",
    ):
        assert offered not in pages.replace('action="/buckets/photos/delete-objects"', ""), offered
    for path, data in (
        ("/delete-objects", {"key": "b", "confirmed": "1"}),
        ("/delete-objects", {"prefix": "a/"}),
        ("/move-objects", {"key": "b", "folder": "x/", "name": "b", "confirmed": "1"}),
        ("/settings", {"visibility": "public-read", "replication": "2"}),
        ("/object-details?key=b", {"content_type": "text/plain"}),
    ):
        answer = reader.post(at(path), data)
        assert answer.status_code == 303
        page = reader.get(answer.headers["Location"]).content.decode()
        assert "does not have" in page, path
    assert keys() == {"a/1", "b"}
    assert Bucket.objects.get().replication == 1
    below = sign_in(Permission.OBJECTS_READ, GrantRow("photos", "a/", int(Permission.OBJECTS_DELETE)))
    assert "Delete…" not in below.get(ALL).content.decode()
    assert "Delete…" in below.get(at("", prefix="a/")).content.decode()
    below.post(at("/delete-objects"), {"key": ["a/1", "b"], "confirmed": "1"})
    assert keys() == {"a/1", "b"}, "one that it may not keeps all"


def test_a_key_that_only_writes_uploads(lab: Lab, sign_in: Sign) -> None:
    lab.put("secret")
    page = sign_in(Permission.OBJECTS_WRITE).get(ALL)
    assert page.status_code == 200
    assert "secret" not in page.content.decode()
    assert lab.server.public_url in page.headers["Content-Security-Policy"]


# --- buckets ---


def test_a_bucket_is_made_changed_and_deleted(web: Client, lab: Lab) -> None:
    given = {"name": "new", "visibility": "private", "replication": "2", "quota_bytes": "1.5 GB", "cors_origins": "*"}
    assert web.post("/new-bucket", given).headers["Location"] == "/buckets/new"
    bucket = Bucket.objects.get(name="new")
    assert (bucket.replication, bucket.quota_bytes, bucket.cors_origins) == (2, 1_500_000_000, ["*"])
    taken = web.post("/new-bucket", given)
    assert taken.status_code == 422
    assert "There is a bucket" in taken.content.decode()
    page = web.get("/buckets/new/settings").content.decode()
    assert 'value="1500 MB"' in page
    given |= hidden_initials(page)
    web.post("/buckets/new/settings", {**given, "quota_bytes": "", "cors_origins": "nonsense"})
    bucket.refresh_from_db()
    assert bucket.quota_bytes == 1_500_000_000, "all or nothing"
    web.post("/buckets/new/settings", {**given, "quota_bytes": "", "quota_objects": "7"})
    bucket.refresh_from_db()
    assert (bucket.quota_bytes, bucket.quota_objects, bucket.replication) == (None, 7, 2)
    assert web.post("/buckets/new/delete", {"name": "old"}).status_code == 422
    assert web.post("/buckets/new/delete", {"name": "new"}).headers["Location"] == "/buckets"
    assert set(Bucket.objects.values_list("name", flat=True)) == {"photos"}


def test_settings_that_others_changed_meanwhile_stay(web: Client, lab: Lab) -> None:
    lines = ["https://a.example", "https://b.example"]
    update_bucket(name="photos", settings=BucketSettings(visibility="public-read", quota_bytes=5, cors_origins=lines))
    shown = hidden_initials(web.get(at("/settings")).content.decode())
    sent = {name.removeprefix("initial-"): text for name, text in shown.items()}
    update_bucket(name="photos", settings=BucketSettings(visibility="private", quota_bytes=7, cors_origins=[]))
    assert web.post(at("/settings"), {**shown, **sent, "replication": "2"}).status_code == 303
    bucket = Bucket.objects.get()
    assert (bucket.visibility, bucket.quota_bytes, bucket.cors_origins) == ("private", 7, [])
    assert bucket.replication == 2


def test_a_bucket_with_objects_closes(web: Client, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buckets.web.bucket_pages.wake_deletion", lambda: None)
    assert web.get(at("/delete")).status_code == 200
    lab.put("k")
    came_in = web.post(at("/delete"), {"name": "photos"})
    assert came_in.status_code == 303
    assert not Bucket.objects.get().is_deleting, "nobody said that there are objects in it"
    web.post(at("/delete"), {"name": "photos", "force": "True"})
    assert Bucket.objects.get().is_deleting
    page = web.get("/buckets").content.decode()
    assert "1 object left" in page
    assert "data-live" in page
    assert web.get(ALL).status_code == 404


def test_public_is_for_those_who_may_give_it_to_all(lab: Lab, sign_in: Sign) -> None:
    client = sign_in(Permission.BUCKETS_READ | Permission.BUCKETS_WRITE)
    client.post(at("/settings"), {"visibility": "public-read", "replication": "1"})
    assert Bucket.objects.get().visibility == "private"
    assert client.post(at("/settings"), {"visibility": "private", "replication": "2"}).status_code == 303
    assert Bucket.objects.get().replication == 2


def test_buckets_are_found_by_name(web: Client, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("films", "photos-2", "zoo"):
        create_bucket(name=name, settings=BucketSettings())
    assert set(re.findall(r'href="/buckets/([^"/]*)"', part(web, "/buckets?q=PHOTO", "bucket-list"))) == {
        "photos",
        "photos-2",
    }
    monkeypatch.setattr("buckets.web.bucket_pages.PAGE_ROWS", 2)
    page = web.get("/buckets").content.decode()
    assert "after=photos" in page
    assert "zoo" in part(web, "/buckets?after=photos-2", "bucket-more")


def test_a_key_that_writes_below_a_folder_is_led_there(lab: Lab, sign_in: Sign) -> None:
    writer = sign_in(0, GrantRow("photos", "in/a b/", int(Permission.OBJECTS_WRITE)))
    there = '<a href="/buckets/photos?prefix=in%2Fa+b%2F">'
    for url in (ALL, at("", prefix="in/")):
        assert there in writer.get(url).content.decode()
    for url in (at("", prefix="out/"), at("", prefix="in/a b/")):
        assert there not in writer.get(url).content.decode()


def test_the_counts_of_a_bucket_come_with_its_list(lab: Lab, web: Client) -> None:
    lab.put_many("a", "b")
    assert "hx-swap-oob" not in web.get(ALL).content.decode()
    fetched = part(web, ALL, "object-list")
    assert re.search(r'id="object-counts"\s+hx-swap-oob="true">\s+2 objects', fetched)
    assert "object-counts" not in part(web, at("", prefix="a"), "object-list"), "there are none in a folder"


def test_a_bucket_with_objects_is_downloaded_whole(lab: Lab, web: Client) -> None:
    assert f"{ALL}/archive" not in web.get(ALL).content.decode()
    assert f"{ALL}/archive" not in part(web, ALL, "object-list")
    lab.put("a")
    assert f'href="{ALL}/archive"' in web.get(ALL).content.decode()
    fetched = part(web, ALL, "object-list")  # after the first upload, too
    assert f'href="{ALL}/archive"' in fetched[fetched.index('id="object-archive" hx-swap-oob="true"') :]


def test_a_folder_is_opened_as_its_name_is_typed(lab: Lab, web: Client) -> None:
    for folder, prefix in ((" a", "p/ a/"), ("a/", "p/a/"), ("/a/b", "p//a/b/"), ("ü" * 510, f"p/{'ü' * 510}/")):
        assert web.get(at("", prefix="p/", folder=folder)).headers["Location"] == at("", prefix=prefix)
    assert web.get(at("", folder="")).headers["Location"] == ALL
    for folder in ("ü" * 511 + "x", "ü" * 513):
        assert web.get(at("", folder=folder)).status_code == 400, "no object could lie in it"


def test_one_goes_back_to_the_object_unless_it_is_gone(lab: Lab, web: Client) -> None:
    lab.put("a/1")
    page = web.get(at("/object", key="a/1")).content.decode()
    fields = dict(re.findall(r'<input type="hidden"\s+name="(back|then|key)"\s+value="([^"]*)"', page))
    object_url, folder_url = at("/object", key="a/1"), at("", prefix="a/")
    assert fields == {"back": object_url, "then": folder_url, "key": "a/1"}
    for path in ("/move-objects", "/delete-objects"):
        asked = web.post(at(path), fields).content.decode()
        assert re.search(f'href="{re.escape(object_url)}">Cancel', asked), path
        assert f'name="then" value="{folder_url}"' in asked
    assert web.post(at("/delete-objects"), {**fields, "confirmed": "1"}).headers["Location"] == folder_url


def test_a_bucket_of_more_copies_than_nodes_says_so(lab: Lab, web: Client) -> None:
    for url in (ALL, at("/settings")):
        assert "nothing can be written" not in web.get(url).content.decode()
    Bucket.objects.update(replication=3)
    for url in (ALL, at("/settings")):
        text = " ".join(web.get(url).content.decode().split())
        assert "is 1 node: nothing can be written until there are 3." in text
    assert "the store has 1 node now" in web.get("/new-bucket").content.decode()
