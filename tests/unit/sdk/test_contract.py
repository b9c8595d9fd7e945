"""The contract between a client and its store, on the fake."""

from pathlib import Path

import pytest

from tests.unit.sdk.contract import CHECKS, Check
from tests.unit.sdk.fake_store import CHUNK_SIZE, FakeStore
from warehouse import Client


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, fake: FakeStore, client: Client, tmp_path: Path) -> None:
    check(client, "b", CHUNK_SIZE, tmp_path)
