"""Several at the same time, in threads with database connections of their own."""

import threading
from collections.abc import Callable

from django.db import connection


def at_once(*jobs: Callable[[], object]) -> None:
    """Runs the jobs side by side; the first error of any of them is raised."""
    start = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:  # noqa: BLE001 - raised again by the test's own thread
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
