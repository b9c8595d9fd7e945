"""Kombu's filesystem transport, with messages and tables that are whole or not there.

Kombu creates a message's file first and writes it then. A reader that comes in between gets an empty one, whose JSON
error ends Celery's worker (https://github.com/celery/kombu/issues/1551). The tables of exchanges have the same gap:

    writer   open("wb")                    write
    reader               listdir  read ""         loads("") raises

Here a file is written under another name and renamed, and one that is no message is set aside. A message still has no
acknowledgement: it is gone once it was taken. Nothing is synced, so a power cut may leave an empty file; that one is
set aside too.
"""

import contextlib
import fcntl
import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps, loads

logger = logging.getLogger("warehouse.broker")

DAMAGED_SUFFIX = ".damaged"
"""Ends the name of a file that was set aside: it belongs to no queue any more."""


class Channel(filesystem.Channel):
    """A channel that many processes may use at once. Raises ChannelError where the folders cannot be used."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for folder in (self.data_folder_in, self.data_folder_out, self.control_folder):
            Path(folder).mkdir(parents=True, exist_ok=True)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # its stubs disagree
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"  # readers take them in this order
        try:
            _write_whole(Path(self.data_folder_out) / name, dumps(payload))
        except OSError as error:
            raise ChannelError(f"The message {name} cannot be written: {error}") from error

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """The oldest message of the queue. Raises Empty where there is none."""
        try:
            for name in sorted(path.name for path in Path(self.data_folder_in).iterdir()):
                if name.partition(".")[2] != f"{queue}.msg":
                    continue
                path = Path(self.data_folder_in, name)
                with contextlib.suppress(FileNotFoundError):  # another reader was faster
                    raw = path.read_bytes()
                    if (message := self._message(path, raw)) is None:
                        path.rename(path.with_name(name + DAMAGED_SUFFIX))
                        continue
                    path.unlink()  # of several readers one succeeds: the message is that one's
                    return message
        except OSError as error:
            raise ChannelError(f"The queue {queue} cannot be read: {error}") from error
        raise Empty

    def _message(self, path: Path, raw: bytes) -> Any:
        """What the file says, or None where the consumer could not make a message of it."""
        try:
            payload = loads(raw)
            self.Message(payload, channel=self)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s (%d bytes) is no message, and is set aside: %r", path, len(raw), error)
            return None
        return payload

    # -- tables of exchanges: which queues a message goes to -----------------------------------------------------------

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:  # type: ignore[override]  # the same
        """The exchange's bindings. A table that is none counts as empty: the next binding writes it anew."""
        path = self._table_path(exchange)
        try:
            return [filesystem.exchange_queue_t(*row) for row in loads(path.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            logger.warning("%s is no table of bindings, and counts as empty: %r", path, error)
            return []
        except OSError as error:
            raise ChannelError(f"The table {path} cannot be read: {error}") from error

    def _queue_bind(self, exchange: str, routing_key: str | None, pattern: str | None, queue: str | None) -> None:
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._changing_tables():
            table = self.get_table(exchange)
            if row not in table:
                _write_whole(self._table_path(exchange), dumps([row, *table]))

    def _delete(
        self, queue: str, exchange: str, routing_key: str | None, pattern: str | None, *arguments: Any, **options: Any
    ) -> None:
        virtual.Channel._delete(self, queue, exchange, routing_key, pattern, *arguments, **options)
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._changing_tables():
            table = self.get_table(exchange)
            if row in table:
                _write_whole(self._table_path(exchange), dumps([other for other in table if other != row]))

    def _table_path(self, exchange: str) -> Path:
        path: Path = self._exchange_file(exchange)  # type: ignore[attr-defined]  # newer than kombu's stubs
        return path

    @contextlib.contextmanager
    def _changing_tables(self) -> Iterator[None]:
        """One writer at a time. The lock has a file of its own: a table's file is replaced by each change."""
        try:
            with (self.control_folder / "tables.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ChannelError(f"The tables in {self.control_folder} cannot be changed: {error}") from error


class Transport(filesystem.Transport):
    """What the setting `CELERY_BROKER_TRANSPORT` names."""

    Channel = Channel


def _write_whole(path: Path, text: str) -> None:
    """Make the file appear with all that is in it. What a crash leaves has a name that nobody reads."""
    temporary = path.with_name(f"{uuid.uuid4()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
