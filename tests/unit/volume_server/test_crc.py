"""CRCs of parts and wholes, against zlib's of the bytes themselves."""

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from volume_server.crc import data_crc, joined_crc


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_of_two_pieces_together(first: bytes, second: bytes) -> None:
    assert joined_crc(crc32(first), crc32(second), len(second)) == crc32(first + second)
    assert data_crc(crc32(first + second), second) == crc32(first)
