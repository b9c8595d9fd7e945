"""How the store is, judged in one place for the API's health, the dashboard and whoever asks next."""

from dataclasses import dataclass
from typing import Literal

from django.db import DatabaseError

from buckets.selectors.upkeep import (
    JournalStatus,
    SurveyProgress,
    journal_status,
    missing_by_last_check,
    survey_progress,
)
from volumes.background import UNKNOWN, BackgroundHealth, background_health
from volumes.selectors import RedundancyCounts, Standing, redundancy_counts, server_standing

Status = Literal["ok", "degraded", "failing", "unavailable"]


@dataclass(frozen=True, slots=True)
class Health:
    """The figures, and what they come to. Where the database does not answer nothing is known: nothing counts."""

    standing: Standing
    redundancy: RedundancyCounts
    background: BackgroundHealth
    journal: JournalStatus | None
    survey: SurveyProgress | None
    missing: int | None
    """Chunks without their bytes, by the last check of the whole store; None: none has ended."""
    has_database: bool = True

    @property
    def status(self) -> Status:
        """A store that has never had a server is ok; so is one without a worker, for objects are read and written."""
        if not self.has_database:
            return "unavailable"
        standing = self.standing
        if standing.is_behind or self.servers_are_silent or standing.damaged_count or self.missing:
            return "failing"
        return "degraded" if standing.servers_offline or self.redundancy.degraded else "ok"

    @property
    def servers_are_silent(self) -> bool:
        """There are servers, and none is heard."""
        return self.standing.servers > 0 and not self.standing.servers_online


UNAVAILABLE = Health(
    standing=Standing(is_behind=False, servers=0, servers_online=0, servers_offline=0, damaged_count=0),
    redundancy=RedundancyCounts(0, 0, 0, 0),
    background=UNKNOWN,
    journal=None,
    survey=None,
    missing=None,
    has_database=False,
)


def store_health() -> Health:
    """A dozen small queries; `UNAVAILABLE` where the database does not answer them."""
    try:
        return Health(
            standing=server_standing(),
            missing=missing_by_last_check(),
            background=background_health(),
            journal=journal_status(),
            redundancy=redundancy_counts(),
            survey=survey_progress(),
        )
    except DatabaseError:
        return UNAVAILABLE
