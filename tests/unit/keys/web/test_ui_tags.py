"""Tags and filters of the templates: what a reader sees of sizes, moments and names."""

from datetime import UTC, datetime, timedelta

import pytest
from django.template import engines
from django.test import RequestFactory
from django.utils import timezone

from keys.printable import bytes_text, shown
from keys.templatetags.ui import count, meter, when


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (83_886_080, "83.9 MB"),
        (10**12, "1.0 TB"),
        (None, "–"),
    ],
)
def test_sizes_have_three_figures_at_most(size: int | None, text: str) -> None:
    assert bytes_text(size) == text


def test_counts_are_grouped() -> None:
    assert (count(1234567), count(None)) == ("1,234,567", "–")


def test_names_hide_nothing() -> None:
    assert shown("a\nb\x00\u202etxt.exe") == "a\ufffdb\ufffd\ufffdtxt.exe"
    for char in "\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff\U000e0041":
        assert shown(f"a{char}b") == "a\ufffdb"
    assert shown("نمی\u200cخواهم 👩\u200d🚀") == "نمی\u200cخواهم 👩\u200d🚀", "as they are written"
    assert shown(" a  b ") == "\u2423a \u2423b\u2423", "which are other names than 'a b'"
    assert shown("fold / 1") == "fold\u2423/\u24231"
    assert shown("plain ünïcode 文 👍") == "plain ünïcode 文 👍"


def test_moments_are_told_by_their_distance() -> None:
    now = timezone.now()
    assert when(None) == "never"
    assert ">just now<" in when(now)
    assert ">5\xa0minutes ago<" in when(now - timedelta(minutes=5, seconds=2))
    assert ">in 2\xa0hours<" in when(now + timedelta(hours=2, seconds=30))
    assert ">in 1\xa0week<" in when(now + timedelta(days=7, seconds=-1))
    old = when(datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert ">3 Feb 2020<" in old
    assert 'title="3 February 2020, 04:05:06 UTC"' in old


def test_a_meter_never_leaves_its_frame() -> None:
    over = meter(100, used=300, garbage=20)
    assert 'class="live" width="80.00"' in over
    assert 'x="80.00" width="20.00"' in over
    assert 'class="meter bad"' in over
    assert 'width="0.00"' in meter(0)
    assert "&lt;b&gt;" in meter(1, label="<b>")


def test_a_query_keeps_what_is_not_changed() -> None:
    template = engines["django"].from_string('{% load ui %}{% query after="" order="name" %}')
    request = RequestFactory().get("/x?prefix=a%26b&after=7&order=newest")
    assert template.render({}, request) == "?prefix=a%26b&amp;order=name"
