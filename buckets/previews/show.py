"""An object's bytes as what a preview shows of them."""

from dataclasses import dataclass, field
from enum import StrEnum

from buckets.previews.archives import Fetch, Listing, NoArchive, list_tar, list_zip, unpack
from buckets.previews.code import MAX_LINES, code_lines
from buckets.previews.hexdump import hex_rows
from buckets.previews.markdown import markdown_html
from buckets.previews.plans import Kind, Plan
from buckets.previews.tables import read_table
from buckets.previews.text import Text, read_text
from buckets.previews.trees import json_tree

_SNIFF_BYTES = 8 << 10
"""As much tells text from bytes."""
_UNPACKED_BYTES = 4 << 20
_TEXT_BYTES = 256 << 10
"""So much of what was unpacked is shown as text."""
_MIN_HEX, _MAX_HEX = 16 << 10, 64 << 10
_TEXTUAL = frozenset({Kind.MARKDOWN, Kind.TABLE, Kind.JSON, Kind.CODE, Kind.TEXT})


class Form(StrEnum):
    """Each has its place in the template."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    LINES = "lines"
    PROSE = "prose"
    TABLE = "table"
    TREE = "tree"
    LISTING = "listing"
    HEX = "hex"


@dataclass(slots=True)
class Shown:
    form: Form
    content: object = None
    """HTML that is ours for LINES, PROSE and TREE; a Table; a Listing; plain text for HEX."""
    label: str = ""
    """What it seems to be."""
    notes: list[str] = field(default_factory=list)
    """Why it is shown so, and what of it is not."""


def show(plan: Plan, fetch: Fetch) -> Shown:
    """``fetch(first, last)`` gives those bytes, inclusive; no more than are shown are asked for."""
    if not plan.size:
        return Shown(Form.EMPTY)
    if plan.is_too_large:
        return Shown(Form.TOO_LARGE)
    if not plan.is_raw:
        if plan.kind == Kind.ZIP:
            return _zip(plan, fetch)
        if plan.kind == Kind.TAR:
            return _tar(plan, fetch)
    size = min(plan.size, plan.window)
    is_text_by_name = plan.kind in _TEXTUAL
    data = fetch(0, (size if is_text_by_name else min(size, _SNIFF_BYTES)) - 1)
    if read_text(data[:_SNIFF_BYTES], is_cut=plan.size > _SNIFF_BYTES) is None:
        return _hex(plan, data, fetch)
    if len(data) < size:
        data += fetch(len(data), size - 1)
    text = read_text(data, is_cut=plan.is_cut)
    if text is None:
        return _hex(plan, data, fetch)
    return _text(plan, text)


def _text(plan: Plan, text: Text) -> Shown:
    if not plan.is_raw:
        if plan.kind == Kind.MARKDOWN:
            return Shown(Form.PROSE, markdown_html(text.text), "Markdown")
        if plan.kind == Kind.TABLE:
            return _table(plan, text)
        if plan.kind == Kind.JSON:
            return _tree(plan, text)
    return _lines(text, "" if plan.is_raw else plan.language)


def _lines(text: Text, language: str = "", *notes: str) -> Shown:
    lines, is_whole = code_lines(text.text, language)
    more = [] if is_whole else [f"The first {MAX_LINES:,} lines are shown."]
    return Shown(Form.LINES, lines, f"Text, {text.encoding}", [*notes, *more])


def _table(plan: Plan, text: Text) -> Shown:
    table = read_table(text.text, is_cut=plan.is_cut)
    if table is None:
        return _lines(text, "", "This can't be read as a table; here is its text.")
    columns = "" if table.width == len(table.header) else f" and {len(table.header)} of {table.width:,} columns"
    cut = f"The first {len(table.rows):,} rows{columns} are shown."
    return Shown(Form.TABLE, table, f"Table, {text.encoding}", [] if table.is_whole else [cut])


def _tree(plan: Plan, text: Text) -> Shown:
    tree = json_tree(text.text, is_cut=plan.is_cut)
    if tree is None:
        why = (
            "Its end is not read, so here is its text."
            if plan.is_cut
            else "This is no JSON, or nested too deep to be shown as a tree; here is its text."
        )
        return _lines(text, "json", why)
    html, is_whole = tree
    return Shown(Form.TREE, html, "JSON", [] if is_whole else ["Its first values are shown."])


def _zip(plan: Plan, fetch: Fetch) -> Shown:
    try:
        return _listing(list_zip(fetch, plan.size))
    except NoArchive as error:
        return _hex(plan, b"", fetch, f"This is no ZIP archive that can be read. {error}")


def _tar(plan: Plan, fetch: Fetch) -> Shown:
    data = fetch(0, min(plan.size, plan.window) - 1)
    is_cut, packed = plan.is_cut, ""
    try:
        unpacked = unpack(data, _UNPACKED_BYTES)
        if unpacked is not None:
            data, is_all, packed = unpacked
            is_cut = not is_all
        return _listing(list_tar(data, is_cut=is_cut, form=f"tar, packed by {packed}" if packed else "tar"))
    except NoArchive as error:
        if packed:
            return _unpacked(plan, data, packed, fetch, is_cut=is_cut)
        return _hex(plan, data, fetch, f"This is no archive that can be read. {error}")


def _unpacked(plan: Plan, data: bytes, packed: str, fetch: Fetch, *, is_cut: bool) -> Shown:
    """What is packed and is no tar: mostly a log."""
    text = read_text(data[:_TEXT_BYTES], is_cut=is_cut or len(data) > _TEXT_BYTES)
    if text is None:
        return _hex(plan, b"", fetch, f"What {packed} packed is neither a tar nor text; here are the packed bytes.")
    notes = ["The beginning of it is shown."] if is_cut or len(data) > _TEXT_BYTES else []
    return _lines(text, "", f"Unpacked from {packed}.", *notes)


def _listing(listing: Listing) -> Shown:
    notes = []
    if not listing.is_whole:
        of = "" if listing.total is None else f" of {listing.total:,}"
        notes.append(f"The first {len(listing.entries):,}{of} entries are shown.")
    return Shown(Form.LISTING, listing, f"Archive, {listing.format}", notes)


def _hex(plan: Plan, data: bytes, fetch: Fetch, *notes: str) -> Shown:
    """Fewer bytes than of text: each takes four times the room."""
    size = min(plan.size, _MAX_HEX, max(plan.window // 8, _MIN_HEX))
    if len(data) < size:
        data += fetch(len(data), size - 1)
    more = [] if size == plan.size else [f"The first {size:,} of {plan.size:,} bytes are shown."]
    return Shown(Form.HEX, hex_rows(data[:size]), "Bytes", [*notes, *more])
