"""The process in which the needles of a volume are listed (see `volume_server.listing`).

first message   {"superblock": hex, "deep": bool}, and three files: the volume's, a copy of the index, one for the pages
from the parent {"limit": needles, "seconds"} for each page
to the parent   {"page": {"live", "dead", "damaged", "bytes", "through": needle|null}}; the page itself is in its file

A page is columns, little-endian: of the live ones id, size, CRC (u64, u32, u32) each, then their times (u64 each), then
the ids of the dead, then those of the damaged (u64 each).
"""

import os
import struct
import sys

from volume_server import superblock
from volume_server.child import Parent, run_child
from volume_server.durability import FileSystem
from volume_server.listing import Entries, Listing, Page, Reader
from volume_server.record import Tagger
from volume_server.scrub import SparingFiles

_LIVE = struct.Struct("<QII")


def encode(page: Page) -> bytes:
    pack = _LIVE.pack
    columns = [pack(needle, size_bytes, crc) for needle, size_bytes, crc, _ in page.live]
    rest = [one.appended_ms for one in page.live] + page.dead + page.damaged
    return b"".join((*columns, struct.pack(f"<{len(rest)}Q", *rest)))


def main(parent: Parent) -> None:
    """Until the parent is gone; whatever it raises is told."""
    order, (given, index_fd, page_fd) = parent.first()
    files = SparingFiles()
    fd = files.open_again(given)
    os.close(given)
    deep = bool(order["deep"])
    tagger = Tagger(superblock.decode(bytes.fromhex(order["superblock"])).salt)
    entries = Entries(index_fd)
    os.close(index_fd)
    # Headers that nobody else wants are few pages; whoever reads all the data leaves the page cache as it was.
    listing = Listing(entries, Reader(files if deep else FileSystem(), fd, tagger, deep=deep))
    while True:
        asked = parent.receive()
        page = listing.next_page(int(asked["limit"]), float(asked["seconds"]))
        raw = encode(page)
        files.write_at(page_fd, [raw], 0)
        counts = {"live": len(page.live), "dead": len(page.dead), "damaged": len(page.damaged)}
        parent.send({"page": {**counts, "bytes": len(raw), "through": page.through}})


if __name__ == "__main__":
    sys.exit(run_child(main))
