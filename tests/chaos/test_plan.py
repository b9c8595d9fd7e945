"""A storm is drawn from its seed alone, and has everything in it."""

import pytest

from tests.support.chaos_plan import KINDS, LINK, SERVERS, Step, is_signed, make_plan, weather_of
from tests.support.chaos_proxy import UP, Weather

NAMES = ["s1", "s2", "s3", "s4"]
LINKS = ["clients>master", *(f"clients>{name}" for name in NAMES), *(f"{name}>master" for name in NAMES)]
LINKS += [f"{who}>{name}" for who in ("master", "servers") for name in NAMES]


def plan(seed: int, seconds: float = 900.0, *, without: tuple[str, ...] = ()) -> list[Step]:
    return make_plan(seed=seed, seconds=seconds, servers=NAMES, links=LINKS, without=without)


def test_a_seed_says_all() -> None:
    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_what_is_left_out_changes_nothing_else() -> None:
    left = [step for step in plan(7) if step.kind != "server filled up"]
    assert plan(7, without=("server filled up",)) == left != plan(7)


@pytest.mark.parametrize("seed", range(5))
def test_a_long_storm_has_every_kind_of_fault(seed: int) -> None:
    assert {step.kind for step in plan(seed)} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("seconds", [10.0, 25.0, 60.0, 900.0])
def test_all_is_over_at_the_end_and_one_thing_has_one_fault_at_a_time(seconds: float) -> None:
    for seed in range(20):
        steps = plan(seed, seconds)
        assert steps
        assert steps == sorted(steps, key=lambda step: step.at_s)
        assert all(step.at_s > 0 and step.at_s + step.lasts_s <= seconds for step in steps)
        for at, step in enumerate(steps):
            under_way = [other for other in steps[:at] if other.at_s + other.lasts_s > step.at_s]
            if step.lasts_s:
                assert step.name not in {other.name for other in under_way}
            if step.target == SERVERS:
                assert sum(other.target == SERVERS for other in under_way) < 2


def test_every_fault_of_a_link_is_a_weather() -> None:
    steps = [step for seed in range(5) for step in plan(seed) if step.target == LINK]
    weathers = [weather_of(step) for step in steps]
    assert Weather() not in weathers
    for step, weather in zip(steps, weathers, strict=True):
        assert weather.flips_objects or (is_signed(step.name) and weather.direction == UP)


def test_a_server_is_emptied_only_where_there_is_time_to_miss_it() -> None:
    assert "server emptied" not in {step.kind for seed in range(20) for step in plan(seed, 24)}
    emptied = [step for seed in range(20) for step in plan(seed, 120) if step.kind == "server emptied"]
    assert emptied
    assert all(step.lasts_s >= 12 for step in emptied)
