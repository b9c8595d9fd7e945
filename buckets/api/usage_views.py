"""How much of everything there is and was, for keys with VOLUMES_READ; of buckets, those that they may see."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from buckets.models import Bucket
from buckets.selectors.buckets import list_buckets
from buckets.selectors.pages import MAX_PAGE
from buckets.usage import MAX_POINTS, current_figures, usage_history
from keys.api import rights
from keys.api.bodies import Query
from keys.permissions import Permission
from volumes import selectors
from volumes.api.serializers import UsageSerializer
from volumes.api.views import ReadersView
from volumes.models import Server
from volumes.selectors import redundancy_counts

_EACH = "Requests that it has answered in all its lives, and so on for the others."


class ServerUsageSerializer(serializers.ModelSerializer[Server]):
    status = serializers.ChoiceField(choices=["online", "offline", "draining", "maintenance"])
    volumes = serializers.IntegerField(source="volume_count")
    requests = serializers.SerializerMethodField(help_text=_EACH)
    puts = serializers.SerializerMethodField()
    received_bytes = serializers.SerializerMethodField()
    sent_bytes = serializers.SerializerMethodField()

    class Meta:
        model = Server
        fields = (
            "id",
            "node",
            "status",
            "volumes",
            "capacity_bytes",
            "used_bytes",
            "free_bytes",
            "requests",
            "puts",
            "received_bytes",
            "sent_bytes",
        )
        read_only_fields = fields

    def get_requests(self, server: Server) -> int:
        return _told(server, "requests")

    def get_puts(self, server: Server) -> int:
        return _told(server, "puts")

    def get_received_bytes(self, server: Server) -> int:
        return _told(server, "received_bytes")

    def get_sent_bytes(self, server: Server) -> int:
        return _told(server, "sent_bytes")


def _told(server: Server, name: str) -> int:
    return int(server.traffic.get("total", {}).get(name, 0))


class BucketUsageSerializer(serializers.ModelSerializer[Bucket]):
    bucket = serializers.CharField(source="name")

    class Meta:
        model = Bucket
        fields = ("bucket", "object_count", "total_bytes", "reserved_objects", "reserved_bytes")
        read_only_fields = fields


class StoreUsageSerializer(UsageSerializer):
    buckets = serializers.IntegerField()
    object_count = serializers.IntegerField(help_text="In all buckets.")
    object_bytes = serializers.IntegerField(help_text="Of all objects together, replicas not counted.")
    requests = serializers.IntegerField(help_text="Requests to volume servers, ever.")
    puts = serializers.IntegerField(help_text="Needles that volume servers acknowledged, ever.")
    received_bytes = serializers.IntegerField(help_text="Bytes that volume servers received, ever.")
    sent_bytes = serializers.IntegerField(help_text="Bytes that volume servers sent, ever.")
    by_server = ServerUsageSerializer(many=True)
    by_bucket = BucketUsageSerializer(many=True, help_text="By name, those that the key may see (BUCKETS_READ).")
    next_after = serializers.CharField(
        allow_null=True, help_text="`after` of the next page of buckets; null on the last one."
    )


class UsageQuerySerializer(Query):
    after = serializers.CharField(
        default="", allow_blank=True, trim_whitespace=False, max_length=100, help_text="Buckets behind this name."
    )
    limit = serializers.IntegerField(default=100, min_value=1, max_value=MAX_PAGE, help_text="Of buckets.")


class HistoryQuerySerializer(Query):
    to = serializers.DateTimeField(required=False, help_text="Exclusive; now, unless said.")
    step = serializers.IntegerField(
        required=False,
        min_value=60,
        max_value=366 * 86_400,
        help_text=f"Seconds from point to point, such that there are {MAX_POINTS} of them at the most.",
    )

    def get_fields(self) -> dict[str, Any]:
        # "from" can't be the name of a class's attribute.
        begin = serializers.DateTimeField(required=False, help_text="Inclusive; a day before `to`, unless said.")
        return {"from": begin, **super().get_fields()}


def _rate(what: str) -> serializers.FloatField:
    return serializers.FloatField(allow_null=True, help_text=f"{what} a second since the point before; null: unknown.")


class UsagePointSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    servers = serializers.IntegerField()
    servers_online = serializers.IntegerField()
    capacity_bytes = serializers.IntegerField()
    free_bytes = serializers.IntegerField()
    volumes = serializers.IntegerField()
    used_bytes = serializers.IntegerField()
    garbage_bytes = serializers.IntegerField()
    damaged_count = serializers.IntegerField()
    buckets = serializers.IntegerField()
    object_count = serializers.IntegerField()
    object_bytes = serializers.IntegerField()
    requests_per_s = _rate("Requests to volume servers")
    puts_per_s = _rate("Acknowledged needles")
    received_bytes_per_s = _rate("Bytes received")
    sent_bytes_per_s = _rate("Bytes sent")


class UsageHistorySerializer(serializers.Serializer[Any]):
    to = serializers.DateTimeField()
    step = serializers.IntegerField(help_text="Seconds.")
    results = UsagePointSerializer(many=True, help_text="The first sample of each step that has one.")

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateTimeField(), **super().get_fields()}


class Usage(ReadersView):
    """How much there is now: of the whole store, of each server, and of the buckets that the key may see."""

    @extend_schema(parameters=[UsageQuerySerializer], responses=StoreUsageSerializer)
    def get(self, request: Request) -> Response:
        query = UsageQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        limit = query.validated_data["limit"]
        names = rights(request).buckets(Permission.BUCKETS_READ)
        page = list(list_buckets(names=names, after=query.validated_data["after"], limit=limit + 1))
        counts = redundancy_counts()
        told = {
            **current_figures(),
            "degraded_volumes": counts.degraded,
            "copying_volumes": counts.copying,
            "waiting_volumes": counts.waiting,
            "unreachable_volumes": counts.unreachable,
            "by_server": selectors.list_servers(),
            "by_bucket": page[:limit],
            "next_after": page[limit - 1].name if len(page) > limit else None,
        }
        return Response(StoreUsageSerializer(told).data)


class UsageHistory(ReadersView):
    """How much there was: a point for each step of time, from samples that the worker takes each minute.

    Kept are all samples of the last day, one in 15 minutes of the last 30 days, and one for each day before.
    """

    @extend_schema(parameters=[HistoryQuerySerializer], responses=UsageHistorySerializer)
    def get(self, request: Request) -> Response:
        query = HistoryQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        history = usage_history(begin=asked.get("from"), end=asked.get("to"), step_s=asked.get("step"))
        told = {"from": history.begin, "to": history.end, "step": history.step_s, "results": history.points}
        return Response(UsageHistorySerializer(told).data)
