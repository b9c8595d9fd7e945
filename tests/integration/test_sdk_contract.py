"""The contract between a client and its store, on a real store: what holds on the fake holds here."""

import os
from pathlib import Path

import pytest

from tests.support.store import CHUNK_SIZE, Store
from tests.unit.sdk.contract import CHECKS, Check
from warehouse import Client


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, store: Store, tmp_path: Path) -> None:
    bucket = f"contract-{os.urandom(4).hex()}"
    with Client(store.url, store.key) as client:
        client.create_bucket(bucket)
        check(client, bucket, CHUNK_SIZE, tmp_path)
