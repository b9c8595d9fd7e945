"""What people are told of how the store is."""

from dataclasses import replace
from typing import Any

import pytest

from buckets.health import UNAVAILABLE, Health
from buckets.models import Proof
from buckets.selectors.upkeep import JournalStatus, SurveyProgress
from buckets.web.lights import headline, lights, proof_light
from volumes.background import BackgroundHealth
from volumes.selectors import RedundancyCounts, Standing

WELL = Health(
    standing=Standing(is_behind=False, servers=3, servers_online=3, servers_offline=0, damaged_count=0),
    redundancy=RedundancyCounts(0, 0, 0, 0),
    background=BackgroundHealth(worker="alive", beat="alive", failed=(), scrubs_overdue=0),
    journal=JournalStatus("ok", 9, 0, 3.0, ""),
    survey=None,
    missing=0,
)


def but(health: Health = WELL, *, standing: Any = (), background: Any = (), **others: Any) -> Health:
    changed: dict[str, Any] = dict(others)
    if standing:
        changed["standing"] = replace(health.standing, **standing)
    if background:
        changed["background"] = replace(health.background, **background)
    return replace(health, **changed)


def light(name: str, health: Health) -> tuple[str, str]:
    [found] = [one for one in lights(health, database="sqlite") if one.name == name]
    return found.tone, found.text


def test_all_is_well() -> None:
    assert headline(WELL).tone == "ok"
    assert {one.tone for one in lights(WELL, database="postgresql")} == {"ok"}


def test_what_needs_a_look_is_said_though_all_works() -> None:
    alone = but(background={"worker": "none"})
    assert headline(WELL, lights(WELL, database="sqlite")).name == "All is well"
    assert headline(alone, lights(alone, database="sqlite")).name == "The store works"


@pytest.mark.parametrize(
    ("health", "tone"),
    [
        (but(standing={"servers": 0, "servers_online": 0}), "soft"),
        (but(standing={"servers_online": 2, "servers_offline": 1}), "warn"),
        (but(redundancy=RedundancyCounts(1, 0, 0, 0)), "warn"),
        (but(standing={"servers_online": 2, "servers_offline": 1}, redundancy=RedundancyCounts(0, 0, 0, 2)), "bad"),
        (but(standing={"servers_online": 2}, redundancy=RedundancyCounts(0, 0, 0, 2)), "bad"),
        (but(standing={"servers_online": 0, "servers_offline": 3}), "bad"),
        (but(standing={"is_behind": True}), "bad"),
        (but(missing=1), "bad"),
        (UNAVAILABLE, "bad"),
        (but(background={"worker": "silent", "failed": ("a",)}), "ok"),
    ],
)
def test_the_headline_is_that_of_the_apis_health(health: Health, tone: str) -> None:
    assert headline(health).tone == tone


def test_objects_that_cannot_be_read_are_not_said_to_be() -> None:
    away = but(standing={"servers_online": 2, "servers_offline": 1}, redundancy=RedundancyCounts(0, 0, 0, 2))
    assert "Objects in 2 volumes cannot be read" in headline(away).text


@pytest.mark.parametrize(
    ("name", "health", "tone", "words"),
    [
        ("Servers", but(standing={"servers": 0, "servers_online": 0}), "soft", "None"),
        ("Servers", but(standing={"servers_online": 2, "servers_offline": 1}), "warn", "2 of 3"),
        ("Servers", but(standing={"servers_online": 2}), "ok", "1 in maintenance"),
        ("Servers", but(standing={"servers_online": 0, "servers_offline": 3}), "bad", "0 of 3"),
        ("Database", but(standing={"is_behind": True}), "bad", "nothing is written"),
        ("Database", UNAVAILABLE, "bad", "does not answer"),
        ("Worker", but(background={"worker": "silent"}), "bad", "Not heard"),
        ("Worker", but(background={"worker": "none"}), "warn", "None runs"),
        ("Worker", but(background={"failed": ("volumes.tasks.a",) * 4}), "warn", "4 tasks failed: a, a, a…"),
        ("Worker", UNAVAILABLE, "soft", "Not known"),
        ("Schedule", but(background={"beat": "none"}), "warn", "None runs"),
        ("Redundancy", but(redundancy=RedundancyCounts(1, 2, 0, 0)), "warn", "1 volume with a copy away, 2 volumes"),
        ("Redundancy", but(redundancy=RedundancyCounts(0, 2, 0, 0)), "ok", "2 volumes being copied"),
        ("Redundancy", but(redundancy=RedundancyCounts(1, 0, 0, 2)), "bad", "2 volumes that cannot be read"),
        ("Redundancy", but(survey=SurveyProgress(1, 2, 0)), "ok", "50 %"),
        ("Journal", but(journal=JournalStatus("late", 9, 5, 600.0, "")), "warn", "10 minutes"),
        ("Journal", but(journal=JournalStatus("full", 9, 5, 9999.0, "")), "warn", "No room"),
        ("Journal", but(journal=JournalStatus("never", 0, 5, None, "")), "soft", "Not written"),
        ("Journal", UNAVAILABLE, "soft", "Not known"),
    ],
)
def test_each_part_has_its_light(name: str, health: Health, tone: str, words: str) -> None:
    assert light(name, health)[0] == tone
    assert words in light(name, health)[1]


@pytest.mark.parametrize(
    ("last", "health", "tone", "words"),
    [
        (None, WELL, "soft", "No check"),
        (Proof(state="done", row_count=1), WELL, "ok", "Nothing missing among 1 record"),
        (Proof(state="done", missing=2), WELL, "bad", "2 missing"),
        (Proof(state="done", unknown=2), WELL, "warn", "2 unknown"),
        (Proof(state="done"), but(background={"scrubs_overdue": 1}), "warn", "1 copy not read in time"),
        (Proof(state="done"), but(standing={"damaged_count": 3}), "bad", "3 damaged records"),
    ],
)
def test_the_last_proof(last: Proof | None, health: Health, tone: str, words: str) -> None:
    found = proof_light(health, last)
    assert (found.tone, words in found.text) == (tone, True), found
    again = proof_light(health, last, in_hand="under way")
    assert (again.text, again.beside) == (found.text, "A check is under way")
