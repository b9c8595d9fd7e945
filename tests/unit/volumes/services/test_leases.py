import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from volumes.services.leases import BLOCK, forget_block, reserve_lease_number
from volumes.services.store import current_store


@pytest.mark.django_db(transaction=True)
def test_numbers_are_unique_in_threads_across_blocks() -> None:
    current_store()
    start = threading.Barrier(8)

    def reserve(_: int) -> list[int]:
        try:
            start.wait()
            return [reserve_lease_number() for _ in range(BLOCK)]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for some in pool.map(reserve, range(8)) for number in some]
    assert len(set(numbers)) == 8 * BLOCK
    assert min(numbers) >= 1
    assert max(numbers) <= current_store().lease_high


@pytest.mark.django_db(transaction=True)
def test_a_thousand_numbers_cost_one_write() -> None:
    current_store()
    with CaptureQueriesContext(connection) as queries:
        numbers = [reserve_lease_number() for _ in range(BLOCK)]
    assert numbers == list(range(1, BLOCK + 1))
    assert len(queries) == 1


@pytest.mark.django_db(transaction=True)
def test_numbers_of_a_process_that_ended_are_not_given_again() -> None:
    first = reserve_lease_number()
    forget_block()
    assert reserve_lease_number() == first + BLOCK


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_gives_no_number_to_others() -> None:
    with transaction.atomic():
        lost = reserve_lease_number()
        transaction.set_rollback(True)
    # The lost number may come again, for its taker is gone; what must not be is a block that two have.
    numbers = [reserve_lease_number() for _ in range(BLOCK + 1)]
    assert len(set(numbers)) == BLOCK + 1
    assert current_store().lease_high >= max(numbers)
    assert lost >= 1
