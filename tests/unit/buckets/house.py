"""Rows and real volume servers together: what the one says of needles is, or is not, what the other has."""

import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.utils import timezone

from buckets.services.buckets import create_bucket
from tests.unit.buckets.lab import WRITE, Lab, Put, make_key
from tests.unit.volume_server import faults, serving
from tests.unit.volumes.factories import make_server, make_volume
from volume_server.volume import Volume as VolumeFile
from volumes.derived_secrets import server_secret
from volumes.models import Replica, Server, Volume
from volumes.services import placement

DAY_MS = 24 * 3600 * 1000


@dataclass
class House:
    """One volume, with a copy on each of the servers."""

    lab: Lab
    servers: list[serving.Server]
    rows: list[Server]

    @property
    def volume(self) -> Volume:
        return self.lab.volume

    def file(self, at: int = 0) -> VolumeFile:
        """The copy on one of the servers."""
        return self.servers[at].store.volumes[self.volume.pk]

    def put(self, key: str, *, stored: bool = True, age_ms: int = 0) -> int:
        """An object of one needle; not ``stored``: its rows alone. Gives the needle."""
        lease = self.lab.lease(count=1)
        data = body_of(lease.first)
        self.lab.confirm(Put(lease.url, lease.first, len(data), key))
        if stored:
            self.store(lease.first, age_ms=age_ms)
        return lease.first

    def orphan(self, *, age_ms: int = 3 * DAY_MS, on: int | None = None) -> int:
        """A durable needle that no row names."""
        needle = self.lab.lease(count=1).first
        self.store(needle, age_ms=age_ms, on=on)
        return needle

    def store(self, needle: int, data: bytes | None = None, *, age_ms: int = 0, on: int | None = None) -> None:
        """Writes a needle to all copies, or to one."""
        data = body_of(needle) if data is None else data
        appended_ms = int(time.time() * 1000) - age_ms
        for at, server in enumerate(self.servers):
            if on is None or on == at:
                server.call(lambda at=at: _append(self.file(at), needle, data, appended_ms))  # type: ignore[misc]

    def bury(self, needle: int, *, on: int | None = None) -> None:
        """Writes a tombstone to all copies, or to one."""
        for at, server in enumerate(self.servers):
            if on is None or on == at:
                server.call(lambda at=at: faults.delete(self.file(at), needle))  # type: ignore[misc]

    def flip(self, needle: int, place: int, *, on: int = 0) -> None:
        """One bit of a needle's record; ``place`` from its start, or from its end where it is negative."""
        file = self.file(on)
        offset, length = self.servers[on].call(lambda: file.locate(needle))
        at = offset + (place if place >= 0 else length + place)
        [byte] = file.files.read_at(file.fd, 1, at)
        file.files.write_at(file.fd, [bytes([byte ^ 4])], at)

    def lives(self, needle: int, *, on: int = 0) -> bool:
        return bool(self.servers[on].call(lambda: self.file(on).stored_length(needle)))

    def heard(self) -> None:
        """As after a heartbeat."""
        Server.objects.update(last_seen_at=timezone.now())


def body_of(needle: int) -> bytes:
    """The bytes whose CRC `lab.batch_of` tells."""
    return b"%d" % needle


def _append(file: VolumeFile, needle: int, data: bytes, appended_ms: int) -> None:
    claim = file.append(needle, faults.META, data, data_crc=zlib.crc32(data), appended_ms=appended_ms)
    faults.settle(file, claim)


@contextmanager
def running_house(directory: Path, *, copies: int = 1) -> Iterator[House]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving.running(directory / f"server{at}")) for at in range(copies)]
        rows = []
        for server in servers:
            server_id = UUID(server.store.identity.server)
            url = f"http://127.0.0.1:{server.port}"
            rows.append(make_server(id=server_id, internal_url=url, public_url=url, kid=serving.KID))
            server.store.identity.secrets = {str(serving.KID): server_secret(server_id, serving.KID).hex()}
        volume = make_volume(rows[0], replica={"revision": 1})
        for row in rows[1:]:
            Replica.objects.create(
                volume=volume, server=row, role=Replica.Role.SECONDARY, state=Replica.State.OPEN, epoch=1, revision=1,
                reported_at=timezone.now(), whole_epoch=1,
            )  # fmt: skip
        for server in servers:
            made = server.store.create_volume(number=volume.pk, salt=bytes(16), created_ms=5, epoch=volume.epoch)
            server.call(lambda server=server, made=made: server.store.adopt(made))  # type: ignore[misc]
        placement.forget_table()
        lab = Lab(server=rows[0], volume=volume, bucket=create_bucket(name="photos"), key=make_key(permissions=WRITE))
        yield House(lab, servers, rows)
