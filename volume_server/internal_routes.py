"""What the master and the operator ask: `/usage`, `/admin/…`, `/healthz`, `/metrics`."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeGuard

from volume_server import record, responses, signing
from volume_server.clock import Clock
from volume_server.commit import Committer
from volume_server.compactor import Compactor, Order
from volume_server.errors import StoreError
from volume_server.http1 import HttpError, Request
from volume_server.listings import MAX_ASKED, MAX_PAGE_NEEDLES, Listings
from volume_server.receiving import MAX_BODY_BYTES, Receiver
from volume_server.replication import Replication
from volume_server.routes import NeedleRoutes, answer_failure, require_no_body
from volume_server.server import MAX_ADMIN_BODY_BYTES, Body, Connection, Listener
from volume_server.store import Store
from volume_server.upkeep import Upkeep
from volume_server.volume import Volume

_IDENTITY_NAMES = (signing.HEADER_SERVER, signing.HEADER_KID, signing.HEADER_TIME, signing.HEADER_SIGNATURE)
_IDENTITY_HEADERS = tuple(name.lower().encode() for name in _IDENTITY_NAMES)
_ORDERS = frozenset({"/admin/open", "/admin/close", "/admin/drop"})
_VOLUME_FIGURES = {
    "size_bytes": "Length of the volume.",
    "garbage_bytes": "Bytes of dead, refused and aborted records.",
    "live_count": "Needles that can be read.",
    "tombstone_count": "Needles that are dead.",
    "damaged_count": "Damages that are known.",
}


class InternalRoutes:
    """`/usage`, `/admin/…`, `/healthz`, `/metrics`: for the master and the operator, not for clients."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        clock: Clock,
        listener: Listener,
        *,
        compactor: Compactor,
        upkeep: Upkeep,
        listings: Listings,
        replication: Replication,
        instance: str,
        public: NeedleRoutes | None,
    ) -> None:
        self.store = store
        self.committer = committer
        self.clock = clock
        self.listener = listener
        self.compactor = compactor
        self.upkeep = upkeep
        self.listings = listings
        self.replication = replication
        self.receiver = Receiver(replication)
        self.instance = instance
        self.public = public
        """Where everything else goes when there is one port for both."""
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, request: Request) -> None:
        if self.public is not None and request.target[1:2].isdigit():
            self.public.handle(connection, request)
            return
        path = request.target.partition(b"?")[0]
        if path == b"/healthz" and request.method in (b"GET", b"HEAD"):
            require_no_body(request)
            self._healthz(connection)
        elif path == b"/metrics" and request.method in (b"GET", b"HEAD"):
            require_no_body(request)
            self._metrics(connection)
        elif path == b"/usage" or path.startswith(b"/admin/"):
            if request.own.content_length is None:
                self._signed(connection, request, b"")
            else:
                connection.expect_body(
                    lambda body: self._signed(connection, request, body), limit=MAX_ADMIN_BODY_BYTES
                )  # fmt: skip
        elif path.startswith(b"/replica/") and request.method == b"POST":
            connection.expect_body(
                lambda body: self._from_primary(connection, request, body), limit=MAX_BODY_BYTES
            )  # fmt: skip
        elif self.public is not None:
            self.public.handle(connection, request)
        else:
            raise HttpError(404, "not_found", "nothing is here")

    def plain_get(self, target: bytes, request_id: bytes) -> bytes | None:
        return None if self.public is None else self.public.plain_get(target, request_id)

    def usage(self) -> dict[str, object]:
        return {
            "server": self.store.identity.server,
            "instance": self.instance,
            "capacity_bytes": self.store.capacity_bytes(),
            "free_bytes": self.store.free_bytes(),
            "disk": self.store.disk_id(),
            "traffic": self.listener.counters.traffic(),
            "volumes": [self.report(volume) for volume in self.store.volumes.values()],
        }

    def report(self, volume: Volume) -> dict[str, object]:
        """The volume's figures, and what is being done with it."""
        return {
            **volume.report(),
            "detail": volume.sealed or "",
            "compaction": self.compactor.report(volume),
            "scrub": self.upkeep.report(volume),
            "scrubbed_ms": volume.scrubbed_ms,
            **self.replication.report(volume),
        }

    def _signed(self, connection: Connection, request: Request, body: Body) -> None:
        self._authenticate(request, body)
        target = request.target.decode()
        if (request.method, target) == (b"GET", "/usage"):
            self._answer(connection, 200, self.usage())
        elif (request.method, target) == (b"POST", "/admin/delete"):
            self._delete(connection, _json(body))
        elif (request.method, target) == (b"POST", "/admin/seal"):
            self._seal(connection, _json(body))
        elif (request.method, target) == (b"POST", "/admin/compact"):
            self._compact(connection, _json(body))
        elif (request.method, target) == (b"POST", "/admin/scrub"):
            self._scrub(connection, _json(body))
        elif request.method == b"POST" and target in _ORDERS:
            self._order(connection, target.rpartition("/")[2], _json(body))
        elif (request.method, target) == (b"POST", "/admin/damaged"):
            self._damaged(connection, _json(body))
        elif (request.method, target) == (b"POST", "/admin/needles"):
            self._needles(connection, _json(body))
        else:
            raise HttpError(404, "not_found", "nothing is here")

    def _authenticate(self, request: Request, body: Body) -> None:
        """Raises HttpError 401 for a request that this server's master did not sign just now."""
        values = [request.block.fields.get(name, b"").decode("latin-1") for name in _IDENTITY_HEADERS]
        server, kid, time_text, signature = values
        identity = self.store.identity
        secret = identity.secrets.get(kid)
        refusal = HttpError(401, "signature_invalid", "only the master may ask this")
        if secret is None or server != identity.server or not time_text.isdecimal() or len(time_text) > 15:
            raise refusal
        genuine = signing.request_is_signed(
            bytes.fromhex(secret),
            signature,
            direction=signing.TO_SERVER,
            method=request.method.decode(),
            target=request.target.decode(),
            body=body,
            server=server,
            time_ms=int(time_text),
        )
        if not genuine:
            raise refusal
        if abs(int(time_text) - self.clock.now_ms()) > signing.REQUEST_WINDOW_MS:
            raise HttpError(401, "clock_skew", "the request was signed at another time")

    def _delete(self, connection: Connection, body: dict[str, object]) -> None:
        """Tombstones for a batch of needles; answered once all of them are durable."""
        volume = self._volume(body)
        names = body.get("needles")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise HttpError(400, "bad_request", "needles is a list of 16 hex digits each")
        batch = DeleteBatch(self, connection, volume, names)
        batch.start()

    def _seal(self, connection: Connection, body: dict[str, object]) -> None:
        volume = self._volume(body)
        volume.seal("by the master")
        self._answer(connection, 200, self.report(volume))

    def _compact(self, connection: Connection, body: dict[str, object]) -> None:
        volume = self._volume(body)
        drop_damage = body.get("drop_damage", False)
        if not isinstance(drop_damage, bool):
            raise HttpError(400, "bad_request", "drop_damage is true or false")
        order = Order(_whole_number(body, "rate_bytes"), _whole_number(body, "drop_before_ms"), drop_damage)
        self.compactor.start(volume, order)
        self._answer(connection, 200, self.report(volume))

    def _scrub(self, connection: Connection, body: dict[str, object]) -> None:
        volume = self._volume(body)
        self.upkeep.ask(volume)
        self._answer(connection, 200, self.report(volume))

    def _order(self, connection: Connection, do: str, body: dict[str, object]) -> None:
        """An open is answered when it has begun, the others when they are done; a failure is in the figures."""
        task = self.replication.order({**body, "do": do})

        def answer(*_: object) -> None:
            number = int(str(body["volume"]))
            volume = self.store.volumes.get(number)
            self._answer(connection, 200, {"volume": number} if volume is None else self.report(volume))

        if task is None or do == "open":
            answer()
        else:
            task.add_done_callback(answer)

    def _from_primary(self, connection: Connection, request: Request, body: Body) -> None:
        """What another server asks of the copy here. Raises HttpError, StoreError."""
        fields = request.block.fields
        headers = {name: fields.get(name.lower().encode(), b"").decode("latin-1") for name in _IDENTITY_NAMES}

        def done(answer: dict[str, object] | Exception) -> None:
            if isinstance(answer, Exception):
                answer_failure(connection, answer)
            else:
                self._answer(connection, 200, answer)

        self.receiver.receive(request.target.decode(), headers, body, done)

    def _damaged(self, connection: Connection, body: dict[str, object]) -> None:
        volume = self._volume(body)
        damaged = [damage.to_json() for damage in volume.damage]
        answer: dict[str, object] = {"volume": volume.number, "damaged": damaged}
        self._answer(connection, 200, {**answer, "count": volume.figures.damaged_count})

    def _needles(self, connection: Connection, body: dict[str, object]) -> None:
        """All needles of a volume, a page at a time; or what is known now of some."""
        volume = self._volume(body)
        deep = body.get("deep", False)
        if not isinstance(deep, bool):
            raise HttpError(400, "bad_request", "deep is true or false")
        names = body.get("needles")
        if names is not None:
            if not _are_needles(names) or len(names) > MAX_ASKED:
                raise HttpError(400, "bad_request", f"needles is a list of up to {MAX_ASKED} times 16 hex digits")
            self._later(connection, self._ask_needles(connection, volume, [int(name, 16) for name in names], deep))
            return
        after = body.get("after", "")
        if not isinstance(after, str):
            raise HttpError(400, "bad_request", "after is the next of an earlier page")
        limit = min(_whole_number(body, "limit") or MAX_PAGE_NEEDLES, MAX_PAGE_NEEDLES)
        self._later(connection, self._list_needles(connection, volume, after, limit, deep))

    async def _ask_needles(self, connection: Connection, volume: Volume, needles: list[int], deep: bool) -> None:
        rows = await self.listings.ask(volume, needles, deep=deep)
        figures = {"volume": volume.number, "revision": volume.superblock.revision, "epoch": volume.epoch}
        self._answer(connection, 200, {**figures, "needles": rows})

    async def _list_needles(
        self, connection: Connection, volume: Volume, after: str, limit: int, deep: bool
    ) -> None:  # fmt: skip
        page, columns = await self.listings.page(volume, after=after, limit=limit, deep=deep)
        body = json.dumps(page, separators=(",", ":")).encode() + b"\n" + columns
        head = responses.head(
            200,
            content_length=len(body),
            content_type=b"application/octet-stream",
            request_id=connection.request_id,
            close=connection.closes,
        )
        connection.respond(head + body)

    def _later(self, connection: Connection, answering: Coroutine[Any, Any, None]) -> None:
        """Have a request answered that has to wait for something."""

        async def run() -> None:
            try:
                await answering
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
                answer_failure(connection, error)

        task = self.listings.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _volume(self, body: dict[str, object]) -> Volume:
        number = body.get("volume")
        if not isinstance(number, int):
            raise HttpError(400, "bad_request", "volume is a number")
        return self.store.volume(number)

    def _healthz(self, connection: Connection) -> None:
        body: dict[str, object] = {"status": "ok", "server": self.store.identity.server, "instance": self.instance}
        self._answer(connection, 200, body)

    def _metrics(self, connection: Connection) -> None:
        counters = self.listener.counters
        reports = self.store.reports()
        figures: list[tuple[str, str, str, list[tuple[str, object]]]] = [
            ("requests_total", "counter", "Requests begun.", [("", counters.requests)]),
            ("received_bytes_total", "counter", "Bytes received.", [("", counters.bytes_in)]),
            ("sent_bytes_total", "counter", "Bytes of answers sent.", [("", counters.bytes_out)]),
            ("syncs_total", "counter", "fdatasyncs of volumes.", [("", self.committer.sync_count)]),
            ("shipments_total", "counter", "Shipments sent to peers.", [("", self.replication.shipped()[0])]),
            ("shipped_bytes_total", "counter", "Bytes sent to peers.", [("", self.replication.shipped()[1])]),
            (
                "shipping_failures_total",
                "counter",
                "Volumes that became degraded because a peer did not take what it was sent.",
                [("", self.replication.degraded_count)],
            ),
            (
                "degraded_volumes",
                "gauge",
                "Replicated volumes that take nothing until they are opened anew.",
                [("", len(self.replication.degraded_volumes()))],
            ),
            ("connections", "gauge", "Open connections.", [("", len(self.listener.connections))]),
            ("free_bytes", "gauge", "What may still be written beside the reserve.", [("", self.store.free_bytes())]),
            (
                "answers_total",
                "counter",
                "Answers to PUTs, and all refusals, by status.",
                [(f'{{status="{status}"}}', count) for status, count in sorted(counters.answers.items())],
            ),
        ]
        for name, text in _VOLUME_FIGURES.items():
            values: list[tuple[str, object]] = [
                (f'{{volume="{report["volume"]}"}}', report[name]) for report in reports
            ]
            figures.append((f"volume_{name}", "gauge", text, values))
        scrubbed: list[tuple[str, object]] = [
            (f'{{volume="{volume.number}"}}', (volume.scrubbed_ms or 0) / 1000)
            for volume in self.store.volumes.values()
        ]
        figures.append(
            ("volume_scrubbed_timestamp_seconds", "gauge", "When the last full scrub ended; 0: never.", scrubbed)
        )  # fmt: skip
        raw = "".join(
            f"# HELP warehouse_{name} {text}\n# TYPE warehouse_{name} {kind}\n"
            + "".join(f"warehouse_{name}{labels} {value}\n" for labels, value in values)
            for name, kind, text, values in figures
        ).encode()
        head = responses.head(
            200,
            content_length=len(raw),
            content_type=b"text/plain; version=0.0.4; charset=utf-8",
            request_id=connection.request_id,
            close=connection.closes,
        )
        request = connection.request
        connection.respond(head if request is not None and request.method == b"HEAD" else head + raw)

    def _answer(self, connection: Connection, status: int, body: dict[str, object]) -> None:
        request = connection.request
        connection.respond(
            responses.document(
                status,
                body,
                request_id=connection.request_id,
                close=connection.closes,
                head_only=request is not None and request.method == b"HEAD",
            )
        )


class DeleteBatch:
    """One `/admin/delete`: a tombstone for each needle that lives, one answer when all are durable.

    A needle whose PUT is still on its way is in neither list: nothing is known of it yet, and the master asks again.
    """

    def __init__(self, routes: InternalRoutes, connection: Connection, volume: Volume, names: list[str]) -> None:
        self.routes = routes
        self.connection = connection
        self.volume = volume
        self.names = names
        self.deleted: list[str] = []
        self.absent: list[str] = []
        self.failure: StoreError | None = None
        self.open_count = 1

    def start(self) -> None:
        for name in self.names:
            if not _is_needle(name):
                raise HttpError(400, "bad_request", f"{name[:40]!r} is not a needle id")
        if self.volume.cut is not None:
            self.volume.cut.append(partial(self.routes.committer.call_soon, self._begin))
        else:
            self._begin()

    def _begin(self) -> None:
        for name in self.names:
            self._delete(name)
        self._closed(None)

    def _delete(self, name: str) -> None:
        needle = int(name, 16)
        claim = self.volume.claims.get(needle)
        if claim is not None:
            if claim.kind == record.TOMBSTONE:
                self.open_count += 1
                claim.waiters.append(partial(self.routes.committer.call_soon, self._look_again, name))
            return
        stored = self.volume.stored_length(needle)
        if stored is None:
            self.absent.append(name)
        elif stored == 0:
            try:
                self.volume.require_synced(needle)
            except StoreError as error:
                self.failure = error
                return
            self.deleted.append(name)
        else:
            try:
                claim = self.volume.tombstone(needle, appended_ms=self.routes.clock.now_ms())
            except StoreError as error:
                self.failure = error
                return
            self.open_count += 1

            def synced(error: StoreError | None) -> None:
                if error is None:
                    self.deleted.append(name)
                self._closed(error)

            self.routes.committer.sync(self.volume, claim, synced)

    def _look_again(self, name: str) -> None:
        if self.volume.cut is not None:
            self.volume.cut.append(partial(self.routes.committer.call_soon, self._look_again, name))
            return
        self._delete(name)
        self._closed(None)

    def _closed(self, error: StoreError | None) -> None:
        self.failure = self.failure or error
        self.open_count -= 1
        if self.open_count:
            return
        if self.failure is not None:
            answer_failure(self.connection, self.failure)
        else:
            self.routes._answer(self.connection, 200, {"deleted": self.deleted, "absent": self.absent})


def _whole_number(body: dict[str, object], name: str) -> int:
    """An optional number of the body, 0 where it is not there. Raises HttpError 400."""
    number = body.get(name, 0)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise HttpError(400, "bad_request", f"{name} is a whole number from 0 on")
    return number


def _is_needle(name: str) -> bool:
    return len(name) == 16 and all(digit in "0123456789abcdef" for digit in name)


def _are_needles(names: object) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) and _is_needle(name) for name in names)


def _json(body: Body) -> dict[str, object]:
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    raise HttpError(400, "bad_request", "the body is a JSON object")
