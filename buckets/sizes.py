"""How large things may be. Plain numbers, for settings, models and services alike."""

from typing import Final

MIN_CHUNK_BYTES: Final = 1 << 10
MAX_CHUNK_BYTES: Final = 255 << 20
"""Of a chunk size that is set, for the store or a bucket: with header and metadata a needle stays below 256 MiB."""
