"""Reading uploads."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, Sum
from django.utils import timezone

from buckets.errors import UploadUnknown
from buckets.models import IN_PROGRESS, Chunk, Upload


def get_upload(upload_id: UUID) -> Upload:
    """Raises UploadUnknown."""
    upload = Upload.objects.select_related("bucket").filter(pk=upload_id).first()
    if upload is None:
        raise UploadUnknown(f"There is no upload {upload_id}.")
    return upload


def upload_keys(*, bucket: str, uploads: Iterable[UUID]) -> dict[UUID, str]:
    """The keys of those of the uploads that are in the bucket."""
    return dict(Upload.objects.filter(bucket__name=bucket, pk__in=set(uploads)).values_list("pk", "key"))


def missing_chunks(upload: Upload) -> list[int]:
    """The indexes of the chunks that an open upload lacks; none of one that is over."""
    if upload.state != Upload.State.OPEN:
        return []
    stored = set(Chunk.objects.filter(upload=upload).values_list("index", flat=True))
    return [index for index in range(upload.chunk_count) if index not in stored]


def awaited_bytes() -> int:
    """What uploads in progress, of all buckets, have still to send.

    Of those alone that were made or got a chunk while the URLs of chunks are good: who promises and sends nothing
    must not keep the store from all others for as long as an upload lives.
    """
    since = timezone.now() - timedelta(seconds=settings.WAREHOUSE_CHUNK_URL_SECONDS)
    sent = Exists(Chunk.objects.filter(upload=OuterRef("pk"), committed_at__gte=since))
    alive = Upload.objects.filter(Q(created_at__gte=since) | sent, state__in=IN_PROGRESS)
    expected = alive.aggregate(total=Sum("size"))["total"] or 0
    stored = Chunk.objects.filter(upload__in=alive).aggregate(total=Sum("size"))["total"] or 0
    return int(expected - stored)
