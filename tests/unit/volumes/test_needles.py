"""Pages of needles as servers tell them: read as they are meant, and refused as soon as anything does not fit."""

import json
import struct
from typing import Any

import pytest

from keys.errors import Invalid
from volumes.needles import MAX_NEEDLE, State, parse_page, parse_states

HEAD: dict[str, Any] = {
    "volume": 7, "revision": 2, "epoch": 3, "live": 2, "dead": 1, "damaged": 1,
    "through": "0000000000000009", "next": "abc.1",
}  # fmt: skip
COLUMNS = struct.pack("<QIIQII", 3, 10, 11, 5, 20, 21) + struct.pack("<QQQQ", 1000, 2000, 4, 9)


def page(columns: bytes = COLUMNS, **changed: Any) -> bytes:
    return json.dumps(HEAD | changed).encode() + b"\n" + columns


def test_page_is_read() -> None:
    found = parse_page(page())
    assert (found.volume, found.revision, found.epoch) == (7, 2, 3)
    assert found.live == [(3, 10, 11), (5, 20, 21)]
    assert (list(found.appended_ms), list(found.dead), list(found.damaged)) == ([1000, 2000], [4], [9])
    assert (found.through, found.next) == (9, "abc.1")


def test_last_page_speaks_of_all_ids_that_there_can_be() -> None:
    found = parse_page(page(through=None, next=None))
    assert (found.through, found.next) == (MAX_NEEDLE, "")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"[]\n",
        b"{" + b" " * 9000 + b"}\n",
        page(COLUMNS[:-1]),
        page(COLUMNS + b"\0"),
        page(live=-1),
        page(live="2"),
        page(live=True),
        page(live=1 << 60),
        page(revision=None),
        page(through=None),
        page(next=None),
        page(next=5),
        page(through="9"),
        page(through="0000000000000008"),
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        parse_page(raw)


def test_states_are_read() -> None:
    [(needle, told)] = parse_states({"needles": [["000000000000000a", 1, 2, 3, "live"]]}).items()
    assert (needle, told) == (10, (State.LIVE, 1, 2, 3))


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"needles": {}},
        {"needles": [5]},
        {"needles": [["a", 1, 2, 3, "live"]]},
        {"needles": [["000000000000000a", 1, 2, 3, "well"]]},
        {"needles": [["000000000000000a", -1, 2, 3, "live"]]},
        {"needles": [["000000000000000a", "1", 2, 3, "live"]]},
        {"needles": [["000000000000000a", 1, 2, "live"]]},
    ],
)
def test_other_states_are_refused(body: object) -> None:
    with pytest.raises(Invalid):
        parse_states(body)
