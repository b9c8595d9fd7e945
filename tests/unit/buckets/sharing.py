"""What tests of shares have in common."""

from datetime import datetime
from typing import Any

from buckets.models import Share
from buckets.services.shares import NewShare, create_share
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow
from keys.selectors import forget_rights, rights_of_row
from keys.services.keys import update_key
from tests.unit.buckets.lab import make_key

SHARING = int(Permission.SHARE | Permission.OBJECTS_READ)

ENDINGS = ("revoked", "expired", "used up", "key deleted", "key expired", "key weakened", "grant elsewhere")
"""All that ends a share."""


def share_of(maker: ApiKey, key: str, **terms: Any) -> NewShare:
    return create_share(maker=rights_of_row(maker), maker_name=maker.name, bucket="photos", key=key, **terms)


def end(share: Share, ending: str, *, at: datetime) -> None:
    rows = Share.objects.filter(pk=share.pk)
    match ending:
        case "revoked":
            rows.update(revoked_at=at)
        case "expired":
            rows.update(expires_at=at)
        case "used up":
            rows.update(max_downloads=2, download_count=2)
        case "key deleted":
            ApiKey.objects.filter(pk=share.api_key).delete()
        case "key expired":
            ApiKey.objects.filter(pk=share.api_key).update(expires_at=at)
        case "key weakened":
            update_key(actor=None, key_id=share.api_key, permissions=int(Permission.SHARE))
        case "grant elsewhere":
            grant = GrantRow(share.bucket.name, share.key + "/", SHARING)
            update_key(actor=None, key_id=share.api_key, permissions=0, grants=[grant])
    forget_rights()


def make_maker() -> ApiKey:
    return make_key(permissions=SHARING)
