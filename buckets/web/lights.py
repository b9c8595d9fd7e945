"""How the store is, in lights and words for people: green, amber, red, and grey for what there is nothing to say of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from buckets.health import Health
from buckets.models import Proof
from buckets.services.fsck import verdict
from volumes.background import Liveness

Tone = Literal["ok", "warn", "bad", "soft"]

_DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass(frozen=True, slots=True)
class Light:
    name: str
    tone: Tone
    text: str
    beside: str = ""
    """What goes on besides."""


def headline(health: Health, parts: Sequence[Light] = ()) -> Light:
    """The whole store in one sentence; its tone is that of the API's `status`, whatever else its parts need.

    But for objects that can't be read: these are red, although `status` calls a store degraded, or ok where a server's
    silence was announced.
    """
    unreachable = health.redundancy.unreachable
    if unreachable and health.status in {"ok", "degraded"}:
        text = f"Objects in {_many(unreachable, 'volume')} cannot be read. See to what is red first."
        return Light("Something cannot be read", "bad", text)
    match health.status:
        case "ok" if not health.standing.servers:
            return Light("Waiting", "soft", "No volume server has joined yet, so there is no place for objects.")
        case "ok" if any(light.tone in {"warn", "bad"} for light in parts):
            return Light("The store works", "ok", "Objects are read and written. What is not green needs a look.")
        case "ok":
            return Light("All is well", "ok", "Objects are read and written.")
        case "degraded":
            return Light("Something is away", "warn", "Objects are read and written; what is amber needs a look.")
        case "failing" | "unavailable":
            return Light("Something is wrong", "bad", "See to what is red first.")


def lights(health: Health, *, database: str) -> list[Light]:
    """What there is to know of each part. ``database``: the kind that the master works with."""
    return [
        Light("Master", "ok", "Answers"),
        _database(health, _DATABASES.get(database, database)),
        _servers(health),
        _worker(health),
        _schedule(health),
        _redundancy(health),
        _journal(health),
    ]


def proof_light(health: Health, last: Proof | None, *, in_hand: str = "") -> Light:
    """Whether every object's bytes were seen to be there, by the ``last`` check of the whole store that ended.

    ``in_hand``: how far another one is, see `check_in_hand`.
    """
    name, beside = "Proof", f"A check is {in_hand}" if in_hand else ""
    overdue = health.background.scrubs_overdue
    if damaged := health.standing.damaged_count:
        return Light(name, "bad", f"{_many(damaged, 'damaged record')} on the disks", beside)
    if last is None:
        return Light(name, "soft", "No check of the whole store has ended", beside)
    if not last.is_sound:
        return Light(name, "bad" if last.missing else "warn", verdict(last.counts), beside)
    if overdue:
        return Light(name, "warn", f"Nothing missing, but {_many(overdue, 'copy', 'copies')} not read in time", beside)
    return Light(name, "ok", f"Nothing missing among {_many(last.row_count, 'record')}", beside)


def _database(health: Health, kind: str) -> Light:
    if not health.has_database:
        return Light("Database", "bad", f"{kind} does not answer")
    if health.standing.is_behind:
        return Light("Database", "bad", "Older than what the volumes hold: nothing is written. Restore or rebuild it")
    return Light("Database", "ok", f"{kind} answers")


def _servers(health: Health) -> Light:
    standing = health.standing
    text = f"{standing.servers_online:,} of {standing.servers:,} online"
    if not standing.servers:
        return Light("Servers", "soft", "None has joined")
    if health.servers_are_silent:
        return Light("Servers", "bad", f"{text}: nothing can be read or written")
    if standing.servers_offline:
        return Light("Servers", "warn", text)
    away = standing.servers - standing.servers_online
    return Light("Servers", "ok", f"{text}, {away:,} in maintenance" if away else text)


def _worker(health: Health) -> Light:
    light = _alive("Worker", health.background.worker, ok="At work", none="None runs: nothing is cleaned or copied")
    failed = health.background.failed
    if light.tone == "ok" and failed:
        shown = ", ".join(name.rpartition(".")[2] for name in failed[:3])
        return Light("Worker", "warn", f"{_many(len(failed), 'task')} failed: {shown}{'…' if len(failed) > 3 else ''}")
    return light


def _schedule(health: Health) -> Light:
    return _alive("Schedule", health.background.beat, ok="On time", none="None runs: tasks do not start by themselves")


def _alive(name: str, state: Liveness, *, ok: str, none: str) -> Light:
    match state:
        case "alive":
            return Light(name, "ok", ok)
        case "silent":
            return Light(name, "bad", "Not heard for a minute")
        case "none":
            return Light(name, "warn", none)
        case "unknown":
            return Light(name, "soft", "Not known")


def _redundancy(health: Health) -> Light:
    counts, survey = health.redundancy, health.survey
    told = [
        f"{_many(count, 'volume')} {what}"
        for count, what in (
            (counts.unreachable, "that cannot be read: no server with a copy is online"),
            (counts.degraded, "with a copy away"),
            (counts.copying, "being copied"),
            (counts.waiting, "waiting for room"),
        )
        if count
    ]
    if survey is not None:
        done = 100 * survey.done_rows // max(1, survey.total_rows)
        told.append(f"a new number of copies is applied: {done} %")
    if not told:
        return Light("Redundancy", "ok", "Every volume has all its copies")
    text = ", ".join(told)
    tone: Tone = "bad" if counts.unreachable else "warn" if counts.degraded or counts.waiting else "ok"
    return Light("Redundancy", tone, text[0].upper() + text[1:])


def _journal(health: Health) -> Light:
    journal = health.journal
    behind = "" if journal is None or journal.lag_seconds is None else _seconds(journal.lag_seconds)
    match journal and journal.state:
        case "ok":
            return Light("Journal", "ok", f"Tells all but the last {behind}")
        case "late":
            return Light("Journal", "warn", f"Late: tells nothing of the last {behind}")
        case "full":
            return Light("Journal", "warn", "No room for it")
        case "never":
            return Light("Journal", "soft", "Not written yet")
        case "off":
            return Light("Journal", "soft", "Switched off")
        case _:
            return Light("Journal", "soft", "Not known")


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
