"""What buckets have in volumes that may be lost with a server, and how such a volume is given up.

The module is a `volumes.owners.Keeper`.

An object is kept by its chunk rows: as long as there is one in a volume, the volume is not given up. All else is the
store's own: dead needles, whose tombstones nobody waits for any more, and copies of parts of the journal.
"""

from collections import Counter
from collections.abc import Iterator

from django.db import transaction
from django.db.models import Count, Exists, Min, OuterRef, QuerySet

from buckets.models import Chunk, JournalNeedle, Object, Outbox, Upload
from buckets.services.outbox import begin_journal_anew
from volumes.models import Volume
from volumes.owners import Holdings, Owner

ROWS_AT_ONCE = 1000


def holdings(volumes: QuerySet[Volume]) -> Holdings:
    """Two queries, which read all chunk rows of the volumes."""
    return Holdings(_count(volumes, "object"), _count(volumes, "upload"))


def _count(volumes: QuerySet[Volume], holder: str) -> Counter[str]:
    chunks = Chunk.objects.filter(volume__in=_numbers(volumes)).exclude(**{holder: None})
    return Counter(
        dict(chunks.order_by().values_list(f"{holder}__bucket__name").annotate(count=Count(holder, distinct=True)))
    )


def owners_in(volumes: QuerySet[Volume]) -> Iterator[Owner]:
    """By id, a page at a time: no cursor is held open."""
    for model, holder in ((Object, "object"), (Upload, "upload")):
        last = 0
        while True:
            chunks = Chunk.objects.filter(volume__in=_numbers(volumes), **{f"{holder}__gt": last})
            page = chunks.order_by(holder).values_list(holder).annotate(first=Min("index"))[:ROWS_AT_ONCE]
            found = dict(page)
            if not found:
                break
            rows = model._default_manager.filter(pk__in=found).order_by("pk").values_list("pk", "bucket__name", "key")
            for pk, bucket, key in rows:
                yield Owner(bucket=bucket, key=key, chunk=found[pk], is_upload=model is Upload)
            last = max(found)


def release(volume_id: int) -> None:
    """Its dead needles are as dead as they can be. A journal that lost a part is told anew, from the rows.

    The journal's needles go first: who buries one at this moment has its outbox row there by the time that those go.
    """
    parts = JournalNeedle.objects.filter(volume=volume_id)
    twin = JournalNeedle.objects.filter(entry=OuterRef("entry"), part=OuterRef("part"), is_durable=True)
    with transaction.atomic():
        if parts.filter(~Exists(twin.exclude(volume=volume_id)), is_durable=True).exists():
            begin_journal_anew()
        parts.delete()
        Outbox.objects.filter(volume=volume_id).delete()


def _numbers(volumes: QuerySet[Volume]) -> QuerySet[Volume, int]:
    return volumes.order_by().values_list("pk", flat=True)
