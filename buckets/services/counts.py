"""What a bucket will hold after a commit, as the commit is judged."""

from dataclasses import dataclass, field

from buckets.models import Upload
from buckets.services.conditions import require_quota
from buckets.services.locks import CountChange, LockedBucket


@dataclass(slots=True)
class Counts:
    """What a bucket will hold, and what uploads in progress have reserved in it."""

    bucket: LockedBucket
    objects: int = field(init=False)
    size_bytes: int = field(init=False)
    reserved_objects: int = field(init=False)
    reserved_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.objects, self.size_bytes = self.bucket.object_count, self.bucket.total_bytes
        self.reserved_objects, self.reserved_bytes = self.bucket.reserved_objects, self.bucket.reserved_bytes

    def replace(self, size_before: int | None, size: int, *, completes: Upload | None = None) -> None:
        """Counts a version of ``size`` bytes in the place of another (None: of nothing). Raises QuotaExceeded.

        ``completes``: the upload that it comes from, whose own reservation ends with it.
        """
        objects = 0 if size_before is not None else 1
        size_bytes = size - (size_before or 0)
        reserved_objects = self.reserved_objects - (completes.reserved_objects if completes else 0)
        reserved_bytes = self.reserved_bytes - (completes.reserved_bytes if completes else 0)
        require_quota(
            self.bucket,
            objects=self.objects + objects + reserved_objects,
            size_bytes=self.size_bytes + size_bytes + reserved_bytes,
            grows_objects=objects > 0,
            grows_bytes=size_bytes > 0,
        )
        self.objects += objects
        self.size_bytes += size_bytes
        self.reserved_objects, self.reserved_bytes = reserved_objects, reserved_bytes

    def remove(self, size: int) -> None:
        """Counts an object of ``size`` bytes no more."""
        self.objects -= 1
        self.size_bytes -= size

    def change(self) -> CountChange:
        """What that adds to the bucket's row."""
        return CountChange(
            self.bucket.id,
            self.objects - self.bucket.object_count,
            self.size_bytes - self.bucket.total_bytes,
            self.reserved_objects - self.bucket.reserved_objects,
            self.reserved_bytes - self.bucket.reserved_bytes,
        )
