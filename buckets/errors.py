"""What can go wrong with buckets, objects and uploads."""

from keys.errors import (
    Conflict,
    Gone,
    Invalid,
    NoSpace,
    NotFound,
    OutOfRange,
    PermissionDenied,
    PreconditionFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WarehouseError,
)


class BucketUnknown(NotFound):
    code = "bucket_unknown"
    title = "There is no such bucket"


class BucketDeleting(BucketUnknown):
    """The bucket is closed, and is gone once its objects are; until then it can be looked at, and no more."""

    code = "bucket_deleting"
    title = "The bucket is being deleted"


class ObjectUnknown(NotFound):
    code = "object_unknown"
    title = "There is no such object"


class UploadUnknown(NotFound):
    code = "upload_unknown"
    title = "There is no such upload"


class ShareUnknown(NotFound):
    """There never was such a share, or what it led to is gone: which of these is not told."""

    code = "share_unknown"
    title = "There is no such share"


class ShareOver(Gone):
    """The share was revoked, has expired or is used up, or whoever made it may no longer share: which is not told."""

    code = "share_over"
    title = "This link has ended"


class ShareVersionGone(Gone):
    """The version of the object that was counted is no more: overwritten, changed or deleted."""

    code = "version_gone"
    title = "This version of the object is gone"


class ShareRevoked(Conflict):
    code = "share_revoked"
    title = "The share is revoked"


class SharePasswordRefused(Unauthenticated):
    """The share has a password, and none or a wrong one was given."""

    code = "password_refused"
    title = "This link has a password"


class BucketTaken(Conflict):
    code = "bucket_taken"
    title = "A bucket of this name exists"


class BucketNotEmpty(Conflict):
    code = "bucket_not_empty"
    title = "The bucket is not empty"


class JournalRaced(Conflict):
    """Another process has written to the journal at the same time; nothing of this one's step counts."""

    code = "journal_raced"
    title = "The journal was moved on by another process"


class NotEmpty(Conflict):
    """A rebuild makes a database; it never changes one."""

    code = "database_not_empty"
    title = "The database is not empty"


class NothingToRebuildFrom(Conflict):
    """These folders are no data directories of stopped volume servers of one store."""

    code = "nothing_to_rebuild_from"
    title = "There is nothing to rebuild the database from"


class UploadOver(Conflict):
    """The upload is completed, aborted or expired, and takes no more."""

    code = "upload_over"
    title = "The upload takes no more chunks"


class UploadIncomplete(Conflict):
    """Chunks of the upload are missing."""

    code = "upload_incomplete"
    title = "The upload is not ready"


class ObjectExists(Conflict):
    """A rename would overwrite, and was not told to."""

    code = "object_exists"
    title = "There is an object of this key"


class TooManyRows(TooLarge):
    """The commit would change more rows than one may: ``count``, where it is known; ``limit`` at the most."""

    code = "too_many_rows"
    title = "These are more than one commit takes"


class ObjectChanged(PreconditionFailed):
    """A precondition of the request does not hold."""


class RangeUnsatisfiable(OutOfRange):
    code = "range_unsatisfiable"
    title = "The range lies behind the object's end"


class ObjectTooLarge(TooLarge):
    code = "object_too_large"
    title = "The object is larger than the store takes"


class QuotaExceeded(NoSpace):
    code = "quota_exceeded"
    title = "The bucket's quota is used up"


class BatchInvalid(Invalid):
    """A confirm that does not follow the protocol."""


class DeadlinePassed(Unavailable):
    """The confirm's deadline was over before its locks were held: nothing of it was committed, nor will be."""

    code = "deadline_passed"
    title = "The deadline of the confirm has passed"


class Busy(Unavailable):
    """All threads that may stream bytes, or check passwords, are doing so."""

    code = "busy"
    title = "Too much of this is being done at the same time"


class NeedleUnreadable(Unavailable):
    """No replica gave a chunk's bytes whole."""

    code = "chunk_unreadable"
    title = "A chunk of the object can't be read now"


class IntentForged(PermissionDenied):
    """The intent is none that this master signed."""

    code = "intent_forged"
    title = "The lease is not this master's"


class LeaseExpired(PermissionDenied):
    code = "expired"
    title = "The lease has expired"


class NotPrimary(Conflict):
    """The confirming server does not speak for the volume."""

    code = "not_primary"
    title = "The server is not the volume's primary"


class EpochStale(Conflict):
    code = "epoch_stale"
    title = "The volume has a newer epoch"


class KeyRevoked(PermissionDenied):
    code = "key_revoked"
    title = "The API key is no longer valid"


class NeedleOutsideLease(PermissionDenied):
    code = "needle_outside_lease"
    title = "The needle is outside of the lease"


class KeyOutsideLease(PermissionDenied):
    code = "key_outside_lease"
    title = "The key is outside of the lease"


class KeyInvalid(Invalid):
    code = "key_invalid"
    title = "The object key is not valid"


class MetadataInvalid(Invalid):
    code = "metadata_invalid"
    title = "The object's attributes are not valid"


class SizeMismatch(Invalid):
    code = "size_mismatch"
    title = "The size is not the one agreed on"


class PayloadTooLarge(TooLarge):
    code = "payload_too_large"
    title = "The needle is larger than its lease allows"


REFUSALS: tuple[type[WarehouseError], ...] = (
    IntentForged,
    LeaseExpired,
    NotPrimary,
    EpochStale,
    KeyRevoked,
    PermissionDenied,
    BucketUnknown,
    BucketDeleting,
    NeedleOutsideLease,
    PayloadTooLarge,
    SizeMismatch,
    KeyInvalid,
    KeyOutsideLease,
    MetadataInvalid,
    ObjectChanged,
    QuotaExceeded,
    UploadUnknown,
    UploadOver,
)
"""Every error that a confirm can refuse a needle with."""

NO_BUCKET = (BucketUnknown, BucketDeleting)
"""What all that is done in a bucket can come to."""
