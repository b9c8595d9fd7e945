"""The master's client against a real volume server: the checks that its fake has to pass too."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import StartStore
from tests.support.api import send
from tests.unit.volumes import client_contract
from volumes.models import Server


def test_the_contract_holds_for_the_real_server(
    start_store: StartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_store(tmp_path, volume_servers=1, worker=False) as store:
        # The client derives the servers' secrets from the store's key, and this process has another store's.
        monkeypatch.setenv("WAREHOUSE_SIGNING_KEY", (store.data / "secrets" / "signing.key").read_text())
        [part] = store.servers
        internal_url = f"http://127.0.0.1:{part.port}"
        kid, _, server_id = part.identity()
        health = json.loads(send("GET", f"{internal_url}/healthz").body)
        server = Server(id=UUID(server_id), kid=kid, internal_url=internal_url, instance=health["instance"])
        api = store.api()
        lease = api.lease(api.make_bucket("b"))
        assert lease.put(0, "k", b"bytes").status == 201
        for check in client_contract.CHECKS:
            check(server, lease.volume, lease.first)
