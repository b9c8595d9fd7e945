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


class Case:
    """A volume of a folder of its own, and what is done to it. Times count up by one a record."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.volume = Volume.create(FileSystem(), directory, SUPERBLOCK, epoch=2)
        self.now_ms = 1_700_000_000_000

    @property
    def path(self) -> Path:
        return self.volume.path

    def write(self, slot: int, data: bytes, meta: str = "plain") -> Claim:
        self.now_ms += 1
        raw = metas.encode(METAS[meta])
        return self.volume.append(FIRST + slot, raw, data, data_crc=zlib.crc32(data), appended_ms=self.now_ms)

    def put(self, slot: int, data: bytes, meta: str = "plain") -> Claim:
        claim = self.write(slot, data, meta)
        self.settle(claim)
        return claim

    def reserve(self, slot: int, size_bytes: int) -> Claim:
        self.now_ms += 1
        return self.volume.reserve(FIRST + slot, metas.encode(METAS["plain"]), size_bytes, appended_ms=self.now_ms)

    def bury(self, slot: int, verdict: str = "") -> Claim:
        self.now_ms += 1
        claim = self.volume.tombstone(FIRST + slot, verdict=verdict, appended_ms=self.now_ms)
        self.settle(claim)
        return claim

    def settle(self, *claims: Claim) -> None:
        self.volume.sync_log()
        self.volume.settle(list(claims))

    def checkpoint(self) -> None:
        job = self.volume.begin_checkpoint()
        self.volume.end_checkpoint(job, self.volume.write_checkpoint(job))

    def overwrite(self, path: Path, offset: int, raw: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(raw)

    def flip(self, path: Path, offset: int) -> None:
        self.overwrite(path, offset, bytes((path.read_bytes()[offset] ^ 1,)))


def left_by_a_crash(case: Case) -> None:
    """No checkpoint was ever made: an upload cut off in the middle, one aborted there, one torn at the tail."""
    case.put(0, b"before")
    cut_off = case.reserve(1, 3000)
    case.volume.write_data(cut_off, b"a body of which half came" * 40, 0)
    aborted = case.reserve(2, 10)
    case.put(3, b"between", "full")
    case.volume.abort(aborted)
    case.put(4, b"the last whole one", "chunk")
    torn = case.reserve(5, 4000)
    case.volume.write_data(torn, bytes(range(256)) * 4, 0)
    case.volume.close(clean=False)


def damaged(case: Case) -> None:
    """Bits flipped, pages zeroed and a superblock lost after a clean stop, whose index still knows what lay there."""
    case.put(0, b"whole")
    flipped = case.put(1, b"one bit of it is wrong", "full")
    zeroed = case.put(2, bytes(range(256)) * 20)
    tagless = case.put(3, b"its tag is wrong")
    dead = case.put(4, b"damaged and dead")
    case.put(5, b"refused")
    case.bury(4)
    verdict = case.bury(5, "409 conflict")
    case.put(6, b"behind the damage")
    case.volume.close()
    for claim in (flipped, dead):
        case.flip(case.path, claim.data_offset)
    case.overwrite(case.path, zeroed.offset, bytes(12288 - zeroed.offset))  # up to the end of its first page
    case.flip(case.path, tagless.offset + 39)
    case.flip(case.path, verdict.offset + 40)
    case.overwrite(case.path, 0, bytes(52))


def buried(case: Case) -> None:
    """Refusals of all sorts and deletions, the living between them."""
    for slot, verdict in enumerate(VERDICTS):
        case.put(slot, b"data of %d" % slot, "plain" if slot % 2 else "full")
        if verdict is not None:
            case.bury(slot, verdict)
    case.volume.close()


def replayed(case: Case) -> None:
    """An index of an earlier moment, at which an upload was open; behind it more needles, tombstones and an abort."""
    case.put(0, b"before the checkpoint")
    case.put(1, b"before it, deleted behind it")
    slow = case.reserve(2, 500)
    case.put(3, b"behind the watermark, and in the index")
    case.bury(0)
    case.checkpoint()
    case.volume.write_data(slow, b"5" * 500, 0)
    case.volume.finish(slow, data_crc=zlib.crc32(b"5" * 500))
    case.settle(slow)
    case.bury(1, "507 quota_exceeded")
    aborted = case.reserve(4, 64)
    case.put(5, b"behind the checkpoint")
    case.volume.abort(aborted)
    case.volume.close(clean=False)


def newer_header_bad(case: Case) -> None:
    """Two checkpoints; a bit of the newer one's header is flipped, so that the older one counts."""
    case.put(0, b"in both")
    case.checkpoint()
    case.put(1, b"in the newer one")
    case.bury(0)
    case.checkpoint()
    case.put(2, b"in none")
    case.volume.close(clean=False)
    case.flip(case.path.with_suffix(".idx"), 0 + 40)  # generation 2 stands at 0


def sealed(case: Case) -> None:
    """A sync failed: the volume is sealed, and what was not settled is in doubt for ever."""
    case.put(0, b"durable")
    case.write(1, b"in doubt")
    case.volume.sync_failure = OSError(5, "Input/output error")
    case.volume.seal_unsynced()
    case.volume.close(clean=False)


def many(case: Case) -> None:
    """More needles than one segment of the index holds, small and empty, of several leases; every tenth is dead."""
    claims = [
        case.volume.append(
            FIRST + (number << 16 if number % 3 == 0 else number),
            b"",
            b"",
            data_crc=0,
            appended_ms=case.now_ms + number,
        )
        for number in range(1, MANY + 1)
    ]
    case.settle(*claims)
    tombstones = [case.volume.tombstone(claim.needle, appended_ms=case.now_ms) for claim in claims[::10]]
    case.settle(*tombstones)
    case.volume.close()


VERDICTS = [
    None,
    "",
    "412 precondition_failed",
    "403 permission_denied",
    "507 quota_exceeded",
    "",
    None,
    "409 " + "x" * 252,
]
"""Of the slots of `buried`, None: alive. The last one is as long as a verdict can be."""
MANY = 4500
CASES = {made.__name__: made for made in (left_by_a_crash, damaged, buried, replayed, newer_header_bad, sealed, many)}


def make_cases(directory: Path) -> None:
    """A folder a case, each with `0000000007.vol`, `.state` and mostly `.idx`."""
    for name, made in CASES.items():
        made(Case(directory / name))


def main(directory: Path) -> None:
    directory.mkdir(parents=True)
    make_volume(directory)
    make_cases(directory)
    (directory / "texts.json").write_text(json.dumps(texts(), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
