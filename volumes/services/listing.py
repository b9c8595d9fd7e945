"""All needles of one copy of a volume, in slices by id, from the pages that its server gives.

Unknown is not absent: a listing is whole, error-free and of one revision and epoch, or `Listing` raises.
"""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from volumes import client
from volumes.errors import ServerAnswerInvalid, ServerRefused
from volumes.models import Server
from volumes.needles import MAX_NEEDLE, NeedlePage

ENDED = "listing_ended"
"""The refusal's code that says: the volume was changed as a whole, begin anew."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The needles of a stretch of ids, as `NeedlePage` has them."""

    live: list[tuple[int, int, int]]
    appended_ms: Sequence[int]
    dead: Sequence[int]
    damaged: Sequence[int]


class Listing:
    """One pass. The next page is asked for, by a thread of ``threads``, while this one is being used.

    Every method may raise VolumeServerError; `is_ended` tells whether that only means to begin anew.
    """

    def __init__(self, server: Server, volume_id: int, threads: Executor, *, deep: bool = False) -> None:
        self.server = server
        self.volume_id = volume_id
        self._threads = threads
        self._deep = deep
        self._done_to = 0
        self._page = self._expected = client.list_needles(server, volume_id, deep=deep)
        self._coming = self._ask()

    @property
    def revision(self) -> int:
        return self._expected.revision

    @property
    def epoch(self) -> int:
        return self._expected.epoch

    @property
    def through(self) -> int:
        """How far can be sliced without waiting for more."""
        return self._page.through

    @property
    def is_over(self) -> bool:
        """All that there is has been given."""
        return self._done_to >= MAX_NEEDLE

    def take(self, through: int) -> Slice:
        """The needles behind those taken before, up to and with ``through``, which is no more than `through` says."""
        page = self._page
        ends = [bisect_right(page.live, (through + 1,))]
        ends += [bisect_right(ids, through) for ids in (page.dead, page.damaged)]
        taken = Slice(page.live[: ends[0]], page.appended_ms[: ends[0]], page.dead[: ends[1]], page.damaged[: ends[2]])
        self._done_to = through
        if through >= page.through:
            if not self.is_over:
                self._turn()
        else:
            self._page = NeedlePage(
                page.volume,
                page.revision,
                page.epoch,
                page.live[ends[0] :],
                page.appended_ms[ends[0] :],
                page.dead[ends[1] :],
                page.damaged[ends[2] :],
                page.through,
                page.next,
            )
        return taken

    def close(self) -> None:
        """Nobody wants more; a page that is on its way is waited for."""
        if self._coming is not None:
            self._coming.exception()

    def _turn(self) -> None:
        coming, self._coming = self._coming, None
        if coming is None:
            raise ServerAnswerInvalid(f"The listing of volume {self.volume_id} ended too early.")
        page = coming.result()
        if (page.revision, page.epoch) != (self.revision, self.epoch) or page.through <= self._done_to:
            raise ServerAnswerInvalid(f"The pages of volume {self.volume_id} do not belong together.")
        self._page = page
        self._coming = self._ask()

    def _ask(self) -> "Future[NeedlePage] | None":
        if not self._page.next:
            return None
        return self._threads.submit(
            client.list_needles, self.server, self.volume_id, after=self._page.next, deep=self._deep
        )


def is_ended(error: Exception) -> bool:
    """Whether a listing failed only because its volume was changed as a whole, most likely by a compaction."""
    return isinstance(error, ServerRefused) and error.refusal == ENDED
