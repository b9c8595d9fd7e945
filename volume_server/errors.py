"""What can go wrong in the engine, as a tree. Each error knows how it is answered: a status and a stable code."""


class StoreError(Exception):
    status = 500
    code = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class VolumeUnknown(StoreError):
    status, code = 404, "volume_unknown"


class NeedleUnknown(StoreError):
    status, code = 404, "needle_unknown"


class NeedleTaken(StoreError):
    """Another needle has this id, or had it."""

    status, code = 409, "needle_taken"


class Damaged(StoreError):
    """What lies on disk is not what was written: reported and never served."""

    status, code = 500, "needle_damaged"


class ReadFailed(StoreError):
    """The device did not answer a read. Nothing is said about the data."""

    status, code = 503, "read_failed"


class VolumeBusy(StoreError):
    """Something else is being done with this volume, or the server is stopping."""

    status, code = 409, "volume_busy"


class ListingEnded(StoreError):
    """What was told of a volume's needles so far is no part of a whole any more; it is to be begun anew."""

    status, code = 409, "listing_ended"


class ListingFailed(StoreError):
    """A volume's needles cannot be told; nothing is said about them."""

    status, code = 503, "listing_failed"


class VolumeSealed(StoreError):
    """The volume takes no record any more, most likely since an fsync failed."""

    status, code = 503, "volume_sealed"


class VolumeDegraded(StoreError):
    """The volume takes no record now: a copy of it is missing, or it is closed, or being opened."""

    status, code = 503, "volume_degraded"


class VolumeReplicated(StoreError):
    """Not while the volume is open and has copies elsewhere; close it first."""

    status, code = 409, "volume_replicated"


class VolumeDiffers(StoreError):
    """Another volume has this number here: made at another time, with another salt."""

    status, code = 409, "volume_differs"


class EpochOld(StoreError):
    """A later epoch was seen."""

    status, code = 409, "epoch_old"


class NoRoom(StoreError):
    """It does not fit, and nothing was written."""

    status, code = 507, "no_room"


class VolumeFull(NoRoom):
    code = "volume_full"


class DiskFull(NoRoom):
    code = "disk_full"


class VolumeUnusable(StoreError):
    """A volume file that cannot be opened; it is left as it is."""


class DataDirectoryBusy(StoreError):
    """Another process owns the data directory."""


class MasterRefuses(StoreError):
    """The master's final no: wrong token, wrong store, or another instance runs under this id."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
