"""The CRC-32 of a part from that of the whole, and of the whole from those of its parts.

A needle's header holds the CRC of data and meta together; that of its data alone is what clients use.

With the polynomial as a field over GF(2), ``crc(data + meta) = crc(data) * x^(8 * len(meta)) + crc(meta)`` (zlib's
crc32_combine). Both are known, so the data's own follows by a multiplication with ``x^(-8 * len(meta))``. x has the
order 2^32 - 1, so that a negative power is a positive one. Pure module.
"""

from functools import lru_cache
from zlib import crc32

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
"""Bits are reflected: the highest one is x^0."""
_ORDER = (1 << 32) - 1
MAX_TABLES = 512
"""Kept for so many lengths of meta, 40 KiB each."""

Tables = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def data_crc(together: int, meta: bytes | memoryview) -> int:
    """Of the data, where ``together`` is that of the data, continued over ``meta``."""
    moved = together ^ crc32(meta)
    low, second, third, high = _tables(len(meta))
    return low[moved & 255] ^ second[moved >> 8 & 255] ^ third[moved >> 16 & 255] ^ high[moved >> 24]


def joined_crc(first: int, second: int, second_bytes: int) -> int:
    """Of two pieces, one behind the other, from the CRC of each (zlib's crc32_combine)."""
    return _times(_shift(second_bytes), first) ^ second


@lru_cache(MAX_TABLES)
def _shift(size_bytes: int) -> int:
    """What so many bytes behind a piece multiply its CRC with. Nearly all chunks are of one size."""
    return _power(8 * size_bytes)


def _times(left: int, right: int) -> int:
    """The product of two polynomials, modulo the CRC's."""
    product, bit = 0, _ONE
    while bit:
        if left & bit:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
        bit >>= 1
    return product


def _power(exponent: int) -> int:
    """x^exponent."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _times(result, square)
        square = _times(square, square)
        exponent >>= 1
    return result


@lru_cache(MAX_TABLES)
def _tables(meta_bytes: int) -> Tables:
    """For each byte of a CRC, what it adds to the product with x^(-8 * meta_bytes)."""
    factor = _power(_ORDER - 8 * meta_bytes % _ORDER)
    of_bit = [_times(factor, 1 << bit) for bit in range(32)]
    low, second, third, high = (_table(of_bit[first : first + 8]) for first in range(0, 32, 8))
    return low, second, third, high


def _table(of_bit: list[int]) -> tuple[int, ...]:
    table = [0]
    for value in of_bit:
        table += [known ^ value for known in table]
    return tuple(table)
