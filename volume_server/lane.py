"""The lane on which needles are confirmed: one connection to the master, one batch at a time of all that waits.

It lives on the server's loop. A thread that comes back from a system call waits for the interpreter, up to 0.1 s while
a loop with much to do lets go of it only for moments (docs/adr/0014).

    idle ── confirm ──> sent ── verdicts ──> the next batch is sent, then these are delivered
                         │ ^
                         v │ refused for now, no answer, no connection: a pause, then the same again
                        pause ── deadline ──> unknown
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from volume_server.answers import AnswerReader, AnswerUnreadable
from volume_server.commit import Put
from volume_server.master import CALL_TIMEOUT_S, PREFIX, Credentials
from volume_server.responses import REASONS

log = logging.getLogger(__name__)

CONFIRM_DEADLINE_MS = 10_000
CONFIRM_GRACE_S = 0.5
"""How long after the deadline an answer is still awaited: it may have been judged just before."""
MAX_BATCH = 512
RETRY_S = (0.05, 0.2, 0.5)

NO_ANSWER = 0

_CODE = re.compile(r"[a-z0-9_]{1,64}")

Verdicts = list[dict[str, object]]
Entry = tuple[Put, Callable[[Put, dict[str, object]], None]]


@dataclass(slots=True)
class _Batch:
    """A batch on its way."""

    entries: list[Entry]
    deadline_ms: int = 0
    raw: bytes = b""
    perhaps_committed: bool = False
    retries: Iterator[float] = field(default_factory=lambda: iter(RETRY_S))
    timer: asyncio.TimerHandle | None = None
    """Ends the wait for an answer."""

    @property
    def puts(self) -> list[Put]:
        return [put for put, _ in self.entries]


class ConfirmLane:
    """To be used on the loop alone.

    Outcomes that are no verdict have ``state`` "unknown" and a code: `master_unavailable` where it is certain that
    nothing was committed, `outcome_unknown` where it is not; the latter is told only after the batch's deadline, when
    it is certain that nothing more will be.
    """

    def __init__(self, url: str, credentials: Credentials, loop: asyncio.AbstractEventLoop) -> None:
        parts = urlsplit(url)
        self.credentials = credentials
        self.loop = loop
        self.target = f"{parts.path.rstrip('/')}{PREFIX}/confirm"
        self.waiting: list[Entry] = []
        self.batch_count = 0
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host_header = parts.netloc.rpartition("@")[2]
        self._batch: _Batch | None = None
        self._is_called = False
        """`_begin` will be called in this turn of the loop."""
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] | None = None

    def confirm(self, put: Put, done: Callable[[Put, dict[str, object]], None]) -> None:
        """Call ``done`` with the verdict, later."""
        self.waiting.append((put, done))
        if self._batch is None and not self._is_called:
            self._is_called = True
            self.loop.call_soon(self._begin)  # those of the same breath share a batch

    async def close(self) -> None:
        """Finish what waits, then end."""
        if self._batch is not None or self.waiting:
            self._closed = self.loop.create_future()
            await self._closed
        self._drop_link()

    def _begin(self) -> None:
        """Send what waits. Nothing is on its way."""
        self._is_called = False
        entries, self.waiting = self.waiting[:MAX_BATCH], self.waiting[MAX_BATCH:]
        if not entries:
            if self._closed is not None and not self._closed.done():
                self._closed.set_result(None)
            return
        self.batch_count += 1
        batch = self._batch = _Batch(entries)
        if not self.credentials.known:
            self._give_up(batch)
            return
        with self._unbroken(batch):
            self._encode(batch)
            self._send(batch)

    @contextlib.contextmanager
    def _unbroken(self, batch: _Batch) -> Iterator[None]:
        """Whatever it was, the lane must go on, and no client may wait for ever."""
        try:
            yield
        except Exception:
            log.exception("a confirm of %d needles failed", len(batch.entries))
            if self._batch is batch:
                batch.perhaps_committed = True
                self._give_up(batch)

    def _encode(self, batch: _Batch) -> None:
        batch.deadline_ms = self.credentials.clock.now_ms() + CONFIRM_DEADLINE_MS
        batch.raw = encode_batch(batch.puts, batch.deadline_ms)

    # -- a try ---------------------------------------------------------------------------------------------------

    def _send(self, batch: _Batch) -> None:
        link = self._link
        if link is not None and not link.is_dropped():
            self._post(batch, link)
        else:
            self._drop_link()
            self._connecting = self.loop.create_task(self._connect(batch))

    def _send_again(self, batch: _Batch) -> None:
        with self._unbroken(batch):
            self._send(batch)

    def _post(self, batch: _Batch, link: "_Link") -> None:
        batch.timer = self.loop.call_later(self._left_s(batch), self._failed, batch, "it did not come in time")
        link.send(self.request(batch.raw))

    def request(self, raw: bytes) -> bytes:
        """A signed confirm, of which ``raw`` is the body. The master knows this spelling (`warehouse_site.lane`)."""
        lines = {
            "Host": self._host_header,
            **self.credentials.headers("POST", self.target, raw),
            "Content-Type": "application/json",
            "X-Request-Id": os.urandom(16).hex(),
            "Content-Length": str(len(raw)),
        }
        text = "".join([f"{name}: {value}\r\n" for name, value in lines.items()])
        return f"POST {self.target} HTTP/1.1\r\n{text}\r\n".encode("ascii") + raw

    async def _connect(self, batch: _Batch) -> None:
        """A new connection for what is sent then; without one nothing of it has reached the master."""
        with self._unbroken(batch):
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    _, link = await self.loop.create_connection(
                        lambda: _Link(self), self._host, self._port, ssl=self._tls
                    )
            except OSError as error:  # TimeoutError is one
                log.warning("the master cannot be reached: %s", error)
                self._give_up(batch)
            else:
                self._link = link
                self._post(batch, link)

    def _left_s(self, batch: _Batch) -> float:
        return max(batch.deadline_ms - self.credentials.clock.now_ms(), 0) / 1000 + CONFIRM_GRACE_S

    def answered(self, status: int, body: bytes) -> None:
        """The link has an answer."""
        batch = self._batch
        assert batch is not None
        with self._unbroken(batch):
            try:
                answer = json.loads(body)
            except ValueError as error:
                self._failed(batch, repr(error))
            else:
                self._judge(batch, status, answer if isinstance(answer, dict) else {})

    def lost(self, reason: str) -> None:
        """The link has ended, or what came over it makes no sense."""
        self._drop_link()
        if self._batch is not None and self._batch.timer is not None:
            self._failed(self._batch, reason)

    def _failed(self, batch: _Batch, reason: str) -> None:
        log.warning("a confirm got no answer: %s", reason)
        self._drop_link()
        self._judge(batch, NO_ANSWER, {})

    def _judge(self, batch: _Batch, status: int, answer: dict[str, Any]) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None
        if status == 200 and are_verdicts(answer.get("verdicts"), len(batch.entries)):
            identity = self.credentials.identity
            identity.sequence = max(identity.sequence, int(answer.get("sequence") or 0))
            self._end(batch, answer["verdicts"])
            return
        code = answer.get("code")
        clock = self.credentials.clock
        if status in (NO_ANSWER, 200) or (status >= 500 and status != 503):
            batch.perhaps_committed = True  # every other refusal of the whole comes before anything is committed
        if code == "clock_skew":  # nothing of it was looked at; the deadline was set by a wrong clock, too
            clock.correct(int(answer["now_ms"]))
            self._encode(batch)
        elif code == "deadline_passed":
            self._give_up(batch)
            return
        elif status in (400, 403, 404, 409, 413):
            log.error("the master refuses a confirm: %d %s %s", status, code, answer.get("detail"))
            self._give_up(batch)
            return
        pause_s = next(batch.retries, None)
        if pause_s is None or clock.now_ms() + pause_s * 1000 > batch.deadline_ms:
            self._give_up(batch)
        else:
            self.loop.call_later(pause_s, self._send_again, batch)

    # -- the end -------------------------------------------------------------------------------------------------

    def _give_up(self, batch: _Batch) -> None:
        if batch.perhaps_committed:
            self._end(batch, _unknown(len(batch.entries), "outcome_unknown"), after_s=self._left_s(batch))
        else:
            self._end(batch, _unknown(len(batch.entries), "master_unavailable"))

    def _end(self, batch: _Batch, verdicts: Verdicts, *, after_s: float = 0) -> None:
        """The next batch is sent first: the master works on it while these are answered."""
        self._batch = None
        if not self._is_called:
            self._begin()
        if after_s > 0:
            self.loop.call_later(after_s, _deliver, batch.entries, verdicts)
        else:
            _deliver(batch.entries, verdicts)

    def forget(self, link: "_Link") -> None:
        """This link ends after what it says now."""
        if self._link is link:
            self._drop_link()

    def _drop_link(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            link.drop()


class _Link(asyncio.Protocol):
    """A connection to the master. What it has to say it says to its lane, as long as it is the lane's."""

    def __init__(self, lane: ConfirmLane) -> None:
        self._lane: ConfirmLane | None = lane
        self._reader = AnswerReader()
        self._is_asked = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes) -> None:
        self._is_asked = True
        self.transport.write(request)

    def is_dropped(self) -> bool:
        """Whether the master has closed it, or said something unasked, while it was idle."""
        if self.transport.is_closing() or not self._reader.is_idle:
            return True
        poll = select.poll()  # select() itself takes no descriptor above 1023
        poll.register(self.transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def drop(self) -> None:
        self._lane = None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reader.feed(data)
        except AnswerUnreadable as error:
            self._end(str(error))
            return
        if answer is not None:
            self._tell(*answer)

    def eof_received(self) -> None:
        answer = self._reader.end()
        if answer is not None:
            self._tell(*answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the connection was closed" if error is None else repr(error))

    def _tell(self, status: int, body: bytes) -> None:
        lane = self._lane
        if lane is None:
            return
        if not self._is_asked:
            self._end("an answer to nothing")
            return
        self._is_asked = False
        if self._reader.will_close:
            lane.forget(self)
        lane.answered(status, body)

    def _end(self, reason: str) -> None:
        if self._lane is not None:
            self._lane.lost(reason)


def _deliver(entries: list[Entry], verdicts: Verdicts) -> None:
    for (put, done), verdict in zip(entries, verdicts, strict=True):
        done(put, verdict)


def encode_batch(puts: list[Put], deadline_ms: int) -> bytes:
    """The body of a confirm (docs/protocol.md, section 5)."""
    intents: dict[str, int] = {}
    rows = []
    for put in puts:
        number = intents.setdefault(put.lease.text, len(intents))
        rows.append(
            (
                number,
                f"{put.needle:016x}",
                put.size_bytes,
                put.data_crc,
                put.key,
                put.attributes.content_type,
                put.attributes.metadata,
                put.attributes.if_match,
                put.attributes.if_none_match,
                put.appended_ms,
            )
        )
    return json.dumps({"deadline_ms": deadline_ms, "intents": list(intents), "needles": rows}).encode()


def are_verdicts(found: object, count: int) -> bool:
    """Whether this is one verdict for each needle; one that cannot be carried out must not fail half-way."""
    return isinstance(found, list) and len(found) == count and all(map(_is_verdict, found))


def _is_verdict(found: object) -> bool:
    if not isinstance(found, dict):
        return False
    if found.get("state") == "refused":
        return found.get("status") in REASONS and _CODE.fullmatch(str(found.get("code"))) is not None
    return found.get("state") in ("committed", "stored")


def _unknown(count: int, code: str) -> Verdicts:
    detail = {
        "master_unavailable": "the bytes are durable but not committed; repeat the same request",
        "outcome_unknown": "the bytes are durable and may have been committed; repeat the same request",
    }[code]
    return [{"state": "unknown", "code": code, "detail": detail}] * count
