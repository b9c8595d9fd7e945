"""The audit trail in the API: for ADMIN keys, newest first."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys import api
from keys.actions import Outcome, Through
from keys.api.bodies import MAX_NUMBER, NumberField, Query
from keys.models import MAX_ACTION_CHARS, MAX_BUCKET_CHARS, MAX_TARGET_CHARS, AuditEntry
from keys.permissions import Permission
from keys.selectors import AuditPlace, list_audit
from keys.services.denials import write_denials

MAX_PAGE = 1000


class PlaceField(serializers.CharField):
    """A place between two entries, as the page before gave it: `<Unix microseconds>-<id>`."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return AuditPlace.parse(super().to_internal_value(data))
        except ValueError:
            raise serializers.ValidationError("Give the `next_after` of the page before.") from None

    def to_representation(self, value: Any) -> str:
        return str(value)


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    key = serializers.IntegerField(
        source="key_id", allow_null=True, help_text="Id of the key; null: the system, or nobody known."
    )
    through = serializers.ChoiceField(choices=Through.choices)
    outcome = serializers.ChoiceField(choices=Outcome.choices)
    detail = serializers.DictField(help_text="What else there is to tell, by action.")

    class Meta:
        model = AuditEntry
        fields = (
            "id",
            "at",
            "key",
            "key_name",
            "action",
            "bucket",
            "target",
            "address",
            "request_id",
            "through",
            "outcome",
            "detail",
            "count",
        )
        read_only_fields = fields


class AuditListSerializer(serializers.Serializer[Any]):
    results = AuditEntrySerializer(many=True)
    next_after = PlaceField(allow_null=True, help_text="`after` of the next page; null: there is none.")


class AuditQuerySerializer(Query):
    after = PlaceField(required=False, help_text="`next_after` of the page before.")
    limit = NumberField(min_value=1, max_value=MAX_PAGE, default=100)
    key = NumberField(required=False, min_value=1, max_value=MAX_NUMBER, help_text="Done by this key.")
    action = serializers.CharField(required=False, max_length=MAX_ACTION_CHARS)
    bucket = serializers.CharField(required=False, max_length=MAX_BUCKET_CHARS)
    outcome = serializers.ChoiceField(choices=Outcome.choices, required=False)
    through = serializers.ChoiceField(choices=Through.choices, required=False)
    since = serializers.DateTimeField(required=False, help_text="At this time or later.")
    until = serializers.DateTimeField(required=False, help_text="Before this time.")
    target = serializers.CharField(
        required=False,
        max_length=MAX_TARGET_CHARS,
        trim_whitespace=False,
        help_text="What the target begins with: an object's key, or the id of a key, upload, server or volume.",
    )


class Audit(APIView):
    """Who did what, when, from where: every change and every denied try, newest first.

    With several filters a page may be short and yet not the last: go on until `next_after` is null.
    """

    @extend_schema(parameters=[AuditQuerySerializer], responses=AuditListSerializer)
    def get(self, request: Request) -> Response:
        api.rights(request).require(Permission.ADMIN)
        query = AuditQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = dict(query.validated_data)
        if "key" in wanted:
            wanted["key_id"] = wanted.pop("key")
        write_denials(at_once=True)  # what this process has counted is in the list, too
        page = list_audit(**wanted)
        return Response(AuditListSerializer({"results": page.entries, "next_after": page.next_after}).data)
