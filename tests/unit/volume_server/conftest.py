from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.volume_server.serving import Server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "data") as started:
        yield started
