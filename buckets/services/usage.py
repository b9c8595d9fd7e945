"""The history of usage: a sample a minute, of which fewer are kept the older they are.

    age        up to a day     up to 30 days     older
    kept       every minute    every 15 min      every day
    rows       1,440           2,880             365 a year

Nothing is averaged: of each stretch the first sample stays and the others go. Figures such as free space are those of
its moment, and traffic is counted from the beginning of time, so what is left is as true as what went.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.utils import timezone

from buckets.models import UsageSample
from buckets.usage import SAMPLED, current_figures

MINUTE: Final = timedelta(minutes=1)
KEPT: Final = (
    (timedelta(days=1), timedelta(minutes=15)),
    (timedelta(days=30), timedelta(days=1)),
)
"""From which age on one sample in how long is enough; the finer first."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DELETED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Thinned:
    """``rows``: samples that are left."""

    deleted: int
    rows: int


def take_sample(*, now: datetime | None = None) -> bool:
    """Keeps how much there is in this minute; whether there was no sample of it yet. May run twice: one stays."""
    at = _begin(now or timezone.now(), MINUTE)
    if UsageSample.objects.filter(pk=at).exists():
        return False
    figures = current_figures(now=now)
    sample = UsageSample(at=at, **{name: figures[name] for name in SAMPLED})
    UsageSample.objects.bulk_create([sample], ignore_conflicts=True)
    return True


def thin_samples(*, now: datetime | None = None) -> Thinned:
    """Deletes the samples that are too close to an older one for their age.

    May run twice, late, or be cut off: what stays is decided by the times of the samples alone.
    """
    now = now or timezone.now()
    deleted = 0
    for age, span in KEPT:
        before = _begin(now - age, span)  # whole spans only: a sample of one to come might be its first
        seen: set[datetime] = set()
        doomed = []
        for at in UsageSample.objects.filter(at__lt=before).order_by("at").values_list("at", flat=True):
            begin = _begin(at, span)
            if begin in seen:
                doomed.append(at)
            seen.add(begin)
        for start in range(0, len(doomed), _DELETED_AT_ONCE):
            deleted += UsageSample.objects.filter(pk__in=doomed[start : start + _DELETED_AT_ONCE]).delete()[0]
    return Thinned(deleted=deleted, rows=UsageSample.objects.count())


def _begin(moment: datetime, span: timedelta) -> datetime:
    """Where the span of time began in which the moment lies; spans are counted from 1970 on, in UTC."""
    return _EPOCH + (moment - _EPOCH) // span * span
