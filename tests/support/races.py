"""Work at the same moment in several processes, each a copy of this one with database connections of its own."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import TypeVar, cast

from django.db import connections

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")


def at_once(*jobs: Callable[[], T]) -> list[T]:
    """Runs the jobs side by side; what they returned, in their order. AssertionError where one of them raised.

    What a job changes in memory is gone with its process. It begins when all the others are there to begin.
    """
    connections.close_all()  # a copy of an open connection would be the same one
    start = _FORK.Barrier(len(jobs))
    pipes = [_FORK.Pipe(duplex=False) for _ in jobs]
    processes = [
        _FORK.Process(target=_run, args=(job, start, told)) for job, (_, told) in zip(jobs, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for _, told in pipes:
        told.close()  # the child's copy alone is left, so that its end can be seen
    outcomes = [_outcome(heard) for heard, _ in pipes]
    for process in processes:
        process.join()
    failed = [error for _, error in outcomes if error]
    assert not failed, "\n".join(failed)
    return [cast("T", value) for value, _ in outcomes]


def _run(job: Callable[[], object], start: Barrier, told: Connection) -> None:
    try:
        start.wait()
        told.send((job(), ""))
    except BaseException:  # noqa: BLE001 - told to the test, which fails
        told.send((None, traceback.format_exc()))
    finally:
        connections.close_all()


def _outcome(heard: Connection) -> tuple[object, str]:
    """What the job returned, and what it raised."""
    with heard:
        try:
            value, error = heard.recv()
        except EOFError:
            return None, "a process ended without a word"
        return value, error
