"""A client for large bodies that costs little beside the server: raw sockets, the kernel moves the bytes.

`http.client` copies each body through Python, so that the client would be what is measured.
"""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

READ_BYTES = 1 << 20
MAX_HEAD_BYTES = 1 << 16


def put_bytes_per_second(port: int, source: Path, targets: list[str], *, size_bytes: int, at_a_time: int) -> float:
    """PUTs one slice of `source` after the other to the targets. RuntimeError for an answer that is not 201."""

    def put(number: int) -> None:
        with source.open("rb") as file, socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                f"PUT {targets[number]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {size_bytes}\r\n"
                f"Content-Type: application/octet-stream\r\nWarehouse-Key: bench%2F{number}\r\n\r\n".encode()
            )
            at, end = number * size_bytes, (number + 1) * size_bytes
            while at < end:
                at += os.sendfile(connection.fileno(), file.fileno(), at, end - at)
            head, _ = _read_head(connection)
            if not head.startswith(b"HTTP/1.1 201 "):
                raise RuntimeError(f"{targets[number]}: {head[:200]!r}")

    started = time.perf_counter()
    with ThreadPoolExecutor(at_a_time) as threads:
        list(threads.map(put, range(len(targets))))
    return len(targets) * size_bytes / (time.perf_counter() - started)


def get_bytes_per_second(port: int, target: str, *, size_bytes: int, seconds: float) -> float:
    """GETs one target again and again over one connection. RuntimeError for another answer than 200 of that size."""
    buffer = memoryview(bytearray(READ_BYTES))
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    got_bytes, started = 0, time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.perf_counter() - started < seconds:
            connection.sendall(request)
            head, begun = _read_head(connection)
            if not head.startswith(b"HTTP/1.1 200 ") or b"\r\ncontent-length: %d\r\n" % size_bytes not in head.lower():
                raise RuntimeError(f"{target}: {head[:400]!r}")
            left = size_bytes - begun
            while left:
                received = connection.recv_into(buffer, min(left, READ_BYTES))
                if not received:
                    raise RuntimeError(f"{target}: the answer ended {left} bytes early")
                left -= received
            got_bytes += size_bytes
    return got_bytes / (time.perf_counter() - started)


def _read_head(connection: socket.socket) -> tuple[bytes, int]:
    """The answer's head up to its empty line, and how much of the body came with it."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = connection.recv(MAX_HEAD_BYTES)
        if not piece:
            raise RuntimeError(f"no answer but {raw[:200]!r}")
        raw += piece
    head, _, begun = raw.partition(b"\r\n\r\n")
    return head + b"\r\n", len(begun)
