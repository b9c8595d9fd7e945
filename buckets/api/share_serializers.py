"""The shapes of shares in the API."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from buckets import names
from buckets.models import MAX_DESCRIPTION_CHARS, Share
from buckets.services.shares import MAX_DOWNLOADS, MAX_PASSWORD_CHARS
from keys.api.bodies import MAX_NUMBER, Body, FlagField, NumberField, Query, TextField
from keys.models import MAX_BUCKET_CHARS

MAX_SECONDS = 100 * 366 * 24 * 3600


class ShareTerms(Body):
    """What a share allows; a field that is left out is as it was, and at first: no end, no limit, no password."""

    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="null: never.")
    expires_in_seconds = NumberField(
        required=False, min_value=1, max_value=MAX_SECONDS, write_only=True, help_text="In the place of `expires_at`."
    )
    max_downloads = NumberField(
        required=False, allow_null=True, min_value=1, max_value=MAX_DOWNLOADS, help_text="null: no limit."
    )
    one_time = FlagField(required=False, write_only=True, help_text="true: the same as `max_downloads` 1.")
    password = TextField(
        required=False,
        allow_null=True,
        max_length=MAX_PASSWORD_CHARS,
        write_only=True,
        help_text="Kept as a slow hash. null: none is asked for.",
    )
    description = TextField(
        required=False,
        allow_blank=True,
        max_length=MAX_DESCRIPTION_CHARS,
        help_text="For whoever looks after the share; the link does not show it.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "expires_in_seconds" in attrs:
            if "expires_at" in attrs:
                raise serializers.ValidationError({"expires_in_seconds": "Give this or `expires_at`, not both."})
            attrs["expires_at"] = timezone.now() + timedelta(seconds=attrs.pop("expires_in_seconds"))
        if attrs.pop("one_time", False):
            if attrs.get("max_downloads", 1) != 1:
                raise serializers.ValidationError({"one_time": "`max_downloads` asks for something else."})
            attrs["max_downloads"] = 1
        return attrs


class ShareSerializer(ShareTerms):
    """A share as it is shown: never its link, nor its password."""

    id = serializers.IntegerField(read_only=True)
    bucket = TextField(error_of=names.bucket_name_error, source="bucket.name")
    key = TextField(error_of=names.key_error)
    inline = FlagField(required=False, help_text="Browsers show the object instead of saving it.")
    state = serializers.ChoiceField(
        choices=Share.State.choices,
        read_only=True,
        help_text="`denied`: the API key that made it is gone, or may no longer share the object.",
    )
    has_password = serializers.BooleanField(read_only=True)
    download_count = serializers.IntegerField(read_only=True)
    downloads_left = serializers.IntegerField(read_only=True, allow_null=True, help_text="null: no limit.")
    created_at = serializers.DateTimeField(read_only=True)
    last_used_at = serializers.DateTimeField(read_only=True, allow_null=True)
    revoked_at = serializers.DateTimeField(read_only=True, allow_null=True)
    api_key = serializers.IntegerField(read_only=True, help_text="The API key that made it.")
    api_key_name = serializers.CharField(read_only=True, help_text="As it was called then.")


class NewShareSerializer(ShareSerializer):
    """A share in the one answer that shows its link."""

    url = serializers.CharField(read_only=True, help_text="The link. Shown here and never again.")


class ShareChangeSerializer(ShareSerializer):
    """What can be changed: the terms alone."""

    moving = frozenset({"state", "download_count", "downloads_left", "last_used_at"})

    bucket = TextField(read_only=True, source="bucket.name")
    key = TextField(read_only=True)
    inline = FlagField(read_only=True)


class ShareListSerializer(serializers.Serializer[Any]):
    results = ShareSerializer(many=True)
    next_after = serializers.IntegerField(allow_null=True, help_text="`after` of the next page; null: there is none.")


class ShareQuerySerializer(Query):
    bucket = TextField(default="", allow_blank=True, max_length=MAX_BUCKET_CHARS, help_text="Those of one bucket.")
    after = NumberField(min_value=0, max_value=MAX_NUMBER, default=0)
    limit = NumberField(min_value=1, max_value=1000, default=100)
