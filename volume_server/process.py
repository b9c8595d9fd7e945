"""One volume server process: its parts, its start, its clean stop."""

import asyncio
import gc
import logging
import signal
import struct
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volume_server.clock import Clock
from volume_server.commit import Committer, Confirmer
from volume_server.compactor import Compactor
from volume_server.errors import MasterRefuses, StoreError
from volume_server.http1 import HttpError
from volume_server.internal_routes import InternalRoutes
from volume_server.lane import ConfirmLane
from volume_server.leases import Gate
from volume_server.listings import Listings
from volume_server.master import Address, Credentials, Heart, MasterApi
from volume_server.replication import Replication
from volume_server.routes import NeedleConnection, NeedleRoutes, Origins, new_instance
from volume_server.server import SWEEP_S, Handler, Listener
from volume_server.store import Store
from volume_server.syncing import SyncProcess
from volume_server.upkeep import DEFAULT_SCRUB_DAYS, DEFAULT_SCRUB_RATE, Upkeep

log = logging.getLogger(__name__)

THREADS = 32
BACKLOG = 1024
GC_THRESHOLDS = (20_000, 20, 20)
"""A batch of requests under way makes thousands of objects, and hardly any of them in a cycle."""
TIDY_S = 3600.0
"""How often it is looked for copies that nobody goes on fetching."""
DRAIN_S = 30.0
"""How long a clean stop waits for the uploads in flight."""
STOP_SERVING = 3


@dataclass(frozen=True, slots=True)
class Options:
    data: Path
    host: str
    port: int
    internal_port: int | None
    master: str
    join_token: str | None
    public_url: str | None
    internal_url: str | None
    node: str
    scrub_days: float = DEFAULT_SCRUB_DAYS
    scrub_rate: int = DEFAULT_SCRUB_RATE


class VolumeServer:
    """Wires the parts together. ``confirmer`` replaces the lane to the master in benches of the store alone."""

    def __init__(self, options: Options, *, confirmer: Confirmer | None = None) -> None:
        self.options = options
        self.instance = new_instance()
        self.clock = Clock()
        self.store = Store(options.data)
        self.gate = Gate(self.clock)
        self.origins = Origins(options.master)
        self.confirmer = confirmer
        self.exit_code = 0
        self.heart: Heart | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code."""
        asyncio.run(self._main())
        return self.exit_code

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.stopping = asyncio.Event()
        self.store.open_volumes()
        # What is alive now stays; the collector need not walk through it again and again.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.gate.set_secrets(self.store.identity.secrets)
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="io")
        credentials = Credentials(self.store.identity, self.clock)
        lane = None
        if self.confirmer is None:
            self.confirmer = lane = ConfirmLane(self.options.master, credentials, loop)
        self.syncer = SyncProcess(self._on_syncer_death)
        self.committer = Committer(loop, threads, self.confirmer, self.clock, self.syncer.attach)
        self.listener = Listener(loop, threads, self.instance)
        self.upkeep = Upkeep(
            loop,
            threads,
            self.store,
            self.clock,
            scrub_days=self.options.scrub_days,
            scrub_rate=self.options.scrub_rate,
        )
        self.compactor = Compactor(
            loop,
            threads,
            self.store,
            self.committer,
            self.clock,
            before=self.upkeep.give_way,
            on_damage=self.upkeep.ask,
        )
        self.listings = Listings(loop, threads, self.store)
        self.replication = Replication(
            loop,
            self.store,
            self.committer,
            self.clock,
            compactor=self.compactor,
            upkeep=self.upkeep,
            on_change=self._beat_soon,
        )
        self.upkeep.is_busy = lambda volume: (
            self.compactor.is_running(volume) or volume.is_being_replaced
        )  # fmt: skip
        servers, address = await self._listen()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        heart = None
        if lane is not None:
            heart = self.heart = Heart(
                MasterApi(self.options.master, credentials),
                address=address,
                instance=self.instance,
                join_token=self.options.join_token,
                report=self._report_from_thread,
                on_answer=self._learn,
                on_fatal=self._on_fatal,
            )
            heart.start()
        sweeper = loop.create_task(self._sweep())
        self.upkeep.start()
        await self.stopping.wait()
        log.info("stopping: finishing what is in flight")
        await self.upkeep.stop()
        await self.compactor.stop()
        await self.listings.stop()
        await self.replication.stop()
        await self._drain(servers)
        sweeper.cancel()
        if heart is not None:
            await loop.run_in_executor(None, heart.stop)
        if lane is not None:
            await lane.close()
        self.replication.close()
        self.committer.close()
        self.syncer.close()
        threads.shutdown()
        await asyncio.sleep(0)  # what the last threads handed over
        try:
            self.store.save_identity()
        except OSError as error:  # the disk may be full to the last block; the volumes are to be closed all the same
            log.error("server.json could not be written: %s", error)
        # Without the syncer some claims are in doubt: the next start reads and syncs the tail, as after a crash.
        self.store.close(clean=not self.syncer.is_dead)
        log.info("stopped")

    async def _listen(self) -> tuple[list[asyncio.Server], Address]:
        options = self.options
        needles = NeedleRoutes(self.store, self.gate, self.committer, self.clock, self.listener)
        shared = options.internal_port is None
        internal = InternalRoutes(
            self.store,
            self.committer,
            self.clock,
            self.listener,
            compactor=self.compactor,
            upkeep=self.upkeep,
            listings=self.listings,
            replication=self.replication,
            instance=self.instance,
            public=needles if shared else None,
        )
        self.internal = internal
        public = await self._open_port(internal if shared else needles, options.port)
        servers = [public]
        host = f"[{options.host}]" if ":" in options.host else options.host
        public_url = options.public_url or f"http://{host}:{_port(public)}"
        internal_url = options.internal_url or public_url
        if options.internal_port is not None:
            servers.append(await self._open_port(internal, options.internal_port))
            internal_url = options.internal_url or f"http://{host}:{_port(servers[1])}"
        sys.stdout.write(f"volume server at {public_url}, internal {internal_url}\n")
        sys.stdout.flush()
        return servers, Address(public_url.rstrip("/"), internal_url.rstrip("/"), options.node)

    async def _open_port(self, handler: Handler, port: int) -> asyncio.Server:
        def connect() -> NeedleConnection:
            connection = NeedleConnection(self.listener, handler)
            connection.origins = self.origins
            return connection

        return await self.loop.create_server(connect, self.options.host, port, backlog=BACKLOG)

    async def _sweep(self) -> None:
        tidied_s = self.loop.time()
        while True:
            await asyncio.sleep(SWEEP_S)
            self.listener.sweep()
            self.listings.look()
            if self.loop.time() - tidied_s > TIDY_S:
                tidied_s = self.loop.time()
                self.replication.tidy()

    async def _drain(self, servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        self.listener.drain()
        ends_at = self.loop.time() + DRAIN_S

        def waits() -> bool:
            return not self.syncer.is_dead and self.loop.time() < ends_at  # what no sync ends is never answered

        while self.listener.connections and waits():
            await asyncio.sleep(0.02)
        for connection in list(self.listener.connections):
            connection.abort()
        await asyncio.sleep(0)
        while any(volume.claims for volume in self.store.volumes.values()) and waits():
            await asyncio.sleep(0.02)

    # -- the heart's side: called in its thread ------------------------------------------------------------------

    def _on_loop(self, call: Callable[[], Any]) -> Any:
        """Run ``call`` on the loop and wait for what it gives."""
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                result.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return result.result()

    def _report_from_thread(self) -> dict[str, object]:
        usage: dict[str, object] = self._on_loop(self.internal.usage)
        identity = self.store.identity
        return {**usage, "store": identity.store, "sequence": identity.sequence}

    def _learn(self, answer: dict[str, Any]) -> bool:
        """What a registration or heartbeat brought. True: there is a new volume to report at once.

        Raises OSError where a new identity can't be kept. A sequence that can't (the disk is full, say) is kept in
        memory alone: revoked keys and orders, which may give space back, are heeded all the same.
        """
        identity = self.store.identity
        known = (identity.store, identity.kid, identity.secrets)
        if "secret" in answer:
            kid = int(answer["kid"])
            kept = {str(identity.kid): identity.secrets[str(identity.kid)]} if identity.kid else {}
            identity.secrets = {**kept, str(kid): str(answer["secret"])}
            identity.kid = kid
        identity.store = str(answer["store"])
        identity.sequence = max(identity.sequence, int(answer["sequence"]))
        try:
            self.store.save_identity()
        except OSError as error:
            if (identity.store, identity.kid, identity.secrets) != known:
                raise
            log.error("server.json could not be written: %s", error)
        self._on_loop(lambda: self._apply(answer))
        made = [self._carry_out(instruction) for instruction in answer.get("instructions", [])]
        return any(made)

    def _apply(self, answer: dict[str, Any]) -> None:
        self.gate.set_secrets(self.store.identity.secrets)
        settings = answer.get("settings", {})
        self.origins.allowed = frozenset(origin.encode() for origin in settings.get("cors_origins", []))
        if "volume_size" in settings:
            self.store.set_size_limit(int(settings["volume_size"]))
        self.gate.revoked = {int(key): int(generation) for key, generation in answer.get("revoked", {}).items()}

    def _carry_out(self, instruction: dict[str, Any]) -> bool:
        if instruction.get("do") in ("open", "close", "drop"):
            self._on_loop(lambda: self._order(instruction))
            return False
        if instruction.get("do") != "create":
            log.warning("the master asks for %r, which this version does not know", instruction.get("do"))
            return False
        number = int(instruction["volume"])
        if self._on_loop(lambda: number in self.store.volumes or self.replication.is_joining(number)):
            return False
        try:
            volume = self.store.create_volume(
                number=number,
                salt=bytes.fromhex(instruction["salt"]),
                created_ms=int(instruction["created_ms"]),
                epoch=int(instruction["epoch"]),
            )
        except (OSError, ValueError, KeyError, struct.error) as error:
            # one that cannot be carried out must not keep the others from it; the master repeats it
            log.error("volume %d could not be made: %r", number, error)
            return False
        self._on_loop(lambda: self.store.adopt(volume))
        log.info("volume %d is here", number)
        return True

    def _order(self, instruction: dict[str, Any]) -> None:
        try:
            self.replication.order(instruction)
        except (StoreError, HttpError) as error:  # the master repeats what is to be tried again
            log.warning(
                "%s of volume %s is not carried out: %s", instruction["do"], instruction.get("volume"), error.detail
            )

    def _beat_soon(self) -> None:
        if self.heart is not None:
            self.heart.beat_soon()

    def _on_syncer_death(self) -> None:
        """Crash-only: nobody is answered, and the next start finds out what is there."""
        self.exit_code = 1
        self.stopping.set()

    def _on_fatal(self, error: MasterRefuses) -> None:
        log.critical("the master refuses this server for good: %s: %s", error.code, error.detail)
        self.exit_code = STOP_SERVING
        self.loop.call_soon_threadsafe(self.stopping.set)


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
