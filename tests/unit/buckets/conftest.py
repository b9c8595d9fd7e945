from collections.abc import Iterator

import pytest

from tests.unit.buckets.lab import Lab, forget_caches
from tests.unit.volumes.fake_server import FakeVolumeServer


@pytest.fixture(autouse=True)
def _fresh_caches(_fresh_caches: None) -> None:
    forget_caches()


@pytest.fixture
def lab(db: None) -> Lab:
    return Lab.make()


@pytest.fixture
def fake_server() -> Iterator[FakeVolumeServer]:
    with FakeVolumeServer() as server:
        yield server
