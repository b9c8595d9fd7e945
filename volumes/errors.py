"""What can go wrong with servers, volumes and placement.

WarehouseError
├── Unauthenticated ── SignatureInvalid, ClockSkew, ServerUnknown
├── PermissionDenied ── JoinRefused
├── NotFound ── VolumeNotFound, ServerNotFound, TaskUnknown
├── Conflict ── WrongStore, MasterBehind, ServerKnown, ServerRunning, Superseded, IllegalTransition,
│              VolumeBusy, VolumeSealed, VolumeDegraded, ServerAlive, ServerForgotten, ServerNeeded,
│              AdminStateConflict
├── NoSpace ── NoRoom, CompactionNeedsSpace
└── Unavailable ── NoServers, LeasesHalted, ServerOffline, TaskNotQueued
    └── VolumeServerError ── ServerUnreachable, ServerRefused, ServerAnswerInvalid
"""

from keys.errors import Conflict, NoSpace, NotFound, PermissionDenied, Unauthenticated, Unavailable


class SignatureInvalid(Unauthenticated):
    """A signed request whose headers are missing, malformed, or signed with another secret."""

    code = "signature_invalid"
    title = "The request is not signed by this server"


class ClockSkew(Unauthenticated):
    """Genuine, but timed too far from the master's clock; carries ``now_ms``, the master's own time."""

    code = "clock_skew"
    title = "The request's time is too far from the master's"


class ServerUnknown(Unauthenticated):
    """A signed request under an id that never registered here."""

    code = "server_unknown"
    title = "No server has this id"


class JoinRefused(PermissionDenied):
    """The join token is missing or wrong."""

    code = "join_refused"
    title = "The join token is not this store's"


class VolumeNotFound(NotFound):
    code = "volume_unknown"
    title = "There is no such volume"


class ServerNotFound(NotFound):
    code = "server_not_found"
    title = "There is no such server"


class TaskUnknown(NotFound):
    code = "task_unknown"
    title = "There is no such background task"


class WrongStore(Conflict):
    """The server belongs to another store."""

    code = "wrong_store"
    title = "This server belongs to another store"


class MasterBehind(Conflict):
    """The server has seen commits that this database does not know: it is an old copy, or another one."""

    code = "master_behind"
    title = "The master's database is older than what this server has seen"


class ServerKnown(Conflict):
    """An id that has proved its secret once is never again admitted by the token alone."""

    code = "server_known"
    title = "This server id is known and must sign its registration"


class ServerRunning(Conflict):
    """Another process of the same id is alive: a data directory was cloned, or the old process still runs."""

    code = "server_running"
    title = "A server with this id is already running"


class Superseded(Conflict):
    """Another instance has taken this id, or this one has deregistered; the process that hears it stops."""

    code = "superseded"
    title = "This instance is no longer the server's"


class IllegalTransition(Conflict):
    """A volume is not in a state from which it may go to the wanted one."""

    code = "illegal_transition"
    title = "The volume's state does not allow this"


class VolumeBusy(Conflict):
    """The volume's server cannot begin this now, most likely because it is stopping."""

    code = "volume_busy"
    title = "The volume's server cannot do this at the moment"


class VolumeSealed(Conflict):
    """A sealed volume is never written again, so it cannot be compacted."""

    code = "volume_sealed"
    title = "The volume is sealed"


class VolumeDegraded(Conflict):
    """Not all copies of the volume are there and equal, so nothing can be done that all of them must take part in."""

    code = "volume_degraded"
    title = "Not all copies of the volume are there"


class ServerAlive(Conflict):
    """A server that is there, or was a moment ago, can't be forgotten: it is emptied instead."""

    code = "server_alive"
    title = "The server is not gone"


class ServerForgotten(Conflict):
    """The server was taken off the books for good: it does not come back under this id."""

    code = "server_forgotten"
    title = "This server was forgotten"


class ServerNeeded(Conflict):
    """The server alone has what objects or uploads name: to forget it would be to lose that."""

    code = "server_needed"
    title = "Only this server has what objects name"


class AdminStateConflict(Conflict):
    """A server is being emptied, or in maintenance: neither takes the other's place, or ends it, by the way."""

    code = "admin_state_conflict"
    title = "The server is being emptied, or in maintenance"


class NoRoom(NoSpace):
    """Servers are there, but none has the space that was asked for."""

    code = "no_space"
    title = "No server has room for this"


class CompactionNeedsSpace(NoSpace):
    """The new file would not fit on the server's disk beside the old one."""

    code = "disk_full"
    title = "The disk has no room for the compacted copy"


class NoServers(Unavailable):
    """No server can take a write at this moment."""

    code = "no_servers"
    title = "No volume server can take this now"


class LeasesHalted(Unavailable):
    """A server knows commits that this database lacks: nothing is handed out or deleted until that is resolved."""

    code = "leases_halted"
    title = "The database is older than what the volume servers have seen"


class ServerOffline(Unavailable):
    """The server that holds the volume has not been heard lately; it was not asked."""

    code = "server_offline"
    title = "The volume's server is offline"


class VolumeServerError(Unavailable):
    """A call from the master to a volume server did not succeed."""

    code = "volume_server_error"
    title = "A volume server did not do what it was asked"


class ServerUnreachable(VolumeServerError):
    """No answer: whether the call took effect is not known."""

    code = "server_unreachable"
    title = "A volume server does not answer"


class ServerRefused(VolumeServerError):
    """The server answered with a refusal; ``status``, ``refusal`` (its code) and ``reason`` (its words) are attributes.

    Answers of 500 and above are refusals too, and leave open whether the call took effect.
    """

    code = "server_refused"
    title = "A volume server refused"

    def __init__(self, detail: str = "", *, status: int, refusal: str, reason: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.refusal = refusal
        self.reason = reason


class ServerAnswerInvalid(VolumeServerError):
    """The server answered something that the protocol does not know; nothing is concluded from it."""

    code = "server_answer_invalid"
    title = "A volume server answered nonsense"


NO_PLACE = (NoRoom, NoServers, LeasesHalted)
"""Errors of whatever looks for a place to write to."""
SERVER_TROUBLE = (VolumeBusy, ServerOffline, ServerUnreachable, ServerRefused, ServerAnswerInvalid)
"""Errors of whatever has a volume's server do something."""


class TaskNotQueued(Unavailable):
    """The broker cannot be reached; nothing was asked for."""

    code = "task_not_queued"
    title = "The task could not be handed to a worker"
