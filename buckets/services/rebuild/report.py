"""What a rebuild did, and what it could not know."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Late:
    """A put that the journal does not tell of, found as a needle."""

    bucket: str
    key: str
    needles: tuple[str, ...]
    """Ids as 16 hex digits."""
    what: str
    """What became of it, and why that is not certain; empty where it is."""


@dataclass(slots=True)
class Report:
    store: str = ""
    journal_commit: int = 0
    """All up to this commit is known exactly."""
    journal_read_at: str | None = None
    """When that was. None: there was no journal that could be used, and all comes from the needles themselves."""
    seen_commit: int = 0
    """The highest commit that any of the servers has seen."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows that were made, by kind."""
    late: list[Late] = field(default_factory=list)
    """Puts from after the journal's end, which are in the store now."""
    uncertain: list[Late] = field(default_factory=list)
    """Puts of which it is not known whether they were ever answered, or in which order: what was decided."""
    uploads_lost: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Objects whose needles are dead by now: deleted or overwritten after the journal's end."""
    unreadable: list[str] = field(default_factory=list)
    """Objects with a needle that is damaged, or not where it should be."""
    problems: list[str] = field(default_factory=list)
    """Files, parts of the journal and volumes that could not be used."""
    orphans: int = 0
    """Needles that nothing names and that nobody can have been told of: the sweep deletes them in time."""

    @property
    def commits_unknown(self) -> int:
        """Commits that servers have seen and the journal does not tell of. Their puts are found, and no more."""
        return max(0, self.seen_commit - self.journal_commit)

    @property
    def is_certain(self) -> bool:
        lists = (self.late, self.uncertain, self.uploads_lost, self.dropped, self.unreadable, self.problems)
        return not any(lists) and not self.commits_unknown

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"commits_unknown": self.commits_unknown, "certain": self.is_certain}
