"""The volume server with a verdict made up on the spot: everything of a durable PUT but the master's commit.

    python -m bench.uncommitted_server DIRECTORY PORT

Serves the volume in DIRECTORY/data, a new one where there is none, and writes DIRECTORY/access.json: the secret that
signs requests to it, and signed leases.
"""

import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.wrk import lease_line
from volume_server import intent as intents
from volume_server.commit import Put
from volume_server.process import Options, VolumeServer
from volume_server.signing import presign_put
from volume_server.volume import volume_path

VOLUME = 1
KID = 1
FIRST_LEASE = 1 << 24
"""Above those that `bench.volumes` makes needles of beforehand."""
LEASES = 200
MAX_BYTES = 80 << 20
LIFETIME_S = 3600


class SaysYes:
    """In the master's place: every needle is committed."""

    def confirm(self, put: Put, done: Callable[[Put, dict[str, object]], None]) -> None:
        etag = f"{put.needle:016x}"
        verdict: dict[str, object] = {
            "state": "committed",
            "bucket": put.lease.intent.bucket,
            "key": put.key,
            "size": put.size_bytes,
            "etag": etag,
            "updated_at": "2000-01-01T00:00:00Z",
        }
        done(put, verdict)


def lease_lines(secret: bytes) -> list[str]:
    """Leases of 4,096 needles, with consecutive lease numbers, in the form that requests.lua reads."""
    expires_at = int(time.time()) + LIFETIME_S
    lines = []
    for number in range(FIRST_LEASE, FIRST_LEASE + LEASES):
        intent = intents.Intent(
            volume=VOLUME, first=number << 16, count=intents.MAX_COUNT, epoch=1, max_bytes=MAX_BYTES, bucket_id=1,
            bucket="bench", api_key=1, generation=1, expires_at=expires_at,
        )  # fmt: skip
        text = intents.to_text(intents.pack(intent, secret))
        url = presign_put(secret, kid=KID, volume=VOLUME, expires_at=expires_at, intent=text)
        lines.append(lease_line(url, f"{intent.first:016x}", intent.count))
    return lines


def main(directory: Path, port: int) -> int:
    options = Options(
        data=directory / "data", host="127.0.0.1", port=port, internal_port=None, master="http://127.0.0.1:9",
        join_token=None, public_url=None, internal_url=None, node="bench",
    )  # fmt: skip
    server = VolumeServer(options, confirmer=SaysYes())
    store = server.store
    secret = secrets.token_bytes(32)
    store.identity.secrets = {str(KID): secret.hex()}
    store.identity.kid = KID
    if not volume_path(store.directory, VOLUME).exists():
        store.create_volume(
            number=VOLUME, salt=secrets.token_bytes(16), created_ms=int(time.time() * 1000), epoch=1
        ).close()
    access = {
        "server": store.identity.server,
        "secret": secret.hex(),
        "kid": KID,
        "volume": VOLUME,
        "leases": lease_lines(secret),
    }
    (directory / "access.json").write_text(json.dumps(access))
    return server.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
