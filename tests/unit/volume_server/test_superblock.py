import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server import superblock
from volume_server.superblock import Superblock, SuperblockInvalid

GIVEN = Superblock(volume=7, revision=2, created_ms=3, salt=bytes(range(16)))

superblocks = st.builds(
    Superblock,
    volume=st.integers(0, (1 << 32) - 1),
    revision=st.integers(0, (1 << 32) - 1),
    created_ms=st.integers(0, (1 << 64) - 1),
    salt=st.binary(min_size=16, max_size=16),
)


@given(superblocks)
def test_comes_back(given_block: Superblock) -> None:
    assert superblock.decode(superblock.encode(given_block)) == given_block
    head = superblock.encode_head(given_block)
    assert len(head) == superblock.RECORDS_START
    assert superblock.decode_head(head) == given_block


@given(superblocks, st.integers(0, superblock.SIZE_BYTES * 8 - 1))
def test_flipped_bit_is_found_and_the_second_copy_taken(given_block: Superblock, bit: int) -> None:
    head = bytearray(superblock.encode_head(given_block))
    head[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SuperblockInvalid):
        superblock.decode(bytes(head))
    assert superblock.decode_head(bytes(head)) == given_block
    head[4096 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(SuperblockInvalid):
        superblock.decode_head(bytes(head))


@pytest.mark.parametrize("size", [0, 1, 51])
def test_cut_off_is_refused(size: int) -> None:
    with pytest.raises(SuperblockInvalid, match="cut off"):
        superblock.decode_head(superblock.encode(GIVEN)[:size])


@pytest.mark.parametrize(("version", "reserved"), [(0, 0), (2, 0), (1, 1)])
def test_version_that_is_not_known_is_refused_even_when_it_checks(version: int, reserved: int) -> None:
    fields = struct.pack("<8sIIIIQ16s", b"WHVolume", version, 1, 1, reserved, 0, bytes(16))
    with pytest.raises(SuperblockInvalid, match="not known"):
        superblock.decode(fields + struct.pack("<I", zlib.crc32(fields)))


def test_other_file_is_called_what_it_is() -> None:
    with pytest.raises(SuperblockInvalid, match="not a volume file"):
        superblock.decode_head(bytes(8192))
