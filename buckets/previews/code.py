"""Source text as lines, coloured where that is quick."""

import time
from collections.abc import Iterator

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from buckets.previews.text import visible

MAX_LINES = 10_000
_MAX_COLOURED_LINE = 5_000
_SECONDS = 0.7
"""Of this thread's own. A lexer that has not come to the end by then colours no more; each step is one token's
regular expression."""


def code_lines(text: str, language: str = "") -> tuple[SafeString, bool]:
    """Each line in an element of its own, so that the page can number them; and whether that are all.

    ``language``: Pygments' name of it, or nothing.
    """
    lines = visible(text).split("\n")
    if lines[-1] == "":
        lines.pop()
    kept = lines[:MAX_LINES]
    is_coloured = language and max(map(len, kept), default=0) <= _MAX_COLOURED_LINE
    html = _coloured("\n".join(kept), language) if is_coloured else (format_html("{}", line) for line in kept)
    return format_html_join("", '<span class="line">{}\n</span>', ((line,) for line in html)), len(kept) == len(lines)


def _coloured(text: str, language: str) -> Iterator[SafeString]:
    """The lines, their tokens in spans with the names of Pygments' classes."""
    line: list[tuple[str, str]] = []
    for style, part in _tokens(text, language):
        head, *rest = part.split("\n")
        line.append((style, head))
        for piece in rest:
            yield _spans(line)
            line = [(style, piece)]
    yield _spans(line)


def _spans(parts: list[tuple[str, str]]) -> SafeString:
    spans = (
        format_html('<span class="{}">{}</span>', style, part) if style else format_html("{}", part)
        for style, part in parts
        if part
    )
    return format_html_join("", "{}", ((span,) for span in spans))


def _tokens(text: str, language: str) -> Iterator[tuple[str, str]]:
    """Style and text; put together, the texts are ``text``. The style is one letter, or nothing."""
    from pygments.lexers import get_lexer_by_name  # a quarter of a second, which only who looks at code waits for

    lexer = get_lexer_by_name(language)
    until = time.thread_time() + _SECONDS
    at = 0
    # The unprocessed tokens: the others come from a text that was stripped and whose ends of line were mended.
    for start, token, part in lexer.get_tokens_unprocessed(text):
        if start != at or time.thread_time() > until:
            break
        yield _style(token), part
        at += len(part)
    if at < len(text):
        yield "", text[at:]


_STYLES = {
    ("Comment",): "c",
    ("Keyword",): "k",
    ("Literal",): "s",
    ("Literal", "Number"): "m",
    ("Name", "Attribute"): "f",
    ("Name", "Builtin"): "b",
    ("Name", "Class"): "f",
    ("Name", "Decorator"): "f",
    ("Name", "Function"): "f",
    ("Name", "Tag"): "k",
    ("Operator", "Word"): "k",
    ("Generic", "Deleted"): "d",
    ("Generic", "Heading"): "f",
    ("Generic", "Inserted"): "i",
    ("Generic", "Subheading"): "f",
}
"""By Pygments' kind of token. One letter each: a page has tens of thousands of them."""


def _style(token: tuple[str, ...]) -> str:
    return _STYLES.get(token[:2]) or _STYLES.get(token[:1], "")
