"""Reading how much of everything there is, and how much there was."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

from django.db.models import Count, Sum
from django.utils import timezone

from buckets.models import Bucket, UsageSample
from keys.errors import Invalid
from volumes.models import ForgottenServer, Server
from volumes.selectors import totals
from volumes.traffic import total_traffic

MAX_POINTS: Final = 2_000
USUAL_POINTS: Final = 300
"""So many points are told where no step is asked for, or fewer."""
MIN_STEP: Final = timedelta(minutes=1)

_GAUGES: Final = (
    "servers",
    "servers_online",
    "capacity_bytes",
    "free_bytes",
    "volumes",
    "used_bytes",
    "garbage_bytes",
    "damaged_count",
    "buckets",
    "object_count",
    "object_bytes",
)
_COUNTERS: Final = ("requests", "puts", "received_bytes", "sent_bytes")
SAMPLED: Final = (*_GAUGES, *_COUNTERS)
"""The figures of a sample."""


@dataclass(frozen=True, slots=True)
class History:
    """Points in the order of time, one in each step that has a sample."""

    begin: datetime
    end: datetime
    step_s: int
    points: list[dict[str, Any]]


def current_figures(*, now: datetime | None = None) -> dict[str, int]:
    """All figures of a sample and those of `volumes.selectors.totals`, as they are now. Five queries."""
    store = asdict(totals(now=now))
    held = Bucket.objects.aggregate(
        buckets=Count("pk"), object_count=Sum("object_count", default=0), object_bytes=Sum("total_bytes", default=0)
    )
    traffic = asdict(total_traffic(chain(Server.objects.only("traffic"), ForgottenServer.objects.only("traffic"))))
    return {**store, **{name: int(value) for name, value in held.items()}, **traffic}


def history_begin() -> datetime | None:
    """When the oldest sample that is left was taken; None: there is none."""
    return UsageSample.objects.order_by("at").values_list("at", flat=True).first()


def usage_history(*, begin: datetime | None = None, end: datetime | None = None, step_s: int | None = None) -> History:
    """The samples from ``begin`` (a day before ``end``) to ``end`` (now), the first one of each ``step_s`` seconds.

    Traffic is told per second, since the point before; null in the first one where nothing older is known. Raises
    Invalid where there would be more than `MAX_POINTS` steps, or none.
    """
    end = end or timezone.now()
    begin = begin or end - timedelta(days=1)
    if begin >= end:
        raise Invalid(errors={"from": ["Must be before `to`."]})
    span = end - begin
    if step_s is None:
        step = max(MIN_STEP, -(-span // USUAL_POINTS // MIN_STEP) * MIN_STEP)
    else:
        step = timedelta(seconds=step_s)
        if step < MIN_STEP or span / step > MAX_POINTS:
            least = max(MIN_STEP, span / MAX_POINTS).total_seconds()
            raise Invalid(errors={"step": [f"At least {-(-least // 1):.0f} seconds for this span of time."]})
    before = UsageSample.objects.filter(at__lt=begin).order_by("-at").first()
    chosen = _first_of_each(begin, end, step)
    return History(begin=begin, end=end, step_s=round(step.total_seconds()), points=list(_points(before, chosen)))


def _first_of_each(begin: datetime, end: datetime, step: timedelta) -> Iterator[UsageSample]:
    last = -1
    for sample in UsageSample.objects.filter(at__gte=begin, at__lt=end).order_by("at").iterator():
        place = (sample.at - begin) // step
        if place != last:
            last = place
            yield sample


def _points(before: UsageSample | None, samples: Iterator[UsageSample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        point: dict[str, Any] = {"at": sample.at, **{name: getattr(sample, name) for name in _GAUGES}}
        for name in _COUNTERS:
            point[f"{name}_per_s"] = None if before is None else _rate(before, sample, name)
        yield point
        before = sample


def _rate(before: UsageSample, sample: UsageSample, name: str) -> float:
    grown = getattr(sample, name) - getattr(before, name)
    return float(round(max(0, grown) / (sample.at - before.at).total_seconds(), 3))
