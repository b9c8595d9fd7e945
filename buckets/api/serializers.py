"""The shapes of buckets, objects and uploads in the API."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from buckets import names
from buckets.filters import Filters
from buckets.models import Bucket, Object
from buckets.selectors.listing import Listed
from buckets.selectors.pages import MAX_PAGE
from buckets.services.buckets import MAX_CORS_ORIGINS, BucketSettings
from buckets.services.downloads import Download
from buckets.services.leases import Lease
from buckets.services.uploads import ChunkSlot, Slots
from buckets.sizes import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from buckets.verdicts import rfc3339
from keys.api.bodies import MAX_NUMBER, Body, BoundedList, FlagField, NumberField, Query, TextField
from volume_server.intent import MAX_COUNT
from volume_server.record import MAX_DATA_BYTES

MAX_KEYS = 1000
"""In one batch call."""
MAX_METADATA_FILTERS = 16


class MetadataField(serializers.DictField):
    """An object's metadata: names to texts."""

    child = TextField(allow_blank=True)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if isinstance(data, dict) and len(data) > names.MAX_METADATA_BYTES:  # too many, were each a byte long
            raise serializers.ValidationError(f"Metadata takes at most {names.MAX_METADATA_BYTES} bytes.")
        metadata: dict[str, str] = super().to_internal_value(data)
        if (problem := names.metadata_error(metadata)) is not None:
            raise serializers.ValidationError(problem)
        return metadata


class OnlyNewField(FlagField):
    """If-None-Match: true, or the ``*`` of the header."""

    def to_internal_value(self, data: object) -> bool:
        return data == "*" or super().to_internal_value(data)


# --- buckets ---


class BucketSerializer(Body, serializers.ModelSerializer[Bucket]):
    """A bucket. Its name can't be changed."""

    name = TextField(error_of=names.bucket_name_error)
    visibility = serializers.ChoiceField(
        choices=Bucket.Visibility.choices,
        required=False,
        help_text="`public-read`: anybody may GET `content/{key}`, without a token; all else stays closed.",
    )
    replication = NumberField(required=False, help_text="Copies of each needle, on different nodes; from 1 to 8.")
    chunk_size = NumberField(
        required=False,
        allow_null=True,
        min_value=MIN_CHUNK_BYTES,
        max_value=MAX_CHUNK_BYTES,
        help_text="Bytes of each chunk of an upload but the last; null: the store's.",
    )
    quota_bytes = NumberField(
        required=False, allow_null=True, min_value=0, max_value=MAX_NUMBER, help_text="null: no limit."
    )
    quota_objects = NumberField(
        required=False, allow_null=True, min_value=0, max_value=MAX_NUMBER, help_text="null: no limit."
    )
    cors_origins = BoundedList(
        child=TextField(max_length=300),
        max_length=MAX_CORS_ORIGINS,
        required=False,
        help_text="`*`, or origins as browsers send them. Volume servers know no buckets: what one bucket allows holds "
        "for the whole store.",
    )

    deleting = serializers.BooleanField(
        source="is_deleting",
        read_only=True,
        help_text="It was deleted by force: closed, and gone once the objects that are counted still are.",
    )

    class Meta:
        model = Bucket
        fields: tuple[str, ...] = (
            "name",
            "created_at",
            "object_count",
            "total_bytes",
            "reserved_objects",
            "reserved_bytes",
            "deleting",
            "visibility",
            "replication",
            "chunk_size",
            "quota_bytes",
            "quota_objects",
            "cors_origins",
        )
        read_only_fields = ("created_at", "object_count", "total_bytes", "reserved_objects", "reserved_bytes")

    def validated_settings(self) -> BucketSettings:
        """What the caller gave, as the services take it."""
        given = {name: value for name, value in self.validated_data.items() if name != "name"}
        return BucketSettings(**given)


class BucketChangeSerializer(BucketSerializer):
    """Settings alone: what else a bucket shows can't be changed."""

    moving = frozenset({"object_count", "total_bytes", "reserved_objects", "reserved_bytes"})

    name = TextField(read_only=True)


class BucketDeletionSerializer(BucketSerializer):
    detail = serializers.SerializerMethodField(help_text="What is going to happen.")

    class Meta(BucketSerializer.Meta):
        fields = (*BucketSerializer.Meta.fields, "detail")

    def get_detail(self, bucket: Bucket) -> str:
        return (
            f"Bucket {bucket.name!r} is closed. The worker deletes its {bucket.object_count} objects "
            f"({bucket.total_bytes} bytes), and then the bucket itself; until then its name stays taken."
        )


class BucketDeleteQuerySerializer(Query):
    force = serializers.BooleanField(default=False, help_text="Also where there are objects: they are deleted as well.")


class BucketListSerializer(serializers.Serializer[Any]):
    results = BucketSerializer(many=True)
    next_after = serializers.CharField(allow_null=True, help_text="`after` of the next page; null: there is none.")


class BucketQuerySerializer(Query):
    after = TextField(default="", allow_blank=True, help_text="Names behind this one.")
    limit = NumberField(default=MAX_PAGE, min_value=1, max_value=MAX_PAGE)


# --- objects ---

IF_MATCH = OpenApiParameter(
    "If-Match",
    location=OpenApiParameter.HEADER,
    description="ETags in quotes, separated by commas, or `*`: only if the object is one of these versions; else 412.",
)


class ListedObjectSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    etag = serializers.CharField(help_text="Opaque, strong, this version's alone; unquoted.")
    content_type = serializers.CharField()
    updated_at = serializers.DateTimeField()


class ObjectSerializer(ListedObjectSerializer):
    metadata = serializers.DictField(child=serializers.CharField())
    created_at = serializers.DateTimeField()


class ObjectListSerializer(serializers.Serializer[Any]):
    results = ListedObjectSerializer(many=True)
    prefixes = serializers.ListField(child=serializers.CharField())
    next_after = serializers.CharField(
        allow_null=True,
        help_text="`after` of the next page; null: there is none. A page may be short, or empty: go on while this is "
        "not null.",
    )


def _metadata_filter_error(text: str) -> str | None:
    name, colon, value = text.partition(":")
    return names.metadata_error({name: value}) if colon else "A name, a colon, and the value that it must have."


def _type_filter_error(text: str) -> str | None:
    if text.startswith("*"):
        return "A content type, or one with * for its subtype, such as image/*."
    return names.content_type_error(text) if text else None


class ObjectQuerySerializer(Query):
    prefix = TextField(default="", allow_blank=True, max_length=names.MAX_KEY_BYTES)
    delimiter = TextField(
        default="", allow_blank=True, max_length=64, help_text="Keys that have it behind the prefix are grouped."
    )
    after = TextField(
        default="", allow_blank=True, max_length=names.MAX_KEY_BYTES, help_text="`next_after` of the page before."
    )
    limit = NumberField(default=MAX_PAGE, min_value=1, max_value=MAX_PAGE)
    order = serializers.ChoiceField(choices=["key", "newest"], default="key")
    search = TextField(
        default="",
        allow_blank=True,
        max_length=names.MAX_KEY_BYTES,
        help_text="Plain text that stands somewhere in the key; the case of ASCII letters does not matter.",
    )
    min_size = NumberField(required=False, min_value=0, max_value=MAX_NUMBER, help_text="Bytes.")
    max_size = NumberField(required=False, min_value=0, max_value=MAX_NUMBER, help_text="Bytes.")
    content_type = TextField(
        default="",
        allow_blank=True,
        error_of=_type_filter_error,
        help_text="The whole of it, parameters included; or `image/*` for every subtype.",
    )
    updated_after = serializers.DateTimeField(
        required=False, help_text="Later than this; RFC 3339, UTC where it names no offset."
    )
    updated_before = serializers.DateTimeField(required=False, help_text="Earlier than this.")
    metadata = BoundedList(
        child=TextField(error_of=_metadata_filter_error),
        required=False,
        max_length=MAX_METADATA_FILTERS,
        help_text="`name:value`: an object whose metadata has just this value. Several times: all of them.",
    )

    def validate_delimiter(self, delimiter: str) -> str:
        if chr(0x10FFFF) in delimiter:
            raise serializers.ValidationError("U+10FFFF is no character and no delimiter.")
        return delimiter

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["delimiter"] and attrs["order"] == "newest":
            raise serializers.ValidationError({"delimiter": "Only pages in the order of keys are grouped."})
        attrs["filters"] = _taken_filters(attrs)
        if attrs["delimiter"] and attrs["filters"]:
            raise serializers.ValidationError({"delimiter": "Pages with a search or a filter are not grouped."})
        return attrs


def _taken_filters(attrs: dict[str, Any]) -> Filters:
    """Takes the filters out of what was validated. Raises ValidationError for two that leave nothing."""
    taken = {field.name: attrs.pop(field.name) for field in dataclasses.fields(Filters) if field.name in attrs}
    taken["metadata"] = tuple(tuple(text.split(":", 1)) for text in taken.get("metadata", ()))
    filters = Filters(**taken)
    for low, high in (("min_size", "max_size"), ("updated_after", "updated_before")):
        if low in taken and high in taken and taken[low] > taken[high]:
            raise serializers.ValidationError({high: f"This is less than {low}, so nothing could match."})
    return filters


class ObjectChangeSerializer(Body):
    """Attributes alone: what else an object shows can't be changed."""

    key = serializers.CharField(read_only=True)
    size = serializers.IntegerField(read_only=True)
    etag = serializers.CharField(read_only=True)
    content_type = TextField(required=False, error_of=names.content_type_error)
    updated_at = serializers.DateTimeField(read_only=True)
    metadata = MetadataField(required=False)
    created_at = serializers.DateTimeField(read_only=True)

    def shown(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if self.instance is None else described(self.instance)


class KeysSerializer(Body):
    keys = BoundedList(child=TextField(error_of=names.key_error), max_length=MAX_KEYS)


class StatSerializer(serializers.Serializer[Any]):
    objects = ObjectSerializer(many=True)
    missing = serializers.ListField(child=serializers.CharField())


class DeletedSerializer(serializers.Serializer[Any]):
    deleted = serializers.ListField(child=serializers.CharField())
    missing = serializers.ListField(child=serializers.CharField())


# --- bytes in and out ---


class LeaseRequestSerializer(Body):
    count = NumberField(min_value=1, max_value=MAX_COUNT)
    max_bytes = NumberField(min_value=0, max_value=MAX_DATA_BYTES, help_text="Of each needle.")
    prefix = TextField(
        default="", allow_blank=True, error_of=lambda prefix: names.key_error(prefix) if prefix else None
    )


class LeaseSerializer(serializers.Serializer[Any]):
    volume = serializers.IntegerField()
    first = serializers.CharField(help_text="The first needle: 16 hex digits, of which the last 4 are the slot.")
    count = serializers.IntegerField()
    max_bytes = serializers.IntegerField()
    url = serializers.CharField(help_text="Put a needle's 16 hex digits in the place of `{needle}`, and PUT.")
    expires_at = serializers.DateTimeField()
    chunk_size = serializers.IntegerField(help_text="Objects that are larger should go as uploads.")


class UploadRequestSerializer(Body):
    key = TextField(error_of=names.key_error)
    size = NumberField(min_value=0, max_value=MAX_NUMBER, help_text="Bytes of the whole object.")
    content_type = TextField(required=False, allow_null=True, error_of=names.content_type_error)
    metadata = MetadataField(required=False, allow_null=True)
    if_match = TextField(required=False, allow_null=True, error_of=names.if_match_error)
    if_none_match = OnlyNewField(
        required=False, allow_null=True, help_text='`true` or `"*"`: only where there is no object.'
    )
    held = FlagField(required=False, help_text="The last chunk makes it `ready`; only `commits` makes it an object.")

    def validated_options(self) -> dict[str, Any]:
        """What the caller gave; null is as good as nothing."""
        return {name: value for name, value in self.validated_data.items() if value is not None}


class ChunkSlotSerializer(serializers.Serializer[Any]):
    index = serializers.IntegerField()
    offset = serializers.IntegerField()
    size = serializers.IntegerField()
    url = serializers.CharField()


class UploadSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    chunk_size = serializers.IntegerField()
    chunks = ChunkSlotSerializer(many=True)
    expires_at = serializers.DateTimeField()


class UploadStateSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    key = serializers.CharField()
    size = serializers.IntegerField()
    state = serializers.ChoiceField(choices=["open", "ready", "completed", "aborted"])
    held = serializers.BooleanField()
    missing = ChunkSlotSerializer(many=True)
    expires_at = serializers.DateTimeField()


class SignedChunkSerializer(serializers.Serializer[Any]):
    index = serializers.IntegerField()
    offset = serializers.IntegerField()
    size = serializers.IntegerField()
    crc32 = serializers.IntegerField()
    urls = serializers.ListField(child=serializers.CharField())


class DownloadSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    size = serializers.IntegerField()
    etag = serializers.CharField()
    content_type = serializers.CharField()
    metadata = serializers.DictField(child=serializers.CharField())
    chunks = SignedChunkSerializer(many=True)


class DownloadsSerializer(serializers.Serializer[Any]):
    objects = DownloadSerializer(many=True)
    missing = serializers.ListField(child=serializers.CharField())


# Answers are made by hand: they are many rows long, and a serializer takes ten times as long for each.


def listed(row: Object | Listed) -> dict[str, object]:
    return {
        "key": row.key,
        "size": row.size,
        "etag": row.etag,
        "content_type": row.content_type,
        "updated_at": rfc3339(row.updated_at),
    }


def described(row: Object) -> dict[str, object]:
    return {**listed(row), "metadata": row.metadata, "created_at": rfc3339(row.created_at)}


def leased(lease: Lease) -> dict[str, object]:
    return {
        "volume": lease.volume,
        "first": f"{lease.first:016x}",
        "count": lease.count,
        "max_bytes": lease.max_bytes,
        "url": lease.url,
        "expires_at": rfc3339(lease.expires_at),
        "chunk_size": lease.chunk_size,
    }


def slot(chunk: ChunkSlot) -> dict[str, object]:
    return {"index": chunk.index, "offset": chunk.offset, "size": chunk.size, "url": chunk.url}


def created_upload(slots: Slots) -> dict[str, object]:
    return {
        "id": str(slots.upload.pk),
        "chunk_size": slots.upload.chunk_size,
        "chunks": [slot(chunk) for chunk in slots.chunks],
        "expires_at": rfc3339(slots.upload.expires_at),
    }


def upload_state(slots: Slots) -> dict[str, object]:
    return {
        "id": str(slots.upload.pk),
        "key": slots.upload.key,
        "size": slots.upload.size,
        "state": slots.upload.state,
        "held": slots.upload.held,
        "missing": [slot(chunk) for chunk in slots.chunks],
        "expires_at": rfc3339(slots.upload.expires_at),
    }


def downloadable(download: Download) -> dict[str, object]:
    row = download.object
    return {
        "key": row.key,
        "size": row.size,
        "etag": row.etag,
        "content_type": row.content_type,
        "metadata": row.metadata,
        "chunks": [
            {"index": chunk.position, "offset": chunk.offset, "size": chunk.size, "crc32": chunk.crc32, "urls": urls}
            for chunk, urls in zip(row.chunks, download.urls, strict=True)
        ],
    }
