"""What volume servers say of themselves: JSON in, typed values out.

Nothing here is believed for being signed: every field is checked for type and range, so that a faulty server
gets a named refusal instead of a database error. Errors are `keys.errors.Invalid`, with the fields by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from keys.errors import Invalid
from volumes.models import MAX_VOLUME, JobState

MAX_BYTES = (1 << 53) - 1
"""Sizes and counts stay below this, the largest integer that every JSON reader keeps exact."""
MAX_VOLUMES = 100_000
MAX_PEERS = 100
MAX_DAMAGED = 1000
"""So many damaged records of a volume are told one by one; their count goes on."""
MAX_MS = 253_402_300_799_999
"""The last millisecond that a datetime can hold: the end of the year 9999."""
DETAIL_CHARACTERS = 500
U32 = (1 << 32) - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """How far a compaction or a scrub of one volume is, or how it ended. Times are Unix ms by the master's clock.

    ``total_bytes`` is what there is to go through; ``reclaimed_bytes``, what the file has shrunk by, is a
    compaction's alone.
    """

    state: str
    """One of `JobState`."""
    done_bytes: int
    total_bytes: int
    detail: str
    started_ms: int
    ended_ms: int | None = None
    reclaimed_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that it was read from."""
        fields = asdict(self)
        if self.reclaimed_bytes is None:
            del fields["reclaimed_bytes"]
        return fields


@dataclass(frozen=True, slots=True)
class Peer:
    """How far a primary has brought another copy into line; ``state`` is whole, copying or lost."""

    server: UUID
    state: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Replication:
    """A server's part in a volume that has copies elsewhere. ``peers`` are known to the primary only."""

    role: str
    """``primary`` or ``secondary``, as its server was told last."""
    epoch: int
    state: str
    """``open``, ``opening``, ``degraded`` or ``closed``; only an open one takes records."""
    peers: tuple[Peer, ...]
    detail: str

    def as_json(self) -> dict[str, Any]:
        """The object that it was read from."""
        return {**asdict(self), "peers": [{**asdict(peer), "server": str(peer.server)} for peer in self.peers]}


@dataclass(frozen=True, slots=True)
class Figures:
    """One volume as a server sees it."""

    volume: int
    epoch: int
    revision: int
    is_sealed: bool
    size_bytes: int
    garbage_bytes: int
    live_count: int
    tombstone_count: int
    damaged_count: int
    """Damaged records known of now; a full scrub pass sets it exactly."""
    compaction: Job | None = None
    """None: none since the server started, or a server too old to tell. So it is with ``scrub``."""
    scrub: Job | None = None
    scrubbed_ms: int | None = None
    """When the last full pass ended; None: never."""
    replication: Replication | None = None
    """None: it was never replicated."""
    detail: str = ""
    """Why it is sealed."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged stretch of a volume file; ``needle`` is None where it cannot be known whose it was."""

    needle: int | None
    offset: int
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class DamageReport:
    """A server's answer to ``POST /admin/damaged``: the first records, and how many there are in all."""

    volume: int
    count: int
    records: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a server's process has done since it was started. ``puts``: those that were acknowledged."""

    requests: int
    puts: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What each heartbeat says. ``store`` is None, and ``sequence`` 0, while the server knows no store."""

    server: UUID
    instance: str
    capacity_bytes: int
    free_bytes: int
    store: UUID | None
    sequence: int
    volumes: tuple[Figures, ...]
    traffic: Traffic | None = None
    """None: a server too old to tell."""
    disk: str = ""
    """Servers that say the same share a disk's space. Empty: a server too old to tell."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a server says at its start: a report, and how it is reached."""

    report: ServerReport
    node: str
    public_url: str
    internal_url: str
    version: str
    token: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """A server's answer to ``GET /usage``."""

    server: UUID
    instance: str
    capacity_bytes: int
    free_bytes: int
    volumes: tuple[Figures, ...]


def parse_heartbeat(body: object) -> ServerReport:
    fields = _Fields(body)
    report = _report(fields)
    fields.done()
    return report


def parse_registration(body: object) -> Registration:
    fields = _Fields(body)
    registration = Registration(
        report=_report(fields),
        node=fields.take("node", _text(64)),
        public_url=fields.take("public_url", _url),
        internal_url=fields.take("internal_url", _url),
        version=fields.take("version", _text(32, may_be_empty=True), default=""),
        token=fields.take("token", _text(256), default=None),
    )
    fields.done()
    return registration


def parse_deregistration(body: object) -> tuple[UUID, str]:
    """Server id and instance."""
    fields = _Fields(body)
    named = fields.take("server", _uuid), fields.take("instance", _text(64))
    fields.done()
    return named


def parse_usage(body: object) -> Usage:
    fields = _Fields(body)
    usage = Usage(
        server=fields.take("server", _uuid),
        instance=fields.take("instance", _text(64)),
        capacity_bytes=fields.take("capacity_bytes", _integer(0, MAX_BYTES)),
        free_bytes=fields.take("free_bytes", _integer(0, MAX_BYTES)),
        volumes=fields.take("volumes", _volumes),
    )
    fields.done()
    return usage


def parse_figures(body: object) -> Figures:
    fields = _Fields(body)
    figures = Figures(
        volume=fields.take("volume", _integer(1, MAX_VOLUME)),
        epoch=fields.take("epoch", _integer(0, U32)),
        revision=fields.take("revision", _integer(0, U32)),
        is_sealed=fields.take("state", _volume_state),
        size_bytes=fields.take("size_bytes", _integer(0, MAX_BYTES)),
        garbage_bytes=fields.take("garbage_bytes", _integer(0, MAX_BYTES)),
        live_count=fields.take("live_count", _integer(0, MAX_BYTES)),
        tombstone_count=fields.take("tombstone_count", _integer(0, MAX_BYTES)),
        damaged_count=fields.take("damaged_count", _integer(0, MAX_BYTES)),
        compaction=fields.take("compaction", _compaction, default=None),
        scrub=fields.take("scrub", _scrub, default=None),
        scrubbed_ms=fields.take("scrubbed_ms", _integer(0, MAX_MS), default=None),
        replication=fields.take("replication", _replication, default=None),
        detail=fields.take("detail", _detail, default=""),
    )
    fields.done()
    if figures.garbage_bytes > figures.size_bytes:
        raise Invalid(
            "A volume cannot hold more garbage than bytes.", errors={"garbage_bytes": ["is larger than size_bytes"]}
        )
    return figures


def parse_damage(body: object) -> DamageReport:
    fields = _Fields(body)
    report = DamageReport(
        volume=fields.take("volume", _integer(1, MAX_VOLUME)),
        count=fields.take("count", _integer(0, MAX_BYTES)),
        records=fields.take("damaged", _damaged),
    )
    fields.done()
    if report.count < len(report.records):
        raise Invalid("A volume cannot list more damage than it has.", errors={"count": ["is less than is listed"]})
    return report


def _report(fields: "_Fields") -> ServerReport:
    report = ServerReport(
        server=fields.take("server", _uuid),
        instance=fields.take("instance", _text(64)),
        capacity_bytes=fields.take("capacity_bytes", _integer(0, MAX_BYTES)),
        free_bytes=fields.take("free_bytes", _integer(0, MAX_BYTES)),
        store=fields.take("store", _store, default=None),
        sequence=fields.take("sequence", _integer(0, MAX_BYTES), default=0),
        volumes=fields.take("volumes", _volumes),
        traffic=fields.take("traffic", _traffic, default=None),
        disk=fields.take("disk", _text(64, may_be_empty=True), default=""),
    )
    if not fields.errors and report.free_bytes > report.capacity_bytes:
        fields.errors["free_bytes"] = ["is larger than capacity_bytes"]
    return report


class _Fields:
    """Takes values out of a JSON object and gathers what is wrong with them, field by field."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, Mapping):
            raise Invalid("A JSON object is expected.")
        self._body: Mapping[str, Any] = body
        self.errors: dict[str, list[str]] = {}

    _REQUIRED: Any = object()

    def take(self, name: str, read: Callable[[object], T], *, default: Any = _REQUIRED) -> T:
        """The value read by ``read``; after an error a value that is of no use, which `done` never lets out."""
        value = self._body.get(name)
        if value is None:
            if default is self._REQUIRED:
                self.errors[name] = ["is required"]
            return default  # type: ignore[no-any-return]
        try:
            return read(value)
        except Invalid as error:
            self.errors[name] = [error.detail]
        except ValueError as error:
            self.errors[name] = [str(error)]
        return None  # type: ignore[return-value]

    def done(self) -> None:
        """Raises Invalid when anything was wrong."""
        if self.errors:
            name, messages = next(iter(self.errors.items()))
            raise Invalid(f"{name} {messages[0]}", errors=self.errors)


def _integer(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return value

    return read


def _text(longest: int, *, may_be_empty: bool = False) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest or not (value or may_be_empty):
            raise ValueError(f"must be text of {0 if may_be_empty else 1} to {longest} characters")
        if not value.isprintable():
            raise ValueError("must be printable text")
        return value

    return read


def _detail(value: object) -> str:
    """Text for people, made fit to be kept: a heartbeat is not refused for the wording of an error."""
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - what a wrong value is here, of whatever type
    return "".join(one if one.isprintable() else " " for one in value[:DETAIL_CHARACTERS])


def _uuid(value: object) -> UUID:
    if isinstance(value, str):
        try:
            parsed = UUID(value)
        except ValueError:
            pass
        else:
            if str(parsed) == value:
                return parsed
    raise ValueError("must be a UUID in lower case")


def _store(value: object) -> UUID | None:
    return None if value == "" else _uuid(value)


def _url(value: object) -> str:
    """``http(s)://host[:port]``, a base that paths are put behind."""
    text = _text(200)(value)
    parts = urlsplit(text)
    try:
        has_good_port = parts.port is None or parts.port > 0
    except ValueError:
        has_good_port = False
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not has_good_port
        or parts.username is not None
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or not text.isascii()
        or " " in text
    ):
        raise ValueError("must be http://host:port or https://host:port, without a path")
    return text.rstrip("/")


def _volume_state(value: object) -> bool:
    if not isinstance(value, str) or value not in {"open", "sealed"}:
        raise ValueError('must be "open" or "sealed"')
    return value == "sealed"


def _compaction(value: object) -> Job:
    return _job(value, reclaims=True)


def _scrub(value: object) -> Job:
    return _job(value, reclaims=False)


def _job(value: object, *, reclaims: bool) -> Job:
    fields = _Fields(value)
    job = Job(
        state=fields.take("state", _job_state),
        done_bytes=fields.take("done_bytes", _integer(0, MAX_BYTES)),
        total_bytes=fields.take("total_bytes", _integer(0, MAX_BYTES)),
        detail=fields.take("detail", _detail),
        started_ms=fields.take("started_ms", _integer(0, MAX_MS)),
        ended_ms=fields.take("ended_ms", _integer(0, MAX_MS), default=None),
        reclaimed_bytes=fields.take("reclaimed_bytes", _integer(0, MAX_BYTES)) if reclaims else None,
    )
    fields.done()
    return job


def _traffic(value: object) -> Traffic:
    fields = _Fields(value)
    traffic = Traffic(
        requests=fields.take("requests", _integer(0, MAX_BYTES)),
        puts=fields.take("puts", _integer(0, MAX_BYTES)),
        received_bytes=fields.take("received_bytes", _integer(0, MAX_BYTES)),
        sent_bytes=fields.take("sent_bytes", _integer(0, MAX_BYTES)),
    )
    fields.done()
    return traffic


def _replication(value: object) -> Replication:
    fields = _Fields(value)
    replication = Replication(
        role=fields.take("role", _one_of("primary", "secondary")),
        epoch=fields.take("epoch", _integer(0, U32)),
        state=fields.take("state", _one_of("open", "opening", "degraded", "closed")),
        peers=fields.take("peers", _peers, default=()),
        detail=fields.take("detail", _detail, default=""),
    )
    fields.done()
    return replication


def _peers(value: object) -> tuple[Peer, ...]:
    if not isinstance(value, list) or len(value) > MAX_PEERS:
        raise ValueError(f"must be a list of at most {MAX_PEERS} peers")
    return tuple(map(_peer, value))


def _peer(value: object) -> Peer:
    fields = _Fields(value)
    peer = Peer(
        server=fields.take("server", _uuid),
        state=fields.take("state", _one_of("whole", "copying", "lost")),
        done_bytes=fields.take("done_bytes", _integer(0, MAX_BYTES), default=0),
        total_bytes=fields.take("total_bytes", _integer(0, MAX_BYTES), default=0),
    )
    fields.done()
    return peer


def _one_of(*known: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return read


def _job_state(value: object) -> str:
    if not isinstance(value, str) or value not in JobState.values:
        raise ValueError(f"must be one of {', '.join(JobState.values)}")
    return value


def _damaged(value: object) -> tuple[Damage, ...]:
    if not isinstance(value, list) or len(value) > MAX_DAMAGED:
        raise ValueError(f"must be a list of at most {MAX_DAMAGED} records")
    return tuple(map(_damage, value))


def _damage(value: object) -> Damage:
    fields = _Fields(value)
    damage = Damage(
        needle=fields.take("needle", _needle, default=None),
        offset=fields.take("offset", _integer(0, MAX_BYTES)),
        size_bytes=fields.take("bytes", _integer(0, MAX_BYTES)),
        reason=fields.take("reason", _detail),
    )
    fields.done()
    return damage


def _needle(value: object) -> int:
    if isinstance(value, str) and len(value) == 16 and all(digit in "0123456789abcdef" for digit in value):
        return int(value, 16)
    raise ValueError("must be 16 hex digits in lower case")


def _volumes(value: object) -> tuple[Figures, ...]:
    if not isinstance(value, list) or len(value) > MAX_VOLUMES:
        raise ValueError(f"must be a list of at most {MAX_VOLUMES} volumes")
    figures = tuple(parse_figures(one) for one in value)
    if len({one.volume for one in figures}) != len(figures):
        raise ValueError("names a volume twice")
    return figures
