"""What a change of an object may depend on: preconditions and quotas. Judged under the bucket's lock."""

from buckets.errors import ObjectChanged, QuotaExceeded
from buckets.models import Bucket
from buckets.names import etag_matches
from buckets.services.locks import LockedBucket


def require_conditions(*, etag: str | None, if_match: str = "", if_none_match: bool = False) -> None:
    """Raises ObjectChanged unless the version ``etag`` (None: there is no object) is one that may be replaced.

    ``if_match``: ``*`` or a list of ETags, empty for no condition; ``if_none_match``: only where there is no object.
    """
    if if_none_match and etag is not None:
        raise ObjectChanged("There is an object of this key, and If-None-Match: * asked for none.")
    if if_match and not etag_matches(if_match, etag):
        found = f"has the ETag {etag!r}" if etag is not None else "does not exist"
        raise ObjectChanged(f"The object {found}, and If-Match asked for another.")


def require_quota(
    bucket: Bucket | LockedBucket, *, objects: int, size_bytes: int, grows_objects: bool, grows_bytes: bool
) -> None:
    """Raises QuotaExceeded when the bucket would hold too much; what makes it no larger is always let through.

    ``objects`` and ``size_bytes``: what it would hold, and what other uploads in progress have reserved.
    """
    if grows_objects and bucket.quota_objects is not None and objects > bucket.quota_objects:
        raise QuotaExceeded(
            f"Bucket {bucket.name!r} may hold {bucket.quota_objects:,} objects, those that are on their way included."
        )
    if grows_bytes and bucket.quota_bytes is not None and size_bytes > bucket.quota_bytes:
        raise QuotaExceeded(
            f"Bucket {bucket.name!r} may hold {bucket.quota_bytes:,} bytes, this would be {size_bytes:,}, "
            "those that are on their way included."
        )
