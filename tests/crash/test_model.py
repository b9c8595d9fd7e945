"""The judge of a crash run notices whatever a server must never say."""

from collections.abc import Callable

import pytest

from tests.support.crash_model import COMMITTED, DELETED, STORED, UNKNOWN_NEEDLE, Contradiction, Needle, verdict_of

REFUSED = (412, "precondition_failed")
OK = (200, "")
Story = Callable[[Needle], None]


def put(needle: Needle, body: bytes, code: tuple[int, str]) -> None:
    needle.put_sent(body)
    needle.put_answered(needle.seen(), body, code)


def delete(needle: Needle, outcome: str | None) -> None:
    needle.delete_sent()
    needle.delete_answered(needle.seen(), outcome)


def read(needle: Needle, code: tuple[int, str], body: bytes = b"") -> None:
    needle.read(needle.seen(), code, body)


def acknowledged(verdict: tuple[int, str] = COMMITTED) -> Needle:
    needle = Needle(1, 7, verdict)
    put(needle, b"bytes", verdict)
    return needle


def void(_: object) -> None:
    """What it gives does not matter."""


def deleted() -> Needle:
    needle = acknowledged()
    delete(needle, "deleted")
    return needle


def test_what_a_good_server_says() -> None:
    needle = Needle(1, 7, COMMITTED)
    needle.put_sent(b"lost")
    read(needle, UNKNOWN_NEEDLE)
    assert not needle.found(UNKNOWN_NEEDLE, b"")
    put(needle, b"bytes", (503, "outcome_unknown"))
    put(needle, b"bytes", COMMITTED)
    put(needle, b"other", DELETED)
    read(needle, OK, b"bytes")
    needle.read(needle.seen(), (206, ""), b"yt", slice(1, 3))
    needle.delete_sent()
    assert needle.found(OK, b"bytes"), "a delete without an answer may be lost"
    delete(needle, "deleted")
    assert not needle.found(UNKNOWN_NEEDLE, b"")
    needle.found_dead(DELETED)
    put(needle, b"bytes", DELETED)
    delete(needle, "deleted")


def test_what_a_good_server_says_of_refused_needles() -> None:
    needle = Needle(1, 7, REFUSED)
    put(needle, b"bytes", (503, "outcome_unknown"))
    read(needle, OK, b"bytes")
    put(needle, b"bytes", REFUSED)
    put(needle, b"other", REFUSED)
    assert not needle.found(UNKNOWN_NEEDLE, b"")
    needle.found_dead(REFUSED)


def test_answers_that_cross_each_other() -> None:
    needle = Needle(1, 7, COMMITTED)
    needle.put_sent(b"one")
    first = needle.seen()
    needle.put_sent(b"other")
    needle.put_answered(needle.seen(), b"other", DELETED)
    needle.put_answered(first, b"one", COMMITTED)
    before_delete = needle.seen()
    delete(needle, "deleted")
    needle.read(before_delete, OK, b"one")
    needle.put_sent(b"one")
    delete(needle, None)


LIES: dict[str, tuple[Callable[[], Needle], Story]] = {
    "acknowledged, then gone": (acknowledged, lambda needle: read(needle, UNKNOWN_NEEDLE)),
    "acknowledged, gone after a restart": (acknowledged, lambda needle: void(needle.found(UNKNOWN_NEEDLE, b""))),
    "other bytes": (acknowledged, lambda needle: read(needle, OK, b"bytez")),
    "other bytes in a range": (
        acknowledged, lambda needle: needle.read(needle.seen(), (206, ""), b"by", slice(1, 3))
    ),
    "other bytes acknowledged": (acknowledged, lambda needle: put(needle, b"other", COMMITTED)),
    "bytes that nobody sent": (lambda: Needle(1, 7, COMMITTED), lambda needle: read(needle, OK, b"bytes")),
    "an error instead of bytes": (acknowledged, lambda needle: read(needle, (500, "needle_damaged"))),
    "the same bytes refused": (acknowledged, lambda needle: put(needle, b"bytes", DELETED)),
    "another verdict": (acknowledged, lambda needle: put(needle, b"bytes", STORED)),
    "a refusal out of nowhere": (acknowledged, lambda needle: put(needle, b"bytes", REFUSED)),
    "a refused needle committed": (lambda: Needle(1, 7, REFUSED), lambda needle: put(needle, b"b", COMMITTED)),
    "a refusal forgotten": (lambda: acknowledged(REFUSED), lambda needle: put(needle, b"bytes", DELETED)),
    "a refused needle read": (lambda: acknowledged(REFUSED), lambda needle: read(needle, OK, b"bytes")),
    "a dead one read": (deleted, lambda needle: read(needle, OK, b"bytes")),
    "a dead one read after a restart": (deleted, lambda needle: void(needle.found(OK, b"bytes"))),
    "a dead one put again": (deleted, lambda needle: put(needle, b"bytes", COMMITTED)),
    "a dead one refused": (deleted, lambda needle: put(needle, b"bytes", REFUSED)),
    "acknowledged, but absent": (acknowledged, lambda needle: delete(needle, "absent")),
    "passed over by a delete": (acknowledged, lambda needle: delete(needle, None)),
    "deleted out of nowhere": (
        lambda: Needle(1, 7, COMMITTED), lambda needle: needle.delete_answered(needle.seen(), "deleted")
    ),
    "a wrong CRC taken": (
        lambda: Needle(1, 7, COMMITTED), lambda needle: needle.bad_put_answered(needle.seen(), COMMITTED)
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_says_what_cannot_be_is_found_out(lie: str) -> None:
    make, story = LIES[lie]
    needle = make()
    with pytest.raises(Contradiction, match="0000000000000007 of volume 1"):
        story(needle)


def test_verdicts_are_of_all_kinds_and_stay_the_same() -> None:
    verdicts = [verdict_of(3, 1, needle) for needle in range(1000)]
    assert verdicts == [verdict_of(3, 1, needle) for needle in range(1000)]
    assert {COMMITTED, STORED, REFUSED, (403, "permission_denied"), (507, "quota_exceeded")} == set(verdicts)
    assert verdicts.count(COMMITTED) > 700
