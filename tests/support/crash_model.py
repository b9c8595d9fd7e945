"""What a client may believe of a volume server that is killed again and again.

A `Needle` holds what was sent for one id and what was proven of it, by an answer or by a read. Every answer is judged
against what was proven when the request was sent; whatever does not fit raises `Contradiction`.

    sent ──> proven kept (acknowledged, durable but not confirmed, or read) ──> may be dying ──> proven dead
      └────> proven absent (not there after a restart): what was sent can never turn up again

A needle that is read counts as kept from then on: only what is durable may be shown.
"""

import zlib
from dataclasses import dataclass, field, replace

COMMITTED = (201, "committed")
STORED = (202, "stored")
DELETED = (409, "needle_taken")
"""How a PUT to a needle that the master deleted is answered."""
UNKNOWN = frozenset({(503, "outcome_unknown"), (503, "master_unavailable")})
"""Durable, not confirmed."""
UNKNOWN_NEEDLE = (404, "needle_unknown")
_REFUSALS = ((412, "precondition_failed"), (403, "permission_denied"), (507, "quota_exceeded"))

Code = tuple[int, str]
"""Status, and the problem's code or the needle's state."""


class Contradiction(AssertionError):
    """The server said what cannot be."""


def verdict_of(seed: int, volume: int, needle: int) -> Code:
    """The made-up master's verdict: of four out of five needles that they are committed. It is the same each time."""
    draw = zlib.crc32(b"%d/%d/%d" % (seed, volume, needle)) % 100
    if draw < 80:
        return COMMITTED
    return STORED if draw < 88 else _REFUSALS[draw % len(_REFUSALS)]


@dataclass(slots=True)
class Needle:
    volume: int
    number: int
    verdict: Code
    sent: list[bytes] = field(default_factory=list)
    """The bodies that may have come in whole and of which nothing is proven."""
    kept: bytes | None = None
    """Proven: the needle holds these bytes, or held them until it died."""
    may_die: bool = False
    """Something was sent that may have killed it."""
    was_deleted: bool = False
    """A delete was sent, so that its tombstone may say nothing of a refusal."""
    is_dead: bool = False
    grave: Code | None = None
    """What a PUT to the dead needle was answered; it must be the same for ever."""
    puts_open: int = 0
    """PUTs without an answer, those included whose client has left."""
    puts_begun: int = 0

    def __str__(self) -> str:
        return f"needle {self.number:016x} of volume {self.volume}"

    @property
    def is_refused(self) -> bool:
        return self.verdict not in (COMMITTED, STORED)

    def seen(self) -> "Needle":
        """What is known now, to judge a later answer by."""
        return replace(self, sent=list(self.sent))

    # -- PUT -----------------------------------------------------------------------------------------------------

    def put_sent(self, body: bytes) -> None:
        """The body may come in whole from now on."""
        self.sent.append(body)
        self.begun()
        if self.is_refused:
            self.may_die = True

    def begun(self) -> None:
        """A PUT that is sure to fail is on its way: its body is cut off, or its CRC-32 is a lie."""
        self.puts_open += 1
        self.puts_begun += 1

    def put_answered(self, before: "Needle", body: bytes, code: Code) -> None:
        self.puts_open -= 1
        if code in (COMMITTED, STORED) or code in UNKNOWN:
            self._require(code in UNKNOWN or code == self.verdict, f"{code} where the master said {self.verdict}")
            self._require(not before.is_dead, f"dead, yet a PUT was answered {code}")
            self._prove_kept(body)
            return
        if before.is_dead:
            self.found_dead(code)
        elif code == DELETED:
            if body in self.sent:
                self.sent.remove(body)
            others = [*before.sent, *self.sent] if self.kept is None else [self.kept]
            differs = any(other != body for other in others)
            self._require(differs or self.was_deleted, "a PUT of the same bytes was refused as another needle's")
        else:
            self._require(self.is_refused and code == self.verdict, f"a PUT was answered {code}")
            self.is_dead = True
            if not self.was_deleted:
                self._bury(code)

    def bad_put_answered(self, before: "Needle", code: Code) -> None:
        """The answer to a PUT whose bytes are not those of its CRC-32."""
        self.puts_open -= 1
        has_others = bool(self.kept is not None or self.was_deleted or before.sent or self.sent)
        taken = code == DELETED and has_others
        buried = code == self.verdict and self.is_refused and self.may_die
        self._require(code == (400, "crc_mismatch") or taken or buried, f"a PUT with a wrong CRC was answered {code}")

    # -- GET -----------------------------------------------------------------------------------------------------

    def read(self, before: "Needle", code: Code, body: bytes, span: slice | None = None) -> None:
        """A GET, of ``span`` of the needle's bytes where it asked for a range."""
        if code == UNKNOWN_NEEDLE:
            self._require(before.kept is None or self.may_die, "acknowledged, but not there")
            return
        self._require(code == (200, "") if span is None else code == (206, ""), f"a GET was answered {code}")
        self._require(not before.is_dead, "dead, yet it can be read")
        if span is None:
            self._prove_kept(body)
        else:
            may_be = [self.kept] if self.kept is not None else self.sent
            self._require(any(whole[span] == body for whole in may_be), f"wrong bytes in a range of {len(body)}")

    # -- delete --------------------------------------------------------------------------------------------------

    def delete_sent(self) -> None:
        self.may_die = self.was_deleted = True

    def delete_answered(self, before: "Needle", outcome: str | None) -> None:
        """``outcome``: "deleted", "absent" or None for neither."""
        if outcome == "deleted":
            self._require(
                self.kept is not None or bool(before.sent or self.sent) or before.may_die,
                "deleted, though nothing was ever sent",
            )
            self.is_dead = True
        elif outcome == "absent":
            self._require(before.kept is None and not before.is_dead, "acknowledged, but not there to delete")
        else:
            is_under_way = before.puts_open or self.puts_begun != before.puts_begun
            self._require(bool(is_under_way), "a delete left out a needle that no PUT was under way for")

    # -- restart -------------------------------------------------------------------------------------------------

    def found(self, code: Code, body: bytes, *, may_return: bool = False) -> bool:
        """The first GET after a restart, with nothing else under way. Whether the needle lives.

        ``may_return``: bytes that were never acknowledged, and lie on the disk behind the end of the file, may be in it
        after a later power cut, where the file grew over them and its new bytes were lost but not its new length.
        """
        self.puts_open = 0
        self.read(self.seen(), code, body)
        if code == UNKNOWN_NEEDLE:
            if not may_return:
                self.sent.clear()
            self.is_dead = self.is_dead or self.kept is not None
            return False
        self.sent.clear()
        self.may_die = self.was_deleted = False
        return True

    def found_dead(self, code: Code) -> None:
        """A PUT to a needle that is proven dead was answered."""
        by_delete = self.was_deleted and code == DELETED
        by_refusal = self.is_refused and code == self.verdict
        self._require(by_delete or by_refusal, f"dead, but a PUT gave {code}")
        self._bury(code)

    def _prove_kept(self, body: bytes) -> None:
        if self.kept is None:
            self._require(body in self.sent, f"holds {len(body)} bytes that nobody sent")
            self.kept = body
        self._require(self.kept == body, "holds other bytes than those that were acknowledged or read before")

    def _bury(self, grave: Code) -> None:
        self._require(self.grave in (None, grave), f"dead by {self.grave}, then by {grave}")
        self.is_dead = True
        self.grave = grave

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise Contradiction(f"{self}: {what}")
