"""What a page says of servers, volumes and the work on them: rows of models in, words and figures out. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from volumes.management.progress import percent
from volumes.models import JobState, Replica, Server, Volume
from volumes.selectors import MISSING, UNREACHABLE, UNSETTLED

SERVER_TONES: Final = {"online": "ok", "offline": "bad", "draining": "warn", "maintenance": "soft"}
STATE_TONES: Final = {"creating": "soft", "writable": "ok", "full": "soft", "sealed": "warn"}
_REDUNDANCY_TONES: Final = {"whole": "ok", "degraded": "bad"}
_JOB_TONES: Final = {"running": "soft", "done": "ok", "failed": "bad"}


@dataclass(frozen=True, slots=True)
class Work:
    """A compaction or a scrub of one copy: how far it is, or how it ended."""

    noun: str
    state: str
    """One of `JobState`."""
    percent: int
    done_bytes: int
    total_bytes: int
    detail: str
    started_at: datetime
    ended_at: datetime | None
    reclaimed_bytes: int | None

    @property
    def is_running(self) -> bool:
        return self.state == JobState.RUNNING

    @property
    def tone(self) -> str:
        return _JOB_TONES[self.state]


@dataclass(frozen=True, slots=True)
class Copy:
    """A replica and the work on it; ``fetching``: how much of it has been brought into line, None: all."""

    replica: Replica
    compaction: Work | None
    scrub: Work | None
    fetching: int | None

    @property
    def running(self) -> list[Work]:
        return [work for work in (self.compaction, self.scrub) if work is not None and work.is_running]

    @property
    def is_heard(self) -> bool:
        """A silence that was announced is no news."""
        return self.replica.server.status != "offline"

    @property
    def is_online(self) -> bool:
        return self.replica.server.is_alive()

    @property
    def can_be_read(self) -> bool:
        return self.is_online and self.replica.state in (Replica.State.OPEN, Replica.State.SEALED)


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume with its copies. Its size and what is in it are the primary's, its damage that of all of them."""

    volume: Volume
    copies: list[Copy]

    @property
    def primary(self) -> Replica | None:
        return next((one.replica for one in self.copies if one.replica.role == Replica.Role.PRIMARY), None)

    @property
    def damaged_count(self) -> int:
        return sum(one.replica.damaged_count for one in self.copies)

    @property
    def garbage_percent(self) -> int:
        return round(100 * self.primary.garbage_ratio) if self.primary else 0

    @property
    def live_bytes(self) -> int:
        return self.primary.size_bytes - self.primary.garbage_bytes if self.primary else 0

    @property
    def running(self) -> list[Work]:
        return [work for one in self.copies for work in one.running]

    @property
    def is_busy(self) -> bool:
        return bool(self.running) or any(one.fetching is not None for one in self.copies)

    @property
    def state_tone(self) -> str:
        return STATE_TONES[self.volume.state]

    @property
    def health(self) -> str:
        """In a word, the worst first, as `find_volumes` knows it.

        A whole volume that waits for better places is not as it should be either.
        """
        if not all(one.is_online for one in self.copies) and not any(one.can_be_read for one in self.copies):
            return UNREACHABLE
        if any(one.replica.state == Replica.State.MISSING for one in self.copies):
            return MISSING
        if self.volume.redundancy == Volume.Redundancy.WHOLE and self.volume.unsettled:
            return UNSETTLED
        return str(self.volume.redundancy)

    @property
    def health_tone(self) -> str:
        health = self.health
        return "bad" if health in (UNREACHABLE, MISSING) else _REDUNDANCY_TONES.get(health, "warn")


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server of `volumes.selectors.list_servers`, with its annotations."""

    server: Any

    @property
    def tone(self) -> str:
        return SERVER_TONES[self.server.status]

    @property
    def live_bytes(self) -> int:
        """What its volumes hold that somebody still wants."""
        return max(0, int(self.server.held_bytes) - int(self.server.garbage_bytes))

    @property
    def taken_bytes(self) -> int:
        """Of its disk, by whatever."""
        return int(self.server.capacity_bytes) - int(self.server.free_bytes)

    @property
    def other_bytes(self) -> int:
        """What is on its disk and is not the store's."""
        return max(0, self.taken_bytes - int(self.server.held_bytes))

    @property
    def is_emptied(self) -> bool:
        """Whether nothing is left to be drained."""
        return not self.server.volume_count and not self.server.holds_files

    @property
    def is_draining(self) -> bool:
        return bool(self.server.admin_state == Server.AdminState.DRAINING)

    @property
    def is_in_maintenance(self) -> bool:
        return bool(self.server.admin_state == Server.AdminState.MAINTENANCE)

    @property
    def is_silent(self) -> bool:
        """Not heard lately, announced or not: only such a one can be forgotten."""
        return not self.server.is_alive()

    @property
    def traffic(self) -> dict[str, int]:
        """What it has served in all its lives; empty before it told."""
        total: dict[str, int] = self.server.traffic.get("total", {})
        return total


def volume_rows(volumes: Iterable[Volume]) -> list[VolumeRow]:
    """Of volumes whose replicas were fetched along."""
    return [volume_row(volume) for volume in volumes]


def volume_row(volume: Volume) -> VolumeRow:
    replicas = list(volume.replicas.all())
    fetching = _fetching(replicas)
    return VolumeRow(
        volume=volume,
        copies=[
            Copy(
                replica=replica,
                compaction=_work("compaction", replica.compaction),
                scrub=_work("scrub", replica.scrub),
                fetching=fetching.get(str(replica.server_id)),
            )
            for replica in replicas
        ],
    )


def _work(noun: str, job: dict[str, Any] | None) -> Work | None:
    if job is None:
        return None
    return Work(
        noun=noun,
        state=job["state"],
        percent=percent(job["done_bytes"], job["total_bytes"]),
        done_bytes=job["done_bytes"],
        total_bytes=job["total_bytes"],
        detail=job["detail"],
        started_at=_moment(job["started_ms"]),
        ended_at=None if job["ended_ms"] is None else _moment(job["ended_ms"]),
        reclaimed_bytes=job.get("reclaimed_bytes"),
    )


def _fetching(replicas: Iterable[Replica]) -> dict[str, int]:
    """Percent by server, of copies that are being brought into line, as their primary tells it."""
    return {
        peer["server"]: percent(peer["done_bytes"], peer["total_bytes"])
        for replica in replicas
        if replica.role == Replica.Role.PRIMARY and replica.replication is not None
        for peer in replica.replication["peers"]
        if peer["state"] == "copying"
    }


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
