"""Strangers' bytes as rows and HTML: right for what is right, and harmless, bounded and quick for what is hostile."""

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buckets.previews import code
from buckets.previews.archives import MAX_ENTRIES, NoArchive, list_tar, list_zip, unpack
from buckets.previews.code import MAX_LINES, code_lines
from buckets.previews.hexdump import hex_rows
from buckets.previews.markdown import markdown_html
from buckets.previews.plans import LANGUAGES, Kind, plan
from buckets.previews.tables import MAX_COLUMNS, MAX_ROWS, read_table
from buckets.previews.text import read_text, visible
from buckets.previews.trees import MAX_NODES, json_tree

MARKUP = "</pre></details><script>alert(1)</script><img src=x onerror=alert(1)><svg onload=alert(1)>&\"'"
_PLAIN = "summary p blockquote ul li table thead tbody tr td strong em s code h2 h3 h4 h5 h6 hr br"
OURS: dict[str, set[str]] = {name: set() for name in _PLAIN.split()} | {
    "a": {"href", "target", "rel"},
    "details": {"open"},
    "div": {"class"},
    "ol": {"start"},
    "pre": {"class"},
    "span": {"class"},
    "th": {"scope"},
}


class Watch(HTMLParser):
    """Fails for every element, attribute and link that is none of ours."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OURS, tag
        assert {name for name, _ in attrs} <= OURS[tag]
        for name, value in attrs:
            assert name != "href" or re.match(r"(https?:|mailto:)", value or "", re.IGNORECASE)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)


def require_harmless(html: str) -> None:
    watch = Watch(convert_charrefs=True)
    watch.feed(html)
    watch.close()
    html.encode()


def texts_of(html: str) -> str:
    found: list[str] = []
    reader = HTMLParser(convert_charrefs=True)
    reader.handle_data = found.append  # type: ignore[method-assign]
    reader.feed(html)
    reader.close()
    return "".join(found)


@pytest.mark.parametrize(
    ("key", "content_type", "kind"),
    [
        ("a/photo.JPG", "application/octet-stream", Kind.IMAGE),
        ("logo.svg", "text/html", Kind.IMAGE),
        ("clip", "video/mp4", Kind.VIDEO),
        ("x.mp3", "", Kind.AUDIO),
        ("x.pdf", "", Kind.PDF),
        ("README.md", "text/plain", Kind.MARKDOWN),
        ("x.html", "text/html", Kind.CODE),
        ("src/Makefile", "", Kind.CODE),
        ("page", "text/html; charset=utf-8", Kind.TEXT),
        ("page", "application/xhtml+xml", Kind.UNKNOWN),
        ("page", "image/evil+xml", Kind.UNKNOWN),
        ("a.tar.gz", "", Kind.TAR),
        ("a.docx", "", Kind.ZIP),
        ("data", "text/csv", Kind.TABLE),
        ("png/", "", Kind.UNKNOWN),
    ],
)
def test_what_an_object_is(key: str, content_type: str, kind: Kind) -> None:
    assert plan(key=key, content_type=content_type, size=10).kind == kind


def test_how_much_is_read() -> None:
    first = plan(key="a.log", content_type="", size=10 << 20)
    assert (first.window, first.is_cut) == (128 << 10, True)
    second = plan(key="a.log", content_type="", size=10 << 20, window=str(first.more))
    assert second.window == first.more
    for odd in ("-1", "1e9", "99999999999", "<b>"):
        assert plan(key="a.log", content_type="", size=10 << 20, window=odd) == first
    assert plan(key="a.log", content_type="", size=5).more is None
    huge = plan(key="a.png", content_type="", size=10 << 30)
    assert huge.element == "text", "an image that large isn't loaded unasked"
    assert plan(key="a.mp4", content_type="", size=10 << 40).element == "video"
    assert plan(key="a.svg", content_type="", size=100, way="raw").element == "text"


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("zwölf\r\nx".encode(), "zwölf\nx", "UTF-8"),
        ("zwölf".encode("utf-8-sig"), "zwölf", "UTF-8"),
        ("zwölf".encode("utf-16"), "zwölf", "UTF-16"),
        ("zwölf".encode("utf-32"), "zwölf", "UTF-32"),
        ("zwölf Boxkämpfer".encode("latin-1"), "zwölf Boxkämpfer", "Windows-1252"),
        (b"", "", "UTF-8"),
    ],
)
def test_text_in_many_encodings(data: bytes, text: str, encoding: str) -> None:
    read = read_text(data)
    assert read is not None
    assert (read.text, read.encoding) == (text, encoding)


def test_what_is_no_text() -> None:
    assert read_text(b"\x7fELF\x00\x01") is None
    assert read_text(b"\xff\xfe\x00\xd8") is None, "half a pair in UTF-16"
    assert read_text(bytes(range(128, 256)) * 4) is None
    cut = "ä".encode()[:1]
    assert read_text(b"abc" + cut, is_cut=True) == read_text(b"abc")


def test_what_deceives_is_shown() -> None:
    assert visible("a\u202eb\x1b[2J\u2066\u200b\ud800") == "a⟨U+202E⟩b␛[2J⟨U+2066⟩⟨U+200B⟩\N{REPLACEMENT CHARACTER}"


def test_code_is_coloured_and_whole() -> None:
    source = 'def f(x: "int") -> str:\n    """Two\n    lines <b>."""\n\n    return f"{x}"  # why\n'
    html, is_whole = code_lines(source, "python")
    require_harmless(html)
    assert is_whole
    assert texts_of(html) == source
    assert '<span class="k">def</span>' in html
    assert html.count('class="line"') == 5


def test_code_that_takes_too_long_is_left_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_SECONDS", 0.0)
    html, _ = code_lines("import os\n\nprint(os)\n", "python")
    assert texts_of(html) == "import os\n\nprint(os)\n"
    assert 'class="k"' not in html


@pytest.mark.parametrize("language", sorted(set(LANGUAGES.values())))
def test_every_language_takes_markup(language: str) -> None:
    html, _ = code_lines(f"{MARKUP}\n/* ' \" <!-- `{MARKUP}\n<?php {MARKUP}", language)
    require_harmless(html)
    assert texts_of(html).count(MARKUP) == 3


@settings(max_examples=60)
@given(text=st.text(max_size=300), language=st.sampled_from(sorted(set(LANGUAGES.values()))))
def test_any_text_as_code(text: str, language: str) -> None:
    html, _ = code_lines(text, language)
    require_harmless(html)
    whole = visible(text)
    assert texts_of(html).rstrip("\n") == whole.rstrip("\n")


def test_code_without_end() -> None:
    _, is_whole = code_lines("\n" * (MAX_LINES + 1))
    assert not is_whole
    started = time.thread_time()
    for text, language in (("{% " * 40_000, "html"), ("/*" * 60_000, "css"), ('"' * 120_000, "python")):
        html, _ = code_lines(text, language)
        require_harmless(html)
    lines = "\n".join(["<" * 4_000] * 30)
    code_lines(lines, "html")
    assert time.thread_time() - started < 15


def test_markdown() -> None:
    html = markdown_html(
        "# One\n\nA *b* **c** ~~d~~ `e<f`\\\nbreak\n\n> quote\n\n3. x\n4. y\n\n- [w](https://a.example/?q=1&r=2)\n\n"
        "| h | i |\n|---|---|\n| 1 | 2 |\n\n```py\nimport os\n```\n\n---\n\n![alt <b>](https://spy.example/x.png)\n"
    )
    require_harmless(html)
    for part in (
        "<h2>One</h2>",
        "<em>b</em>",
        "<strong>c</strong>",
        "<s>d</s>",
        "<code>e&lt;f</code>",
        "<br>",
        '<ol start="3"><li>x</li>',
        '<a href="https://a.example/?q=1&amp;r=2" target="_blank" rel="nofollow noopener noreferrer">w</a>',
        '<th scope="col">h</th>',
        '<span class="k">import</span>',
        "<hr>",
        '<span class="picture">alt &lt;b&gt;</span>',
    ):
        assert part in html, part
    assert "spy.example" not in html


@pytest.mark.parametrize(
    "text",
    [
        MARKUP,
        f"`{MARKUP}`",
        f"# {MARKUP}",
        f"|{MARKUP}|\n|-|\n|{MARKUP}|",
        f"```{MARKUP}\n{MARKUP}\n```",
        f"[x](<javascript:{MARKUP}>)",
        "[x](javascript:alert(1)) [x](JaVaScRiPt:alert(1)) [x](&#106;avascript:alert(1)) [x](java\tscript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=) [x](vbscript:x) [x](//evil.example) [x](/sign-out) [x](#y) [x]( )",
        '<javascript:alert(1)> <https://a.example/"onmouseover=alert(1)> <a@b.example>',
        "[x]: javascript:alert(1)\n\n[x]",
        f'[a](https://a.example "{MARKUP}")',
        f"![{MARKUP}](https://a.example/{MARKUP})",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "[x](https://[) [y](http://a b)",
    ],
)
def test_hostile_markdown(text: str) -> None:
    require_harmless(markdown_html(text))


@settings(max_examples=60)
@given(st.text(alphabet=st.sampled_from("ab []()<>!*_`~|-#:\n\t\\&;\"'x/j"), max_size=200))
def test_any_markdown(text: str) -> None:
    require_harmless(markdown_html(text))


def test_markdown_without_end() -> None:
    started = time.thread_time()
    for text in ("![" * 4_000, "[a](" * 2_000, "> " * 8_000, "- " * 8_000, "*a _b " * 1_000):
        require_harmless(markdown_html(text))
    assert time.thread_time() - started < 15


def test_tables() -> None:
    table = read_table("name;note\n\"a;b\";=cmd|' /C calc'!A0\nlong;<b>;more\n")
    assert table is not None
    assert table.header == ["name", "note", ""]
    assert table.rows == [["a;b", "=cmd|' /C calc'!A0", ""], ["long", "<b>", "more"]]
    assert table.is_whole
    tabbed = read_table("a\tb,c\n1\t2,3\n")
    assert tabbed is not None
    assert tabbed.rows == [["1", "2,3"]]
    cut = read_table("a,b\n1,2\n3,", is_cut=True)
    assert cut is not None
    assert cut.rows == [["1", "2"]]
    assert not cut.is_whole


def test_hostile_tables() -> None:
    wide = read_table("," * 200_000)
    assert wide is not None
    assert len(wide.header) == MAX_COLUMNS
    assert not wide.is_whole
    long = read_table("a\n" * 100_000)
    assert long is not None
    assert len(long.rows) == MAX_ROWS
    assert not long.is_whole
    assert read_table('"' + "x" * 200_000) is None
    assert read_table("") is None
    assert read_table("\n\n") is None
    odd = read_table("a\0b,\u202ec\n")
    assert odd is not None
    assert odd.header == ["a␀b", "⟨U+202E⟩c"]


def test_json() -> None:
    shown = json_tree('{"n": 1.10, "big": 1e999, "dup": 1, "dup": [true, null, {}], "s": "a\\u202eb\\ud800"}')
    assert shown is not None
    html, is_whole = shown
    require_harmless(html)
    assert is_whole
    text = texts_of(html)
    for part in ("n: 1.10", "big: 1e999", "dup: 1", "0: true", "1: null", '"a⟨U+202E⟩b'):
        assert part in text, part
    lines = json_tree('{"a": 1}\n{"b": 2}\n{"c"', is_cut=True)
    assert lines is not None
    assert "2 items" in lines[0]
    assert json_tree("hello") is None
    assert json_tree("") is None


def test_hostile_json() -> None:
    quoted = MARKUP.replace('"', '\\"')
    shown = json_tree(f'{{"{quoted}": ["{quoted}"]}}')
    assert shown is not None
    require_harmless(shown[0])
    assert texts_of(shown[0]).count(MARKUP) == 2
    assert json_tree("[" * 100_000) is None
    deep = json_tree("[" * 900 + "]" * 900)
    assert deep is None or not deep[1]
    many = json_tree(str(list(range(100_000))))
    assert many is not None
    assert many[0].count("leaf") <= MAX_NODES + 1
    assert "more" in many[0]
    number = json_tree("9" * 10_000)
    assert number is not None, "longer than Python turns into a number"


def test_hex() -> None:
    assert hex_rows(b"\x7fELF<b>\x00" + b"\xff" * 9).split("\n") == [
        "00000000  7f 45 4c 46 3c 62 3e 00  ff ff ff ff ff ff ff ff  |.ELF<b>.........|",
        "00000010  ff                                                |.|",
    ]


class Fetched:
    """Hands out bytes of an archive and counts them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.count = data, 0

    def __call__(self, first: int, last: int) -> bytes:
        assert 0 <= first <= last < len(self.data)
        self.count += last - first + 1
        return self.data[first : last + 1]


def zipped(names: list[str], body: bytes = b"x" * 10) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, body)
    return buffer.getvalue()


def test_zip() -> None:
    data = zipped(["dir/", "dir/ä.txt", f"../{MARKUP}"], b"x" * 300_000)
    fetched = Fetched(data)
    listing = list_zip(fetched, len(data))
    assert [(one.name, one.size, one.is_folder) for one in listing.entries] == [
        ("dir/", 300_000, True),
        ("dir/ä.txt", 300_000, False),
        (f"../{MARKUP}", 300_000, False),
    ]
    assert listing.is_whole
    assert fetched.count < 100_000, "the files themselves aren't read"
    behind_program = b"MZ" * 5_000 + data
    assert len(list_zip(Fetched(behind_program), len(behind_program)).entries) == 3


def test_zip_of_a_million() -> None:
    one = zipped(["a" * 40], b"")
    at = one.index(b"PK\x01\x02")
    directory = one[at : one.index(b"PK\x05\x06")] * 1_000_000
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(directory), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(directory), 1)
    data = (
        one[:at] + directory + end + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, -1 % 2**16, -1 % 2**16, 0, 0, 0)
    )
    fetched = Fetched(data)
    listing = list_zip(fetched, len(data))
    assert (len(listing.entries), listing.total) == (MAX_ENTRIES, 1_000_000)
    assert listing.entries[-1].name == "a" * 40
    assert fetched.count < 2 << 20


@settings(max_examples=50)
@given(where=st.integers(0, 400), junk=st.binary(min_size=1, max_size=30))
def test_broken_zips(where: int, junk: bytes) -> None:
    data = bytearray(zipped(["a", "b/c"]))
    data[where : where + len(junk)] = junk
    try:
        list_zip(Fetched(bytes(data)), len(data))
    except NoArchive:
        pass


def tarred(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in ("a", "ä", "q" * 90 + "/" + "r" * 99, f"../{MARKUP}"):
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(bytes(700)))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar(form: int) -> None:
    data = tarred(form)
    listing = list_tar(data, is_cut=False)
    names = [one.name for one in listing.entries]
    assert names == ["a", "ä", "q" * 90 + "/" + "r" * 99, f"../{MARKUP}", "folder/"]
    assert listing.is_whole
    assert listing.entries[-1].is_folder
    cut = list_tar(data[:3000], is_cut=True)
    assert not cut.is_whole
    assert cut.entries[0].name == "a"


@settings(max_examples=50)
@given(where=st.integers(0, 3000), junk=st.binary(min_size=1, max_size=200))
def test_broken_tars(where: int, junk: bytes) -> None:
    data = bytearray(tarred(tarfile.PAX_FORMAT))
    data[where : where + len(junk)] = junk
    try:
        list_tar(bytes(data), is_cut=True)
    except NoArchive:
        pass


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(8 << 20))
    unpacked = unpack(bomb, 1 << 20)
    assert unpacked is not None
    plain, is_all, _ = unpacked
    assert (len(plain), is_all) == (1 << 20, False)
    small = unpack(pack(b"hello"), 1 << 20)
    assert small is not None
    assert small[:2] == (b"hello", True)
    beginning = unpack(pack(tarred(tarfile.GNU_FORMAT))[:-9], 1 << 20)
    assert beginning is not None
    assert not beginning[1]
    broken = bytearray(pack(bytes(range(256)) * 99))
    broken[20:60] = b"\xff" * 40
    with pytest.raises(NoArchive):
        unpack(bytes(broken), 1 << 20)
    assert unpack(b"plain", 10) is None
