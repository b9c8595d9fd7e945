"""The volume server with a verdict made up on the spot: everything of a durable PUT but the master's commit.

    python -m bench.uncommitted_server DIRECTORY PORT

Makes a new data directory with one volume, and DIRECTORY/leases.json: signed leases, as lines for requests.lua.
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

VOLUME = 1
KID = 1
LEASES = 200
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
    """Leases of 4,096 needles of 1 KiB, with consecutive lease numbers."""
    expires_at = int(time.time()) + LIFETIME_S
    lines = []
    for number in range(1, LEASES + 1):
        intent = intents.Intent(
            volume=VOLUME, first=number << 16, count=intents.MAX_COUNT, epoch=1, max_bytes=1024, bucket_id=1,
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
    secret = secrets.token_bytes(32)
    server.store.identity.secrets = {str(KID): secret.hex()}
    server.store.identity.kid = KID
    server.store.create_volume(
        number=VOLUME, salt=secrets.token_bytes(16), created_ms=int(time.time() * 1000), epoch=1
    ).close()
    (directory / "leases.json").write_text(json.dumps(lease_lines(secret)))
    return server.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
