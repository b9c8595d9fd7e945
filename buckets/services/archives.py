"""Many objects as one ZIP file, made while it is read: any number of any size, in constant memory.

What is chosen is brought into byte order and each object is looked up shortly before its turn, so an archive is no
snapshot; each file in it is one version of its object. The objects' bytes are stored as they are: most large ones are
compressed already, and sizes and CRCs are known before a byte is read.
"""

import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from buckets.archive_names import ArchiveNames
from buckets.errors import ObjectUnknown
from buckets.selectors.listing import list_objects
from buckets.selectors.objects import Found, FoundChunk, find_objects
from buckets.services.content import Stream, read_object
from buckets.zip_format import Member, central_header, end_of_archive, local_header
from keys.permissions import Permission
from keys.rights import KeyRights
from volume_server.crc import joined_crc

PAGE = 1000
BATCH_OBJECTS = 64
BATCH_BYTES = 64 << 20
"""So far ahead objects are looked up: their needles can be read for as long as a signed URL lives, and no longer."""
PIECE_BYTES = 128 << 10
DIRECTORY_IN_MEMORY_BYTES = 1 << 20
"""Of the directory, which can be written at the end only; a longer one waits in a temporary file."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Objects by key, and all those whose keys begin with a prefix."""

    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def in_order(self) -> Iterator[tuple[str, bool]]:
        """Keys and prefixes (True) in byte order, none inside another."""
        outer: str | None = None
        marked = [(text, True) for text in set(self.prefixes)] + [(text, False) for text in set(self.keys)]
        for text, is_prefix in sorted(marked, key=lambda one: (one[0], not one[1])):
            if outer is not None and text.startswith(outer):
                continue
            if is_prefix:
                outer = text
            yield text, is_prefix


class ArchiveStream(Stream):
    """The ZIP file's bytes. An object that cannot be read ends the stream before the archive is whole."""

    def __init__(self, *, bucket_id: int, reader: KeyRights, bucket: str, choice: Choice, base: str = "") -> None:
        """``base``: what the names in the archive are without. Of a prefix only what ``reader`` may read is put in.

        Raises Busy, ObjectUnknown where nothing is left of what was chosen, NeedleUnreadable.
        """
        within = reader.prefixes(Permission.OBJECTS_READ, bucket=bucket)
        objects = _objects(bucket_id, choice, within)
        super().__init__(_gather(_archive(objects, reader, ArchiveNames(base))))


def _objects(bucket_id: int, choice: Choice, within: tuple[str, ...] | None) -> Iterator[Found]:
    """What is there of the chosen ones, in order."""
    batch: list[str] = []
    batch_bytes = 0
    for key, size in _keys(bucket_id, choice, within):
        batch.append(key)
        batch_bytes += size
        if len(batch) == BATCH_OBJECTS or batch_bytes >= BATCH_BYTES:
            yield from _look_up(bucket_id, batch)
            batch, batch_bytes = [], 0
    yield from _look_up(bucket_id, batch)


def _keys(bucket_id: int, choice: Choice, within: tuple[str, ...] | None) -> Iterator[tuple[str, int]]:
    """Keys, and what is known of their sizes."""
    for text, is_prefix in choice.in_order():
        if not is_prefix:
            if within is None or text.startswith(within):
                yield text, 0
            continue
        after: str | None = ""
        while after is not None:
            page = list_objects(bucket_id=bucket_id, within=within, prefix=text, after=after, limit=PAGE)
            yield from ((one.key, one.size) for one in page.objects)
            after = page.next_after


def _look_up(bucket_id: int, keys: list[str]) -> Iterator[Found]:
    found = find_objects(bucket_id=bucket_id, keys=keys)
    return (found[key] for key in keys if key in found)


def _archive(objects: Iterable[Found], reader: KeyRights, names: ArchiveNames) -> Generator[bytes]:
    at = count = 0
    with tempfile.SpooledTemporaryFile(DIRECTORY_IN_MEMORY_BYTES) as directory:
        for one in objects:
            member = Member(names.name(one.key, is_empty=not one.size), one.size, _crc(one.chunks), one.updated_at)
            directory.write(central_header(member, offset=at))
            count += 1
            header = local_header(member)
            yield header
            at += len(header) + one.size
            if one.size:
                yield from read_object(one, reader=reader, first=0, last=one.size - 1)
        if not count:
            raise ObjectUnknown("Nothing is left of what was chosen.")
        directory_bytes = directory.tell()
        directory.seek(0)
        yield from iter(lambda: directory.read(PIECE_BYTES), b"")
    yield end_of_archive(count=count, directory_bytes=directory_bytes, directory_at=at)


def _crc(chunks: Iterable[FoundChunk]) -> int:
    return reduce(lambda crc, chunk: joined_crc(crc, chunk.crc32, chunk.size), chunks, 0)


def _gather(pieces: Iterable[bytes]) -> Generator[bytes]:
    """The same bytes in fewer pieces: each is a send of its own, and small objects have small ones."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
