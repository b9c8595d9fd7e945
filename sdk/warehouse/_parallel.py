"""Many jobs at once, a bounded number of them in flight."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


def as_done(
    executor: Executor,
    job: Callable[[Item], T],
    items: Iterable[Item],
    *,
    limit: int,
    stop: threading.Event,
) -> Iterator[T]:
    """Results in the order in which they come; at most ``limit`` items are taken ahead.

    The first exception is raised once everything in flight has ended; ``stop`` tells the others to.
    """
    pending: set[Future[T]] = set()
    try:
        for item in items:
            pending.add(executor.submit(job, item))
            if len(pending) >= limit:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        # Reached with work left only after an exception, or when the caller stops asking.
        if pending:
            stop.set()
            for future in pending:
                future.cancel()
            wait(pending)
