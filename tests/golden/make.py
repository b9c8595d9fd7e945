"""Makes the golden files of format version 1: `python -m tests.golden.make DIRECTORY`.

The files beside this one were made once, and are not made again: what a released version has written must be read for
ever. A new format version gets a folder of its own, and the old ones stay. Everything here is fixed, time and salt
included, so that the same code writes the same bytes (`test_golden` holds that, too).
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Any
from uuid import UUID

from volume_server import intent as intents
from volume_server import meta as metas
from volume_server import signing
from volume_server.durability import FileSystem
from volume_server.superblock import Superblock
from volume_server.volume import Claim, Volume

SALT = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
SERVER_SECRET = bytes(range(32))
MASTER_SECRET = bytes(range(32, 64))
SUPERBLOCK = Superblock(volume=7, revision=3, created_ms=1_700_000_000_000, salt=SALT)
FIRST = 0x1234 << 16
EXPIRES_AT = 1_700_000_900

LEASE = intents.Intent(
    volume=7, first=FIRST, count=4096, epoch=2, max_bytes=1 << 20, bucket_id=11, bucket="photos", api_key=5,
    generation=3, expires_at=EXPIRES_AT, key="holiday/",
)  # fmt: skip
CHUNK = intents.Intent(
    volume=7, first=FIRST + 0x10000, count=1, epoch=2, max_bytes=1000, exact=True, bucket_id=11, bucket="photos",
    api_key=5, generation=3, expires_at=EXPIRES_AT, key="film.mp4", key_fixed=True, if_match="v1",
    upload=UUID("12345678-1234-5678-1234-567812345678"), chunk_index=2, chunk_count=3, total_bytes=2_000_500,
    content_type="video/mp4", metadata={"title": "Ein Tag am Meer – ä"}, secret_id=2,
)  # fmt: skip
PRESIGNED = intents.Intent(
    volume=7, first=1, count=1, epoch=1, max_bytes=0, bucket_id=1, bucket="b", api_key=1, generation=1, expires_at=1,
    key="k", key_fixed=True, if_none_match=True,
)  # fmt: skip


def packed(intent: intents.Intent) -> bytes:
    return intents.pack(intent, MASTER_SECRET)


METAS = {
    "plain": metas.Meta(packed(LEASE), key="holiday/a.txt"),
    "full": metas.Meta(
        packed(LEASE), key="holiday/ä ö.jpg", content_type="image/jpeg", if_match='"v1"', if_none_match=True,
        metadata={"camera": "x", "place": "Küste"},
    ),
    "chunk": metas.Meta(packed(CHUNK)),
}  # fmt: skip


def texts() -> dict[str, Any]:
    """Packed values and signed texts, as they stand on the wire and in needles."""
    return {
        "intents": {
            name: intents.to_text(packed(intent))
            for name, intent in (("lease", LEASE), ("chunk", CHUNK), ("presigned", PRESIGNED))
        },
        "metas": {name: metas.encode(meta).hex() for name, meta in METAS.items()},
        "put_url": signing.presign_put(
            SERVER_SECRET, kid=1, volume=7, expires_at=EXPIRES_AT, intent=intents.to_text(packed(LEASE))
        ),
        "get_urls": [
            signing.presign_get(SERVER_SECRET, kid=1, volume=7, needle=FIRST, expires_at=EXPIRES_AT, etag="v1"),
            signing.presign_get(
                SERVER_SECRET, kid=2, volume=7, needle=FIRST, expires_at=EXPIRES_AT, etag="v1", api_key=5,
                generation=3, content_type="text/plain; charset=utf-8", inline=True, filename="ä b.txt",
            ),
        ],
        "request": signing.signed_headers(
            SERVER_SECRET, kid=1, direction=signing.TO_MASTER, method="POST", target="/api/v1/internal/confirm",
            body=b"{}", server="12345678-1234-5678-1234-567812345678", time_ms=1_700_000_000_000,
        ),
    }  # fmt: skip


def make_volume(directory: Path) -> None:
    """Live needles, tombstones, a filler, damage in the middle, an index: `0000000007.vol`, `.idx`, `.state`."""
    volume = Volume.create(FileSystem(), directory, SUPERBLOCK, epoch=2)

    def settle(claim: Claim) -> Claim:
        volume.sync_log()
        volume.settle([claim])
        return claim

    def put(slot: int, data: bytes, meta: metas.Meta) -> Claim:
        claim = volume.append(
            FIRST + slot, metas.encode(meta), data, data_crc=zlib.crc32(data), appended_ms=1_700_000_000_000 + slot
        )
        return settle(claim)

    def bury(slot: int, verdict: str) -> None:
        settle(volume.tombstone(FIRST + slot, verdict=verdict, appended_ms=1_700_000_001_000 + slot))

    put(0, b"", METAS["plain"])
    put(1, b"seven b", METAS["full"])
    aborted = volume.reserve(FIRST + 2, metas.encode(METAS["plain"]), 100, appended_ms=1_700_000_000_002)
    volume.write_data(aborted, b"the upload stopped here", 0)
    put(3, bytes(range(256)), METAS["chunk"])
    volume.abort(aborted)
    put(4, b"deleted", METAS["plain"])
    put(5, b"refused", METAS["plain"])
    bury(4, "")
    bury(5, "412 precondition_failed")
    headless = put(6, b"its header is zeros", METAS["plain"])
    flipped = put(7, b"one bit of it is wrong", METAS["plain"])
    put(8, b"behind the damage", METAS["plain"])
    volume.close(clean=False)
    raw = bytearray(volume.path.read_bytes())
    raw[headless.offset : headless.offset + 48] = bytes(48)
    raw[flipped.data_offset] ^= 1
    volume.path.write_bytes(raw)
    Volume.open(FileSystem(), volume.path).close()  # the scan makes the index


def main(directory: Path) -> None:
    directory.mkdir(parents=True)
    make_volume(directory)
    (directory / "texts.json").write_text(json.dumps(texts(), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
