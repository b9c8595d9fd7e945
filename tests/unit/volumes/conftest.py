from collections.abc import Iterator

import pytest

from keys.selectors import forget_rights
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.services import leases, placement, presign


@pytest.fixture(autouse=True)
def _fresh_caches() -> None:
    """What this process remembers belongs to another test's database."""
    leases.forget_block()
    placement.forget_table()
    presign.forget_places()
    forget_rights()


@pytest.fixture
def fake_server() -> Iterator[FakeVolumeServer]:
    with FakeVolumeServer() as server:
        yield server
