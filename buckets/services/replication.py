"""A bucket's replication applied to what is there: volumes get as many copies as those buckets want that use them.

Which volumes these are is found by a survey, a walk over all chunk rows in pages, in the background. A volume is
raised as soon as a chunk is seen that wants it, and lowered at the end of a walk that saw none that wants as many.
Needles may still come under leases from before the change, so once these have ended all is walked again.

A walk may be cut off at any point, or be run by two at once: a page counts only with its cursor, in one transaction.
"""

import time
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Max, OuterRef, Subquery
from django.utils import timezone

from buckets.models import Chunk, Survey, SurveyedVolume
from volumes.models import Volume
from volumes.services.redundancy import set_replication

PAGE_ROWS = 20_000
_UPSERTED = 100

_PAGE = """
SELECT c.volume_id, MAX(b.replication), MAX(c.id)
FROM (SELECT id, volume_id, object_id, upload_id FROM buckets_chunk WHERE id > %s ORDER BY id LIMIT %s) c
LEFT JOIN buckets_object o ON o.id = c.object_id
LEFT JOIN buckets_upload u ON u.id = c.upload_id
JOIN buckets_bucket b ON b.id = COALESCE(o.bucket_id, u.bucket_id)
GROUP BY c.volume_id
"""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What was done of the walk now."""

    pages: int
    raised: int
    lowered: int
    is_over: bool


def ask_survey() -> None:
    """Has it looked which volumes hold chunks of which buckets; inside the transaction of the change."""
    now = timezone.now()
    lease_s = max(settings.WAREHOUSE_LEASE_SECONDS, settings.WAREHOUSE_CHUNK_URL_SECONDS)
    ended = now + timedelta(seconds=lease_s + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS)
    Survey.objects.update_or_create(pk=Survey.ONLY_ID, defaults={"asked_at": now, "again_at": ended})


def apply_replication(*, seconds: float = 20.0) -> Surveyed:
    """Goes on with the survey for about so long, begins the next one if one is due."""
    pages = raised = lowered = 0
    give_up_at = time.monotonic() + seconds
    while (survey := _under_way()) is not None:
        page = _walk_page(survey)
        pages += 1
        raised += page.raised
        lowered += page.lowered
        if page.is_over or time.monotonic() >= give_up_at:
            return Surveyed(pages, raised, lowered, page.is_over)
    return Surveyed(pages, raised, lowered, is_over=True)


def _under_way() -> Survey | None:
    """The survey, begun when one is due; None when there is nothing to do."""
    survey = Survey.objects.filter(pk=Survey.ONLY_ID).first()
    if survey is None or survey.started_at is not None:
        return survey
    now = timezone.now()
    is_due = (survey.asked_at is not None and (survey.ended_at is None or survey.asked_at > survey.ended_at)) or (
        survey.again_at is not None and survey.again_at <= now
    )
    if not is_due:
        return None
    begun = Survey.objects.filter(pk=survey.pk, started_at=None, generation=survey.generation)
    begun.update(
        started_at=now,
        generation=F("generation") + 1,
        cursor=0,
        last_row=Chunk.objects.aggregate(last=Max("pk"))["last"] or 0,
        raised_volumes=0,
        lowered_volumes=0,
    )
    return Survey.objects.filter(pk=survey.pk).first()


@transaction.atomic
def _walk_page(survey: Survey) -> Surveyed:
    with connection.cursor() as cursor:
        cursor.execute(_PAGE, [survey.cursor, PAGE_ROWS])
        rows = cursor.fetchall()
    if not rows and not Chunk.objects.filter(pk__gt=survey.cursor).exists():
        return _end(survey)
    # Chunks without a bucket there are none: a page that is empty nevertheless is passed over by its ids.
    last = max((row[2] for row in rows), default=survey.cursor + PAGE_ROWS)
    wanted: dict[int, list[int]] = {}
    for volume_id, replication, _ in rows:
        wanted.setdefault(replication, []).append(volume_id)
    raised = 0
    for replication, volume_ids in wanted.items():
        few = Volume.objects.filter(pk__in=volume_ids, replication__lt=replication).values_list("pk", flat=True)
        raised += set_replication(volume_ids=few, replication=replication)
    _remember(survey, [(row[0], row[1]) for row in rows])
    moved = Survey.objects.filter(pk=survey.pk, generation=survey.generation, cursor=survey.cursor)
    if moved.update(cursor=last, raised_volumes=F("raised_volumes") + raised) != 1:
        transaction.set_rollback(True)  # somebody else did this page
    return Surveyed(1, raised, 0, is_over=False)


def _remember(survey: Survey, found: list[tuple[int, int]]) -> None:
    known = {one.volume_id: one for one in SurveyedVolume.objects.filter(volume__in=[one[0] for one in found])}
    rows = []
    for volume_id, replication in found:
        before = known.get(volume_id)
        if before is not None and before.generation == survey.generation:
            replication = max(replication, before.replication)
        rows.append(SurveyedVolume(volume_id=volume_id, generation=survey.generation, replication=replication))
    SurveyedVolume.objects.bulk_create(
        rows,
        batch_size=_UPSERTED,
        update_conflicts=True,
        unique_fields=["volume"],
        update_fields=["generation", "replication"],
    )


def _end(survey: Survey) -> Surveyed:
    """Lowers volumes that no bucket wants as many copies of, and notes the end."""
    lowered = 0
    if survey.asked_at is None or survey.started_at is None or survey.asked_at <= survey.started_at:
        seen = SurveyedVolume.objects.filter(generation=survey.generation, volume=OuterRef("pk")).values("replication")
        too_many = Volume.objects.annotate(wanted=Subquery(seen[:1])).filter(replication__gt=F("wanted"))
        by_copies: dict[int, list[int]] = {}
        for volume_id, replication in too_many.values_list("pk", "wanted"):
            by_copies.setdefault(replication, []).append(volume_id)
        for replication, volume_ids in by_copies.items():
            lowered += set_replication(volume_ids=volume_ids, replication=replication)
    again_at = survey.again_at
    if again_at is not None and survey.started_at is not None and again_at <= survey.started_at:
        again_at = None
    ended = Survey.objects.filter(pk=survey.pk, generation=survey.generation, cursor=survey.cursor)
    # `started_at`, not now: what was asked for meanwhile is looked at again.
    done = ended.exclude(started_at=None).update(
        started_at=None, ended_at=survey.started_at, again_at=again_at, lowered_volumes=lowered
    )
    if done and lowered:
        # A chunk that wants more copies may have come into one of them since it was looked at.
        Survey.objects.filter(pk=survey.pk).update(asked_at=timezone.now())
    return Surveyed(1, 0, lowered, is_over=True)
