"""Reading how far surveys, checks and the journal are."""

from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone

from buckets.models import Journal, Proof, Survey
from volumes.models import Store

JOURNAL_LATE_INTERVALS = 5
JOURNAL_LATE_SECONDS = 30
"""A journal that is so many intervals and seconds behind is late: the worker is busy elsewhere, or is not there."""


@dataclass(frozen=True, slots=True)
class SurveyProgress:
    """How far the walk over all chunks is that a change of a bucket's replication asked for."""

    done_rows: int
    total_rows: int
    raised_volumes: int


def survey_progress() -> SurveyProgress | None:
    """None: no survey is under way, or asked for and not begun. One query."""
    survey = Survey.objects.filter(pk=Survey.ONLY_ID).first()
    if survey is None:
        return None
    if survey.started_at is None:
        is_asked = survey.asked_at is not None and (survey.ended_at is None or survey.asked_at > survey.ended_at)
        return SurveyProgress(0, survey.last_row, 0) if is_asked else None
    return SurveyProgress(min(survey.cursor, survey.last_row), survey.last_row, survey.raised_volumes)


def missing_by_last_check() -> int | None:
    """Chunks without their bytes, by the last check of the whole store that ended; None: none has."""
    done = Proof.objects.filter(state=Proof.State.DONE, volume=None).order_by("-pk")
    return done.values_list("missing", flat=True).first()


def last_check() -> Proof | None:
    """The last check of the whole store that ended, without its findings."""
    return Proof.objects.filter(state=Proof.State.DONE, volume=None).defer("findings").order_by("-pk").first()


def check_in_hand() -> str:
    """How far a check that has not ended is: ``asked for`` or ``under way``; empty: there is none."""
    states = set(Proof.objects.exclude(state=Proof.State.DONE).values_list("state", flat=True))
    return "under way" if Proof.State.RUNNING in states else "asked for" if states else ""


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """How far the volumes alone could rebuild the database."""

    state: str
    """`off`; `full`: there is no room for it; `never`: no whole snapshot yet; `late`: behind by more than it should be;
    `ok`."""
    sequence: int
    """Up to this commit everything is told."""
    commits_behind: int
    lag_seconds: float | None
    """How long ago everything was told; None: never, or off."""
    detail: str


def journal_status() -> JournalStatus:
    """Two queries."""
    journal = Journal.objects.filter(pk=Journal.ONLY_ID).first()
    sequence = Store.objects.filter(pk=Store.ONLY_ID).values_list("sequence", flat=True).first() or 0
    interval = settings.WAREHOUSE_JOURNAL_SECONDS
    told = journal.safe_sequence if journal is not None else 0
    behind = max(0, sequence - told)
    if not interval:
        return JournalStatus("off", told, behind, None, "")
    if journal is None:
        return JournalStatus("never", told, behind, None, "")
    state, lag_s = "never", None
    if journal.covers_until is not None:
        lag_s = round(max(0.0, (timezone.now() - journal.covers_until).total_seconds()), 1)
        state = "late" if lag_s > JOURNAL_LATE_INTERVALS * interval + JOURNAL_LATE_SECONDS else "ok"
    return JournalStatus("full" if journal.is_full else state, told, behind, lag_s, journal.error)
