"""Two or more volume servers that hold copies of one volume, and the master's part: its orders."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.unit.volume_server.serving import KID, SECRET, Answer, Server, admin, running
from volume_server import signing


@contextmanager
def servers(tmp_path: Path, count: int = 2, **options: Any) -> Iterator[list[Server]]:
    """Each with an empty volume 1 of the same superblock."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(tmp_path / f"server-{number}", **options)) for number in range(count)]


def peer_of(primary: Server, peer: Server, epoch: int, *, volume: int = 1, url: str | None = None) -> dict[str, object]:
    """As it stands in an `open`."""
    ticket = signing.replica_ticket(SECRET, volume=volume, epoch=epoch, primary=primary.store.identity.server)
    return {
        "server": peer.store.identity.server,
        "url": url or f"http://127.0.0.1:{peer.port}",
        "kid": KID,
        "ticket": ticket,
    }


def order_open(primary: Server, peers: list[Server], epoch: int, *, url: str | None = None) -> Answer:
    told = [peer_of(primary, peer, epoch, url=url) for peer in peers]
    return admin(primary, "/admin/open", {"volume": 1, "epoch": epoch, "peers": told})


def open_with(primary: Server, peers: list[Server], epoch: int, *, url: str | None = None) -> None:
    """Until the volume is open."""
    answer = order_open(primary, peers, epoch, url=url)
    assert answer.status == 200, answer.body
    wait_state(primary, "open")


def order_drop(server: Server, epoch: int = 99) -> Answer:
    return admin(server, "/admin/drop", {"volume": 1, "epoch": epoch})


def wait_state(server: Server, state: str) -> dict[str, Any]:
    """Until the volume's replication is in the state; its figures."""
    server.wait(lambda: state_of(server) == state, what=f"{state}: {replication_of(server)}")
    return replication_of(server)


def state_of(server: Server) -> str | None:
    """On the loop."""
    told = server.replication.report(server.volume)["replication"]
    return None if told is None else str(told["state"])  # type: ignore[index]


def replication_of(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = usage_of(server)["replication"]
    return found


def usage_of(server: Server) -> dict[str, Any]:
    return server.call(lambda: server.routes.report(server.volume))


def file_of(server: Server) -> bytes:
    return (server.directory / "0000000001.vol").read_bytes()


def require_equal(*found: Server) -> None:
    """The copies have the same bytes, and know the same needles."""
    first, *others = found
    for other in others:
        assert file_of(first) == file_of(other)
        assert known_to(first) == known_to(other)


def known_to(server: Server) -> tuple[list[tuple[int, int, int]], int, int]:
    """All needles and where they lie, and how many live and are dead."""
    volume = server.volume
    return server.call(
        lambda: (sorted(volume.index.items()), volume.figures.live_count, volume.figures.tombstone_count)
    )
