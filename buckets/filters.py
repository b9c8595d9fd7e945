"""What a list can be narrowed down to. The same rows on every database: no wildcards, no locale."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, Value
from django.db.models.functions import Left, Lower, StrIndex
from django.db.models.lookups import Exact, GreaterThan

from buckets.fields import MetadataText


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that all have to hold; what is empty or None is none."""

    search: str = ""
    """Stands somewhere in the key, whatever the case of its ASCII letters."""
    min_size: int | None = None
    """Bytes, inclusive; so is ``max_size``."""
    max_size: int | None = None
    content_type: str = ""
    """All of it, parameters included; or ``image/*`` for every subtype."""
    updated_after: datetime | None = None
    """Exclusive; so is ``updated_before``."""
    updated_before: datetime | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """Names and their whole values."""

    def __bool__(self) -> bool:
        return self != NO_FILTERS

    def conditions(self) -> list[Any]:
        """What a queryset of objects is to be filtered by. None of it is looked up in an index."""
        found: list[Any] = []
        if self.search:
            found.append(GreaterThan(StrIndex(Lower("key"), Value(_ascii_lower(self.search))), 0))
        for lookup, value in (
            ("size__gte", self.min_size),
            ("size__lte", self.max_size),
            ("updated_at__gt", self.updated_after),
            ("updated_at__lt", self.updated_before),
        ):
            if value is not None:
                found.append(Q((lookup, value)))
        if self.content_type.endswith("/*"):
            found.append(starts_with("content_type", self.content_type[:-1]))
        elif self.content_type:
            found.append(Q(content_type=self.content_type))
        found += [Exact(MetadataText(name), Value(value)) for name, value in self.metadata]
        return found


NO_FILTERS = Filters()


def starts_with(column: str, text: str) -> Any:
    """Plain text, case and all: SQLite's LIKE would fold case, and no index is to be used."""
    return Exact(Left(column, len(text)), Value(text)) if text else Q()


def _ascii_lower(text: str) -> str:
    """As the databases do it here: SQLite folds no more, and PostgreSQL no more in the collation of keys."""
    return text.encode().lower().decode()
