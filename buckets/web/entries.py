"""What a list of objects shows: folders, objects, and the way to where one is. Plain values, no database."""

from dataclasses import dataclass
from datetime import datetime
from mimetypes import MimeTypes
from pathlib import PurePosixPath
from typing import NamedTuple

from django.urls import reverse
from django.utils.http import urlencode

from buckets.names import DEFAULT_CONTENT_TYPE
from buckets.selectors.listing import Listed, Page
from buckets.services.folders import last_name
from buckets.web.selection import Field, field_of

SLASH = "/"
NO_NAME = "(no name)"
"""Of a folder between two slashes."""

_TYPES = MimeTypes()  # the same on every machine: no file of the system's is read

_ICONS_OF_KINDS = {"image": "image", "audio": "audio", "video": "video", "text": "text", "font": "file"}
_ICONS_OF_TYPES = {
    "application/pdf": "pdf",
    "application/json": "code",
    "application/javascript": "code",
    "application/xml": "code",
    "application/yaml": "code",
    "text/css": "code",
    "text/html": "code",
    "text/javascript": "code",
    "application/zip": "archive",
    "application/gzip": "archive",
    "application/x-gzip": "archive",
    "application/x-tar": "archive",
    "application/x-7z-compressed": "archive",
    "application/zstd": "archive",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the list."""

    path: str
    """Folders between where one is and what is shown, where the list is flat."""
    name: str
    url: str
    icon: str
    field: Field
    """By which it is chosen."""
    size: int | None = None
    """None: it is a folder."""
    content_type: str = ""
    updated_at: datetime | None = None

    @property
    def is_folder(self) -> bool:
        return self.size is None


class Crumb(NamedTuple):
    """A folder on the way to where one is."""

    name: str
    url: str


def objects_url(bucket: str, **query: str) -> str:
    """The address of a bucket's list; what is empty is left out."""
    return _with_query(reverse("objects", args=[bucket]), query)


def object_url(bucket: str, key: str) -> str:
    return _with_query(reverse("object", args=[bucket]), {"key": key})


def _with_query(path: str, query: dict[str, str]) -> str:
    text = urlencode({name: value for name, value in query.items() if value})
    return f"{path}?{text}" if text else path


def folder_of(text: str) -> str:
    """The folder that a key or a folder lies in; empty: the bucket itself."""
    return text[: len(text) - len(last_name(text))]


def crumbs(bucket: str, prefix: str, *, order: str = "") -> list[Crumb]:
    """The way from the bucket to ``prefix``; its last part may be the beginning of names, without a slash."""
    way = []
    start = 0
    while start < len(prefix):
        at = prefix.find(SLASH, start)
        end = at + 1 if at >= 0 else len(prefix)
        name = prefix[start:at] or NO_NAME if at >= 0 else f"{prefix[start:]}…"
        way.append(Crumb(name, objects_url(bucket, prefix=prefix[:end], order=order)))
        start = end
    return way


def icon_of(content_type: str, name: str) -> str:
    """The icon of a content type, parameters aside; where that says nothing, of what the name's ending says."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == DEFAULT_CONTENT_TYPE:
        kind = _TYPES.types_map[True].get(PurePosixPath(name).suffix.lower(), kind)
    return _ICONS_OF_TYPES.get(kind) or _ICONS_OF_KINDS.get(kind.partition(SLASH)[0], "file")


def entries_of(page: Page, *, bucket: str, prefix: str, order: str, folders_first: bool) -> list[Entry]:
    """The rows of a page. Names are told from the last slash of ``prefix`` on.

    Folders and objects come as their keys do, in byte order; folders first only where the whole list is one page.
    """
    base = reverse("object", args=[bucket])
    prefix = prefix[: prefix.rfind(SLASH) + 1]
    rows: list[tuple[bytes, Entry]] = []
    for folder in page.prefixes:
        name = folder[len(prefix) :].removesuffix(SLASH) or NO_NAME
        url = objects_url(bucket, prefix=folder, order=order)
        rows.append((folder.encode(), Entry("", name, url, "folder", field_of("prefix", folder))))
    objects = [(row.key.encode(), _object_entry(row, base, prefix)) for row in page.objects]
    if folders_first or not rows:
        return [entry for _, entry in (*rows, *objects)]
    return [entry for _, entry in sorted((*rows, *objects), key=lambda one: one[0])]


def _object_entry(row: Listed, base: str, prefix: str) -> Entry:
    told = row.key[len(prefix) :] or last_name(row.key)
    name = last_name(told)
    return Entry(
        path=told[: len(told) - len(name)],
        name=name,
        url=_with_query(base, {"key": row.key}),
        icon=icon_of(row.content_type, name),
        field=field_of("key", row.key),
        size=row.size,
        content_type=row.content_type,
        updated_at=row.updated_at,
    )
