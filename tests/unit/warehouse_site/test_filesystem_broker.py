"""The broker in the data folder: no reader ever sees half of what a writer writes."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import ChannelError

from tests.support.programs import ROOT
from tests.support.waiting import wait_until
from warehouse_site import settings
from warehouse_site.filesystem_broker import DAMAGED_SUFFIX, Channel, Transport

QUEUE = "celery"
HAMMERED = 200

WRITER = """
import sys
from tests.unit.warehouse_site.test_filesystem_broker import HAMMERED, QUEUE, channel
with channel(sys.argv[1]) as writer:
    for number in range(HAMMERED):
        writer._put(QUEUE, {"properties": {"delivery_tag": number}, "from": sys.argv[2], "padding": "x" * 20_000})
"""


@contextmanager
def channel(folder: str | Path) -> Iterator[Channel]:
    """A channel of a process of its own, as far as files go."""
    options = {
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
        "polling_interval": 0.01,
    }
    with Connection("filesystem://localhost//", transport=Transport, transport_options=options) as connection:
        connection.transport.state.clear()  # of all connections of this process: another folder knows of no bindings
        made = connection.default_channel
        assert isinstance(made, Channel)
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Channel]:
    with channel(tmp_path) as made:
        yield made


def message(tag: str) -> dict[str, Any]:
    return {"body": "", "properties": {"delivery_tag": tag}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_settings_name_it() -> None:
    if settings.REDIS_URL:
        pytest.skip("the broker is Redis")
    from warehouse_site.celery import app

    assert isinstance(app.connection().transport, Transport)


def test_messages_come_once_and_in_turn(one: Channel, tmp_path: Path) -> None:
    for tag in "abc":
        one._put(QUEUE, message(tag))
        one._put("other", message("z"))
    assert [one._get(QUEUE) for _ in "abc"] == [message(tag) for tag in "abc"]
    with pytest.raises(Empty):
        one._get(QUEUE)
    assert one._size("other") == 3
    assert len(names(tmp_path / "queue")) == 3


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'{"body": "',
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"body": "x"}',
        b'{"properties": []}',
        b'{"properties": {}}',
        b'{"body": "x", "properties": {"delivery_tag": 1, "body_encoding": "base64"}}',
        b'{"body": "x", "properties": {"delivery_tag": 1, "body_encoding": "odd"}}',
        b'{"__type__": "odd", "__value__": 1}',
    ],
)
def test_a_file_that_is_no_message_is_set_aside(
    one: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    name = f"-torn.{QUEUE}.msg"  # before all digits
    (tmp_path / "queue" / name).write_bytes(torn)
    one._put(QUEUE, message("a"))
    with caplog.at_level(logging.WARNING, "warehouse.broker"):
        assert one._get(QUEUE) == message("a")
    assert name in caplog.text
    assert names(tmp_path / "queue") == [name + DAMAGED_SUFFIX]
    with pytest.raises(Empty):
        one._get(QUEUE)


def test_a_consumer_lives_through_a_torn_message(one: Channel, tmp_path: Path) -> None:
    """The way that ended the worker: the transport's own loop, from the file to the consumer."""
    connection = one.connection.client
    assert connection is not None
    with connection.SimpleQueue(QUEUE) as queue:
        (tmp_path / "queue" / f"-torn.{QUEUE}.msg").write_bytes(b"")
        queue.put({"wake": "up"})
        received = queue.get()
        assert received.payload == {"wake": "up"}
        received.ack()


def test_a_message_has_its_name_only_when_it_is_whole(
    one: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        one._put(QUEUE, message("a"))
    assert [name.rpartition(".")[2] for name in names(tmp_path / "queue")] == ["tmp"]
    with pytest.raises(Empty):
        one._get(QUEUE)
    assert one._size(QUEUE) == 0


def test_a_message_that_cannot_be_written_leaves_nothing(
    one: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ChannelError, match="No space left"):
        one._put(QUEUE, message("a"))
    assert names(tmp_path / "queue") == []


def test_two_writers_and_two_readers_lose_and_break_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    received: list[tuple[str, int]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        with channel(tmp_path) as reader:
            while len(received) < 2 * HAMMERED and not done.is_set():
                try:
                    payload = reader._get(QUEUE)
                except Empty:
                    continue
                except Exception as error:  # noqa: BLE001 - a thread's error fails no test by itself
                    failures.append(error)
                    return
                received.append((payload["from"], payload["properties"]["delivery_tag"]))

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=ROOT) for name in ("one", "two")
    ]
    for reader in readers:
        reader.start()
    assert [writer.wait() for writer in writers] == [0, 0]
    try:
        wait_until(lambda: failures or len(received) == 2 * HAMMERED, what="all messages")
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert sorted(received) == [(name, number) for name in ("one", "two") for number in range(HAMMERED)]
    assert caplog.text == ""
    assert names(tmp_path / "queue") == []


# -- tables ------------------------------------------------------------------------------------------------------------


def bindings(one: Channel) -> list[str]:
    return [row[2] for row in one.get_table("e")]


def test_bindings_are_kept_and_taken_back(one: Channel, tmp_path: Path) -> None:
    assert bindings(one) == []
    for queue in ("a", "b", "a"):
        one._queue_bind("e", "key", None, queue)
    assert sorted(bindings(one)) == ["a", "b"]
    one._put("a", message("gone with its queue"))
    one._delete("a", "e", "key", None)
    one._delete("never", "e", "key", None)
    assert bindings(one) == ["b"]
    assert one._size("a") == 0
    with channel(tmp_path) as other:
        assert bindings(other) == ["b"]


@pytest.mark.parametrize("torn", [b"", b'[["key", "', b"7", b'[["key"]]'])
def test_a_torn_table_is_written_anew(
    one: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    table = tmp_path / "control" / "e.exchange"
    table.write_bytes(torn)
    with caplog.at_level(logging.WARNING, "warehouse.broker"):
        assert bindings(one) == []
    assert "e.exchange" in caplog.text
    one._queue_bind("e", "key", None, "a")
    assert json.loads(table.read_bytes()) == [["key", "", "a"]]


def test_no_binding_of_many_at_once_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each of eight channels binds its queues; a ninth reads the table all the while."""
    bound = [[f"{number}.{turn}" for turn in range(20)] for number in range(8)]

    def bind(queues: list[str]) -> None:
        with channel(tmp_path) as own:
            for queue in queues:
                own._queue_bind("e", "key", None, queue)

    threads = [threading.Thread(target=bind, args=(queues,)) for queues in bound]
    with channel(tmp_path) as reader:
        for thread in threads:
            thread.start()
        seen = 0
        while any(thread.is_alive() for thread in threads):
            before, seen = seen, len(bindings(reader))
            assert seen >= before
        for thread in threads:
            thread.join()
        assert sorted(bindings(reader)) == sorted(queue for queues in bound for queue in queues)
    assert caplog.text == ""
