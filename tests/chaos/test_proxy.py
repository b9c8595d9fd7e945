"""The fault proxy does what its weather says, and nothing else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.chaos_content import BLOCK_BYTES, Identity, Mixed, identify
from tests.support.chaos_proxy import DOWN, PEERS, UP, Link, Proxy, Weather
from tests.support.programs import free_ports

BODY = Identity(1, 40 * BLOCK_BYTES, "b:k").body()


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that says back what it is told, until its client has said all."""
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy() as proxy:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        yield proxy.link("a>b", port=free_ports(1)[0], target=server.getsockname()[1])


def echo(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=echo_one, args=(connection,), daemon=True).start()


def echo_one(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


def said(link: Link, body: bytes = BODY) -> bytes:
    """What comes back of a body until the connection ends, in whatever way."""
    with socket.create_connection(("127.0.0.1", link.port)) as connection:
        sender = threading.Thread(target=send_all, args=(connection, body))
        sender.start()
        found = bytearray()
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                found += piece
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sender.join()
    return bytes(found)


def send_all(connection: socket.socket, body: bytes) -> None:
    with suppress(OSError):
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)


def test_fair_weather_changes_nothing(link: Link) -> None:
    assert said(link) == BODY


def test_slow_weather_changes_nothing(link: Link) -> None:
    link.turn(Weather(delay_s=0.01, bytes_per_s=50 << 20))
    assert said(link) == BODY


def test_a_link_that_is_cut_resets_old_connections_and_new_ones(link: Link) -> None:
    with socket.create_connection(("127.0.0.1", link.port)) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        link.turn(Weather(cut=True))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert said(link) == b""
    link.turn(Weather())
    assert said(link) == BODY


def test_what_servers_say_to_each_other_has_a_weather_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy() as proxy:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        link = proxy.link("master>b", port=free_ports(1)[0], target=server.getsockname()[1], peers="servers>b")
        shipment = PEERS + b"1/2/ship HTTP/1.1" + BODY
        assert said(link) == BODY
        assert said(link, shipment) == shipment
        proxy.links["servers>b"].turn(Weather(cut=True))
        assert said(link) == BODY
        assert said(link, shipment) == b""
        proxy.clear()
        link.turn(Weather(cut=True))
        assert said(link) == b""
        assert said(link, shipment) == shipment


def test_what_stalls_goes_on_afterwards(link: Link) -> None:
    with socket.create_connection(("127.0.0.1", link.port)) as connection:
        link.turn(Weather(stalled=True))
        connection.sendall(b"x")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(None)
        link.turn(Weather())
        assert connection.recv(1) == b"x"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_connections_end_early(link: Link, direction: str) -> None:
    for ending in ("reset", "close", "half"):
        link.turn(Weather(end_after=30_000, ending=ending, direction=direction))
        assert len(said(link)) <= 30_000


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_bits_of_objects_are_flipped_and_no_others(link: Link, direction: str) -> None:
    link.turn(Weather(flips=1.0, direction=direction))
    head = b"PUT /1/1 HTTP/1.1\r\n\r\n"
    assert said(link, head) == head
    found = said(link, head + BODY)
    assert found.startswith(head)
    assert len(found) == len(head) + len(BODY)
    assert link.flipped >= 1
    with pytest.raises(Mixed):
        identify(found[len(head) :])
    link.turn(Weather(flips=1.0, flips_objects=False, direction=direction))
    assert said(link, head) != head
