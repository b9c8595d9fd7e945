"""The history of usage: samples, how they are thinned out, and what is told of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from buckets.models import UsageSample
from buckets.services import usage
from buckets.services.usage import take_sample, thin_samples
from buckets.usage import MAX_POINTS, SAMPLED, history_begin, usage_history
from keys.errors import Invalid
from tests.support.races import at_once
from tests.unit.buckets.lab import Lab
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Server
from volumes.reports import Traffic
from volumes.traffic import add_traffic, total_traffic

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)


def sample(at: datetime, **figures: int) -> UsageSample:
    return UsageSample(at=at, **(dict.fromkeys(SAMPLED, 0) | figures))


def keep(*samples: UsageSample) -> None:
    UsageSample.objects.bulk_create(samples)


def times() -> list[datetime]:
    return list(UsageSample.objects.order_by("at").values_list("at", flat=True))


class TestSamples:
    def test_a_sample_has_all_figures(self, lab: Lab) -> None:
        lab.put_many("a", "b")
        make_volume(make_server(last_seen_at=None), replica={"size_bytes": 100, "garbage_bytes": 40})
        total = {"requests": 7, "puts": 2, "received_bytes": 20, "sent_bytes": 30}
        Server.objects.filter(pk=lab.server.pk).update(traffic={"instance": "i", "told": total, "total": total})
        assert take_sample(now=NOW)
        found = UsageSample.objects.get()
        assert found.at == NOW.replace(second=0)
        assert (found.servers, found.servers_online, found.volumes, found.buckets) == (2, 1, 2, 1)
        assert (found.used_bytes, found.garbage_bytes) == (100, 40)
        assert (found.object_count, found.object_bytes) == (2, 20)
        assert (found.requests, found.puts, found.received_bytes, found.sent_bytes) == (7, 2, 20, 30)

    def test_twice_in_a_minute_is_once(self) -> None:
        assert [take_sample(now=NOW + timedelta(seconds=at)) for at in (0, 30, 40)] == [True, False, True]
        assert times() == [NOW.replace(second=0), NOW.replace(second=0) + MINUTE]

    @pytest.mark.django_db(transaction=True)
    def test_two_workers_at_once_keep_one(self) -> None:
        at_once(*[lambda: take_sample(now=NOW)] * 4)
        assert UsageSample.objects.count() == 1

    def test_it_costs_the_same_however_much_there_is(self, lab: Lab) -> None:
        def queries(at: datetime) -> int:
            with CaptureQueriesContext(connection) as seen:
                take_sample(now=at)
            return len(seen)

        few = queries(NOW)
        for _ in range(3):
            make_volume(make_server())
        lab.put_many(*"abc")
        assert queries(NOW + MINUTE) == few <= 7

    @pytest.mark.parametrize(
        "wrong", [{"servers_online": 1}, {"free_bytes": 1}, {"garbage_bytes": 1}, {"puts": -1}, {"object_count": -1}]
    )
    def test_rows_hold_their_invariants(self, wrong: dict[str, int]) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            keep(sample(NOW, **wrong))


class TestThinning:
    def test_the_rows_have_a_bound_whatever_time_goes_by(self) -> None:
        begin = NOW - timedelta(days=40)
        # As they come: a minute apart for the last two days and for one long ago, else as an hourly run had left them.
        keep(*[sample(begin + at * MINUTE) for at in range(1440)])
        keep(*[sample(begin + DAY + at * QUARTER) for at in range(37 * 96)])
        keep(*[sample(NOW - 2 * DAY + at * MINUTE) for at in range(2 * 1440)])
        thinned = thin_samples(now=NOW)
        left = times()
        assert thinned.rows == len(left)
        fresh = [at for at in left if at >= NOW - DAY]
        older = [at for at in left if NOW - 30 * DAY <= at < NOW - DAY - QUARTER]
        old = [at for at in left if at < NOW - 31 * DAY]
        assert len(fresh) == 1440
        assert len({at.replace(minute=at.minute // 15 * 15) for at in older}) == len(older) <= 29 * 96 + 1
        assert len({at.date() for at in old}) == len(old) == 10  # parts of days at both ends
        assert len(left) < 1440 + 2880 + 96 + 11
        assert thin_samples(now=NOW).deleted == 0

    def test_the_first_of_each_stretch_stays_whatever_is_missing(self) -> None:
        hour = (NOW - 2 * DAY).replace(minute=0, second=0)
        kept = [hour + 3 * MINUTE, hour + 15 * MINUTE, hour + 44 * MINUTE]
        keep(*map(sample, [*kept, hour + 4 * MINUTE, hour + 14 * MINUTE, hour + 29 * MINUTE]))
        assert thin_samples(now=NOW).deleted == 3
        assert times() == kept

    def test_a_stretch_that_is_not_over_is_left_alone(self) -> None:
        """Else the first of its samples would be chosen anew at each run."""
        edge = NOW - DAY
        keep(*[sample(edge.replace(second=0) + at * MINUTE) for at in range(-9, 20)])
        before = len(times())
        thin_samples(now=NOW)
        assert len(times()) == before  # 15:00 to 15:15 is not a day old as a whole

    def test_one_that_was_cut_off_is_gone_on_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(usage, "_DELETED_AT_ONCE", 3)
        begin = (NOW - 2 * DAY).replace(minute=0, second=0)
        keep(*[sample(begin + at * MINUTE) for at in range(30)])
        wanted = [begin, begin + QUARTER]
        for at in range(2, 8):  # as if the run had been killed after so many deletions
            UsageSample.objects.filter(pk=begin + at * MINUTE).delete()
        thin_samples(now=NOW)
        assert times() == wanted
        thin_samples(now=NOW - timedelta(hours=1))  # a late one, of an hour ago
        assert times() == wanted

    @pytest.mark.django_db(transaction=True)
    def test_two_at_once_leave_what_one_leaves(self) -> None:
        begin = (NOW - 2 * DAY).replace(minute=0, second=0)
        keep(*[sample(begin + at * MINUTE) for at in range(60)])
        at_once(*[lambda: thin_samples(now=NOW)] * 3)
        assert times() == [begin + at * QUARTER for at in range(4)]


class TestHistory:
    def test_points_and_rates(self) -> None:
        begin = NOW - timedelta(minutes=10)
        keep(*[sample(begin + at * MINUTE, capacity_bytes=9, free_bytes=9 - at, puts=at * 120) for at in range(5)])
        history = usage_history(begin=begin + 2 * MINUTE, end=begin + 5 * MINUTE)
        assert (history.step_s, [point["at"] for point in history.points]) == (
            60,
            [begin + at * MINUTE for at in (2, 3, 4)],
        )
        assert [point["free_bytes"] for point in history.points] == [7, 6, 5]
        assert [point["puts_per_s"] for point in history.points] == [2.0, 2.0, 2.0]
        first = usage_history(begin=begin, end=begin + 2 * MINUTE).points[0]
        assert first["puts_per_s"] is None  # nothing is known of the time before

    def test_a_larger_step_loses_no_traffic(self) -> None:
        begin = NOW - timedelta(hours=1)
        keep(*[sample(begin + at * MINUTE, sent_bytes=at * at) for at in range(60)])
        points = usage_history(begin=begin, end=NOW, step_s=600).points
        assert [point["at"] for point in points] == [begin + at * MINUTE for at in range(0, 60, 10)]
        served = sum(point["sent_bytes_per_s"] * 600 for point in points[1:])
        assert round(served) == 50 * 50

    def test_gaps_are_gaps(self) -> None:
        begin = NOW - timedelta(hours=1)
        keep(sample(begin, puts=0), sample(begin + 50 * MINUTE, puts=300))
        points = usage_history(begin=begin, end=NOW).points
        assert [point["puts_per_s"] for point in points] == [None, 0.1]

    def test_the_last_day_unless_said(self) -> None:
        history = usage_history(end=NOW)
        assert (history.begin, history.end, history.step_s, history.points) == (NOW - DAY, NOW, 300, [])

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"begin": NOW, "end": NOW}, "from"),
            ({"begin": NOW + MINUTE, "end": NOW}, "from"),
            ({"begin": NOW - 30 * DAY, "end": NOW, "step_s": 60}, "step"),
            ({"step_s": 59}, "step"),
        ],
    )
    def test_what_cannot_be_asked_for(self, given: dict[str, Any], field: str) -> None:
        with pytest.raises(Invalid) as refused:
            usage_history(**given)
        errors = refused.value.extra["errors"]
        assert isinstance(errors, dict)
        assert list(errors) == [field]

    def test_the_longest_span_has_a_step_that_fits(self) -> None:
        begin, end = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
        history = usage_history(begin=begin, end=end)
        assert (end - begin) / timedelta(seconds=history.step_s) <= MAX_POINTS

    def test_it_begins_with_the_oldest_sample(self) -> None:
        assert history_begin() is None
        times = [datetime(2026, 5, day, tzinfo=UTC) for day in (3, 1, 2)]
        keep(*(sample(at) for at in times))
        assert history_begin() == min(times)


class TestTraffic:
    def told(self, value: int) -> Traffic:
        return Traffic(requests=value, puts=value, received_bytes=value, sent_bytes=value)

    def test_lives_of_a_process_are_added_up(self) -> None:
        kept: dict[str, Any] = {}
        for instance, value in (("a", 5), ("a", 8), ("b", 2), ("b", 2), ("b", 4)):
            kept = add_traffic(kept, instance=instance, told=self.told(value))
        assert kept["total"]["puts"] == 8 + 4

    def test_a_report_that_comes_late_adds_nothing(self) -> None:
        kept: dict[str, Any] = {}
        for value in (5, 3, 6):
            kept = add_traffic(kept, instance="a", told=self.told(value))
        assert kept["total"]["sent_bytes"] == 6

    def test_servers_that_never_told_count_nothing(self) -> None:
        make_server()
        make_server(traffic=add_traffic({}, instance="a", told=self.told(3)))
        assert total_traffic(Server.objects.all()) == self.told(3)
