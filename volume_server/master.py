"""Talking to the master: joining, the heartbeat, and the lane on which needles are confirmed."""

import json
import logging
import os
import queue
import re
import threading
import time
import uuid
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from volume_server import signing
from volume_server.clock import Clock
from volume_server.commit import Put
from volume_server.errors import MasterRefuses
from volume_server.exchange import AnswerUnreadable, Exchange
from volume_server.responses import REASONS
from volume_server.store import Identity

log = logging.getLogger(__name__)

PREFIX = "/api/v1/internal"
HEARTBEAT_S = 2.0
CALL_TIMEOUT_S = 10.0
CONFIRM_DEADLINE_MS = 10_000
CONFIRM_GRACE_S = 0.5
"""How long after the deadline an answer is still awaited: it may have been judged just before."""
MAX_BATCH = 512
RETRY_S = (0.05, 0.2, 0.5)

NO_ANSWER = 0

_CODE = re.compile(r"[a-z0-9_]{1,64}")

FATAL_AT_START = frozenset({"join_refused", "server_known", "server_running", "wrong_store"})
"""Refusals at the door that another try will not change."""
FATAL = frozenset({"superseded"})
"""Refusals after which this process must not go on. A master that lost its memory (`master_behind`, or suddenly
`wrong_store`) is none of them: what is stored stays readable until somebody mends it."""


@dataclass(frozen=True, slots=True)
class Address:
    """How this server is reached, and what it tells of itself at the door."""

    public_url: str
    internal_url: str
    node: str


class Credentials:
    """The identity's current secret, and requests signed with it."""

    def __init__(self, identity: Identity, clock: Clock) -> None:
        self.identity = identity
        self.clock = clock

    @property
    def known(self) -> bool:
        return bool(self.identity.kid)

    def headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        identity = self.identity
        return signing.signed_headers(
            bytes.fromhex(identity.secrets[str(identity.kid)]),
            kid=identity.kid,
            direction=signing.TO_MASTER,
            method=method,
            target=target,
            body=body,
            server=identity.server,
            time_ms=self.clock.now_ms(),
        )


class MasterApi:
    """The calls that are not made once per batch, over `requests`. Blocking; for the heart's thread."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self.url = url.rstrip("/")
        self.path = urlsplit(self.url).path
        self.credentials = credentials
        self.session = requests.Session()
        self.session.trust_env = False

    def call(self, name: str, body: dict[str, object], *, signed: bool = True) -> dict[str, Any]:
        """Raises MasterRefuses for a problem document, requests.RequestException for no answer."""
        raw = json.dumps(body).encode()
        status, answer = self._post(name, raw, signed)
        if answer.get("code") == "clock_skew":
            self.credentials.clock.correct(int(answer["now_ms"]))
            status, answer = self._post(name, raw, signed)
        if status != 200:
            raise MasterRefuses(str(answer.get("code", f"http_{status}")), str(answer.get("detail", "")))
        return answer

    def _post(self, name: str, raw: bytes, signed: bool) -> tuple[int, dict[str, Any]]:
        target = f"{self.path}{PREFIX}/{name}"
        headers = {"Content-Type": "application/json", "X-Request-Id": uuid.uuid4().hex}
        if signed:
            headers |= self.credentials.headers("POST", target, raw)
        response = self.session.post(
            f"{self.url}{PREFIX}/{name}", data=raw, headers=headers, timeout=CALL_TIMEOUT_S, allow_redirects=False
        )
        try:
            answer = response.json()
        except requests.JSONDecodeError:
            answer = {"detail": f"the master answered {response.status_code} without JSON"}
        return response.status_code, answer if isinstance(answer, dict) else {}


class ConfirmLane:
    """One thread, one kept-alive connection, one batch at a time of all that came meanwhile.

    Outcomes that are no verdict have ``state`` "unknown" and a code: `master_unavailable` where it is certain that
    nothing was committed, `outcome_unknown` where it is not; the latter is told only after the batch's deadline, when
    it is certain that nothing more will be.
    """

    def __init__(self, url: str, credentials: Credentials, loop: AbstractEventLoop) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._secure else 80)
        self.target = f"{parts.path.rstrip('/')}{PREFIX}/confirm"
        self.credentials = credentials
        self.loop = loop
        self.batch_count = 0
        self._queue: queue.SimpleQueue[tuple[Put, Callable[[Put, dict[str, object]], None]] | None] = (
            queue.SimpleQueue()
        )
        self._connection: Exchange | None = None
        self._thread = threading.Thread(target=self._run, name="confirm", daemon=True)
        self._thread.start()

    def confirm(self, put: Put, done: Callable[[Put, dict[str, object]], None]) -> None:
        self._queue.put((put, done))

    def close(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = []
            entry = self._queue.get()
            while entry is not None:
                batch.append(entry)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                ended = True
            if batch:
                self._confirm(batch)
        if self._connection is not None:
            self._connection.close()

    def _confirm(self, batch: list[tuple[Put, Callable[[Put, dict[str, object]], None]]]) -> None:
        self.batch_count += 1
        try:
            verdicts, delay_s = self._ask([put for put, _ in batch])
        except Exception:
            # whatever it was, the lane must go on, and no client may wait for ever
            log.exception("a confirm of %d needles failed", len(batch))
            verdicts, delay_s = _unknown(len(batch), "outcome_unknown"), CONFIRM_DEADLINE_MS / 1000 + CONFIRM_GRACE_S

        def deliver() -> None:
            for (put, done), verdict in zip(batch, verdicts, strict=True):
                done(put, verdict)

        if delay_s > 0:
            self.loop.call_soon_threadsafe(self.loop.call_later, delay_s, deliver)
        else:
            self.loop.call_soon_threadsafe(deliver)

    def _ask(self, puts: list[Put]) -> tuple[list[dict[str, object]], float]:
        """The verdicts, and for how many seconds they must be held back."""
        if not self.credentials.known:
            return _unknown(len(puts), "master_unavailable"), 0
        clock = self.credentials.clock
        deadline_ms = clock.now_ms() + CONFIRM_DEADLINE_MS
        raw = encode_batch(puts, deadline_ms)
        perhaps_committed = False
        retries = iter(RETRY_S)
        while True:
            connection = self._connect()
            if connection is None:
                break
            remaining_s = max(deadline_ms - clock.now_ms(), 0) / 1000 + CONFIRM_GRACE_S
            status, answer = self._post(connection, raw, remaining_s)
            if status == 200 and are_verdicts(answer.get("verdicts"), len(puts)):
                identity = self.credentials.identity
                identity.sequence = max(identity.sequence, int(answer.get("sequence") or 0))
                return answer["verdicts"], 0
            code = answer.get("code")
            if status in (NO_ANSWER, 200) or (status >= 500 and status != 503):
                perhaps_committed = True  # every other refusal of the whole comes before anything is committed
            if code == "clock_skew":  # nothing of it was looked at; the deadline was set by a wrong clock, too
                clock.correct(int(answer["now_ms"]))
                deadline_ms = clock.now_ms() + CONFIRM_DEADLINE_MS
                raw = encode_batch(puts, deadline_ms)
            elif code == "deadline_passed":
                break
            elif status in (400, 403, 404, 409, 413):
                log.error("the master refuses a confirm: %d %s %s", status, code, answer.get("detail"))
                break
            pause_s = next(retries, None)
            if pause_s is None or clock.now_ms() + pause_s * 1000 > deadline_ms:
                break
            time.sleep(pause_s)
        if not perhaps_committed:
            return _unknown(len(puts), "master_unavailable"), 0
        delay_s = max(deadline_ms - clock.now_ms(), 0) / 1000 + CONFIRM_GRACE_S
        return _unknown(len(puts), "outcome_unknown"), delay_s

    def _post(self, connection: Exchange, raw: bytes, timeout_s: float) -> tuple[int, dict[str, Any]]:
        """Status and body of the master's answer; `NO_ANSWER` where none came that can be read."""
        headers = self.credentials.headers("POST", self.target, raw)
        headers["Content-Type"] = "application/json"
        headers["X-Request-Id"] = os.urandom(16).hex()
        try:
            status, found = connection.post(self.target, headers, raw, timeout_s=timeout_s)
            answer = json.loads(found)
        except (OSError, AnswerUnreadable, ValueError) as error:
            log.warning("a confirm got no answer: %r", error)
            self._disconnect()
            return NO_ANSWER, {}
        if connection.will_close:
            self._disconnect()
        return status, answer if isinstance(answer, dict) else {}

    def _connect(self) -> Exchange | None:
        """The kept connection where the master has not closed it, else a new one, None where there is no master."""
        if self._connection is not None:
            if not self._connection.is_dropped():
                return self._connection
            self._disconnect()  # closed while idle: nothing of ours was in it
        try:
            self._connection = Exchange(self._host, self._port, secure=self._secure, timeout_s=CALL_TIMEOUT_S)
        except OSError as error:
            log.warning("the master cannot be reached: %s", error)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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


def _unknown(count: int, code: str) -> list[dict[str, object]]:
    detail = {
        "master_unavailable": "the bytes are durable but not committed; repeat the same request",
        "outcome_unknown": "the bytes are durable and may have been committed; repeat the same request",
    }[code]
    return [{"state": "unknown", "code": code, "detail": detail}] * count


class Heart:
    """Registers, then beats until it is stopped. Its own thread; what it learns is applied by ``on_answer``, which
    says whether there is something new to report at once."""

    def __init__(
        self,
        api: MasterApi,
        *,
        address: Address,
        instance: str,
        join_token: str | None,
        report: Callable[[], dict[str, object]],
        on_answer: Callable[[dict[str, Any]], bool],
        on_fatal: Callable[[MasterRefuses], None],
    ) -> None:
        self.api = api
        self.address = address
        self.instance = instance
        self.join_token = join_token
        self.report = report
        self.on_answer = on_answer
        self.on_fatal = on_fatal
        self.registered = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the beat and tell the master that this is a clean stop."""
        self._stop.set()
        self._thread.join()
        if self.registered:
            try:
                self.api.call("deregister", {"server": self.api.credentials.identity.server, "instance": self.instance})
            except (MasterRefuses, requests.RequestException) as error:
                log.warning("could not sign off from the master: %s", error)

    def _run(self) -> None:
        failures = 0
        was_registered = False
        while not self._stop.is_set():
            again_at_once = False
            try:
                sent_ms = time.time_ns() // 1_000_000
                answer = self._register() if not self.registered else self._beat()
                received_ms = time.time_ns() // 1_000_000
                self.api.credentials.clock.correct(int(answer["now_ms"]), local_ms=(sent_ms + received_ms) // 2)
                again_at_once = self.on_answer(answer)
                self.registered = was_registered = True
                failures = 0
            except MasterRefuses as error:
                if error.code in FATAL or (not was_registered and error.code in FATAL_AT_START):
                    self.on_fatal(error)
                    return
                if error.code in ("server_unknown", "not_registered", "signature_invalid"):
                    self.registered = False
                log.error("the master refuses this server: %s: %s", error.code, error.detail)
                failures += 1
            except requests.RequestException as error:
                if failures == 0:
                    log.warning("the master cannot be reached, trying on: %s", error)
                failures += 1
            except Exception:
                log.exception("a heartbeat failed")
                failures += 1
            if again_at_once:
                continue
            wait_s = HEARTBEAT_S if self.registered else min(0.2 * 2 ** min(failures, 4), HEARTBEAT_S)
            self._stop.wait(wait_s)

    def _register(self) -> dict[str, Any]:
        credentials = self.api.credentials
        body = {
            **self.report(),
            "instance": self.instance,
            "node": self.address.node,
            "public_url": self.address.public_url,
            "internal_url": self.address.internal_url,
            "version": "1",
        }
        if credentials.known:
            answer = self.api.call("register", body)
        elif self.join_token:
            answer = self.api.call("register", {**body, "token": self.join_token}, signed=False)
        else:
            raise MasterRefuses("join_refused", "this server is new; give it the master's --join-token")
        identity = credentials.identity
        if identity.store not in (None, answer["store"]):
            raise MasterRefuses("wrong_store", f"this data directory belongs to store {identity.store}")
        if identity.sequence > int(answer["sequence"]):
            raise MasterRefuses("master_behind", f"sequence {identity.sequence} was seen, the master is behind it")
        log.info("registered with the master as %s", identity.server)
        return answer

    def _beat(self) -> dict[str, Any]:
        return self.api.call("heartbeat", {**self.report(), "instance": self.instance})
