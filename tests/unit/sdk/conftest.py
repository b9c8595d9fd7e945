from collections.abc import Iterator

import pytest

from tests.unit.sdk.fake_store import KEY, FakeStore
from warehouse import Client, TransferConfig

QUICK = TransferConfig(backoff_s=0.001, backoff_max_s=0.01)


@pytest.fixture
def fake() -> Iterator[FakeStore]:
    with FakeStore() as store:
        store.buckets["b"] = {}
        yield store


@pytest.fixture
def client(fake: FakeStore) -> Iterator[Client]:
    with Client(fake.url, KEY, transfer=QUICK) as client:
        yield client
