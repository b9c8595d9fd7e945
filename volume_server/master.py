"""Talking to the master: joining and the heartbeat. Needles are confirmed elsewhere (`volume_server.lane`)."""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from volume_server import signing
from volume_server.clock import Clock
from volume_server.errors import MasterRefuses
from volume_server.store import Identity

log = logging.getLogger(__name__)

PREFIX = "/api/v1/internal"
HEARTBEAT_S = 2.0
CALL_TIMEOUT_S = 10.0

FATAL_AT_START = frozenset({"join_refused", "server_known", "server_running", "wrong_store"})
"""Refusals at the door that another try will not change."""
FATAL = frozenset({"superseded", "server_forgotten"})
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
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_soon(self) -> None:
        """In any thread: there is something that the master should know before the next beat is due."""
        self._wake.set()

    def stop(self) -> None:
        """End the beat and tell the master that this is a clean stop."""
        self._stop.set()
        self._wake.set()
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
            self._wake.clear()
            if self._stop.is_set():
                break
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
            self._wake.wait(wait_s)

    def _register(self) -> dict[str, Any]:
        credentials = self.api.credentials
        seen = credentials.identity.sequence  # confirms go on meanwhile, and bring newer ones than this answer will
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
        if seen > int(answer["sequence"]):
            raise MasterRefuses("master_behind", f"sequence {seen} was seen, the master is behind it")
        log.info("registered with the master as %s", identity.server)
        return answer

    def _beat(self) -> dict[str, Any]:
        return self.api.call("heartbeat", {**self.report(), "instance": self.instance})
