"""Markdown (CommonMark, tables, strikethrough) as HTML that this module alone writes.

The parser gives tokens, and the elements are made of them here, from a list: whatever a text holds, and whatever the
parser might take for HTML, nothing else comes out. Headings stand one lower, under that of the page. Images are not
loaded, since they would tell their host who reads; links lead to the web and to mail alone.
"""

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt
from markdown_it.token import Token

from buckets.previews.code import code_lines
from buckets.previews.plans import LANGUAGES
from buckets.previews.text import visible

_ELEMENTS = frozenset(
    "p blockquote ul ol li table thead tbody tr th td strong em s h2 h3 h4 h5 h6 hr br".split()  # noqa: SIM905
)
_LOWER = {"h1": "h2", "h2": "h3", "h3": "h4", "h4": "h5", "h5": "h6", "h6": "h6"}
_SCHEMES = frozenset({"http", "https", "mailto"})


def _is_good_link(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in _SCHEMES
    except ValueError:
        return False


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        """A link that isn't good stays text, as it was written."""
        return _is_good_link(url)


_parser = _Parser("commonmark", {"html": False}).enable(["table", "strikethrough"])


def markdown_html(text: str) -> SafeString:
    return _joined(_blocks(_parser.parse(visible(text))))


def _blocks(tokens: Sequence[Token]) -> Iterator[SafeString]:
    for token in tokens:
        if token.type == "inline":
            yield _joined(_inlines(token.children or ()))
        elif token.type in ("fence", "code_block"):
            lines, _ = code_lines(token.content, _language(token.info))
            yield format_html('<pre class="code">{}</pre>', lines)
        elif not token.hidden:  # the paragraphs of a tight list
            yield _tag(token)


def _inlines(tokens: Sequence[Token]) -> Iterator[SafeString]:
    for token in tokens:
        if token.type == "code_inline":
            yield format_html("<code>{}</code>", token.content)
        elif token.type == "image":
            yield format_html('<span class="picture">{}</span>', _plain(token.children or ()) or "image")
        elif token.type == "link_open":
            yield _link(str(token.attrs.get("href", "")))
        elif token.type == "link_close":
            yield format_html("</a>{}", "")
        elif token.type == "softbreak":
            yield format_html("{}", "\n")
        elif token.tag:
            yield _tag(token)
        else:
            yield format_html("{}", token.content)


def _language(info: str) -> str:
    """Of a fence's first word: a language's name or the ending of its files."""
    word = info.partition(" ")[0].lower()
    return word if word in LANGUAGES.values() else LANGUAGES.get(word, "")


def _link(address: str) -> SafeString:
    if not _is_good_link(address):
        return format_html("<a>{}", "")
    return format_html('<a href="{}" target="_blank" rel="nofollow noopener noreferrer">', address)


def _tag(token: Token) -> SafeString:
    name = _LOWER.get(token.tag, token.tag)
    if name not in _ELEMENTS:
        return format_html("{}", token.content)
    if token.nesting < 0:
        return format_html("</{}>", name)
    if name == "ol" and isinstance(start := token.attrs.get("start"), int):
        return format_html('<ol start="{}">', start)
    if name == "th":
        return format_html('<th scope="{}">', "col")
    return format_html("<{}>", name)


def _plain(tokens: Sequence[Token]) -> str:
    return "".join(token.content for token in tokens)


def _joined(parts: Iterator[SafeString]) -> SafeString:
    return format_html_join("", "{}", ((part,) for part in parts))
