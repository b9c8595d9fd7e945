"""Shapes of servers and volumes in the API."""

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from keys.api.bodies import MAX_NUMBER, Body, FlagField, NumberField, Query
from volumes.models import JobState, Replica, Server, Volume
from volumes.reports import MAX_BYTES

MAX_PAGE = 1000


class DrainSerializer(serializers.Serializer[Any]):
    """How far a server is that is being emptied."""

    volumes = serializers.IntegerField(source="volume_count", help_text="Copies that are still assigned to it.")
    bytes = serializers.IntegerField(source="held_bytes", help_text="What these hold.")
    waiting = serializers.IntegerField(
        source="waiting_count", help_text="Of these, how many wait; their `redundancy_note` says for what."
    )
    is_empty = serializers.SerializerMethodField(help_text="Its last file is gone, and it may be switched off.")

    def get_is_empty(self, server: Any) -> bool:
        return not server.volume_count and not server.holds_files


class ServerUpdateSerializer(Body):
    """What an operator wants of a server."""

    admin_state = serializers.ChoiceField(
        choices=Server.AdminState.choices,
        help_text="`draining`: its volumes move elsewhere. `maintenance`: it will be silent for a while, and nothing "
        "is copied for that.",
    )


class ServerSerializer(serializers.ModelSerializer[Server]):
    url = serializers.URLField(source="public_url", help_text="Where clients reach it.")
    status = serializers.ChoiceField(choices=["online", "offline", "draining", "maintenance"])
    volumes = serializers.IntegerField(source="volume_count", help_text="Replicas that are assigned to it.")
    damaged_count = serializers.IntegerField(help_text="Damaged records known of now, over all of its volumes.")
    drain = serializers.SerializerMethodField(help_text="How far its emptying is; null unless it is draining.")

    class Meta:
        model = Server
        fields = (
            "id",
            "node",
            "url",
            "status",
            "admin_state",
            "drain",
            "volumes",
            "capacity_bytes",
            "used_bytes",
            "free_bytes",
            "damaged_count",
            "version",
            "registered_at",
            "last_seen_at",
            "last_checked_at",
            "check_error",
            "stray_volumes",
        )
        read_only_fields = fields

    @extend_schema_field(DrainSerializer(allow_null=True))
    def get_drain(self, server: Server) -> dict[str, Any] | None:
        if server.admin_state != Server.AdminState.DRAINING:
            return None
        return dict(DrainSerializer(server).data)


class MomentField(serializers.DateTimeField):
    """Unix milliseconds, shown as a time like all others."""

    def to_representation(self, value: Any) -> Any:
        return super().to_representation(datetime.fromtimestamp(value / 1000, UTC))


class JobSerializer(serializers.Serializer[Any]):
    """How far a job on a volume is, as its server last told."""

    state = serializers.ChoiceField(choices=JobState.choices)
    done_bytes = serializers.IntegerField()
    total_bytes = serializers.IntegerField(help_text="What there is to go through.")
    detail = serializers.CharField(help_text="Why it failed, or what else there is to say.")
    started_at = MomentField(source="started_ms")
    ended_at = MomentField(source="ended_ms", allow_null=True)


class CompactionSerializer(JobSerializer):
    reclaimed_bytes = serializers.IntegerField(help_text="What the file has shrunk by.")


class CompactSerializer(Body):
    """How a compaction shall go about it."""

    rate_bytes = NumberField(
        default=0, min_value=0, max_value=MAX_BYTES, help_text="Bytes a second; 0: as fast as it goes."
    )
    drop_damage = FlagField(
        default=False, help_text="Leave damage behind that holds no needle which the volume's index knows."
    )


class PeerSerializer(serializers.Serializer[Any]):
    """How far a primary has brought another copy into line."""

    server = serializers.UUIDField()
    state = serializers.ChoiceField(choices=["whole", "copying", "lost"])
    done_bytes = serializers.IntegerField()
    total_bytes = serializers.IntegerField()


class ReplicationSerializer(serializers.Serializer[Any]):
    """What a server tells of its part in a volume of several copies."""

    role = serializers.ChoiceField(choices=Replica.Role.choices)
    epoch = serializers.IntegerField()
    state = serializers.ChoiceField(choices=["open", "opening", "degraded", "closed"])
    peers = PeerSerializer(many=True, help_text="Told by the primary alone.")
    detail = serializers.CharField()


class ReplicaSerializer(serializers.ModelSerializer[Replica]):
    server = serializers.UUIDField(source="server_id")
    server_status = serializers.CharField(source="server.status")
    node = serializers.CharField(source="server.node")
    garbage_ratio = serializers.FloatField(help_text="Share of the file that compaction would give back, 0 to 1.")
    compaction = CompactionSerializer(
        allow_null=True, help_text="Of now, or the last one since the server was started; else null."
    )
    scrub = JobSerializer(allow_null=True, help_text="Of now, or the last one since the server was started; else null.")
    replication = ReplicationSerializer(allow_null=True, help_text="Null where the volume never had another copy.")

    class Meta:
        model = Replica
        fields = (
            "server",
            "server_status",
            "node",
            "role",
            "state",
            "detail",
            "epoch",
            "whole_epoch",
            "replication",
            "revision",
            "size_bytes",
            "garbage_bytes",
            "garbage_ratio",
            "live_count",
            "tombstone_count",
            "damaged_count",
            "scrubbed_at",
            "compaction",
            "scrub",
            "reported_at",
        )
        read_only_fields = fields


class VolumeSerializer(serializers.ModelSerializer[Volume]):
    created_at = serializers.DateTimeField()
    replicas = ReplicaSerializer(many=True)

    class Meta:
        model = Volume
        fields = (
            "id",
            "state",
            "epoch",
            "replication",
            "redundancy",
            "redundancy_changed_at",
            "redundancy_note",
            "created_at",
            "state_changed_at",
            "replicas",
        )
        read_only_fields = fields


class ServerListSerializer(serializers.Serializer[Any]):
    results = ServerSerializer(many=True)


class VolumeListSerializer(serializers.Serializer[Any]):
    results = VolumeSerializer(many=True)
    next_after = serializers.IntegerField(allow_null=True, help_text="`after` of the next page; null on the last one.")


class VolumeQuerySerializer(Query):
    after = NumberField(default=0, min_value=0, max_value=MAX_NUMBER, help_text="Volumes with a higher number.")
    limit = NumberField(default=100, min_value=1, max_value=MAX_PAGE)
    state = serializers.ChoiceField(choices=Volume.State.choices, required=False)
    redundancy = serializers.ChoiceField(choices=Volume.Redundancy.choices, required=False)
    server = serializers.UUIDField(required=False, help_text="With a replica on this server.")


class UsageSerializer(serializers.Serializer[Any]):
    servers = serializers.IntegerField()
    servers_online = serializers.IntegerField()
    capacity_bytes = serializers.IntegerField(help_text="Disks of the servers that are online.")
    free_bytes = serializers.IntegerField(help_text="Free on the servers that are online.")
    volumes = serializers.IntegerField()
    used_bytes = serializers.IntegerField(help_text="Held by volume files, all replicas counted.")
    garbage_bytes = serializers.IntegerField(help_text="The part of it that compaction would give back.")
    live_count = serializers.IntegerField(help_text="Live needles, replicas not counted.")
    damaged_count = serializers.IntegerField(help_text="Damaged records known of now, all replicas counted.")
    degraded_volumes = serializers.IntegerField(help_text="With a copy away: they are read, and take no record.")
    copying_volumes = serializers.IntegerField(help_text="Whose copies are being made or brought into line.")
    waiting_volumes = serializers.IntegerField(help_text="Whose copies would be elsewhere if there were room.")
    unreachable_volumes = serializers.IntegerField(
        help_text="That hold something, and no server with a copy of them is online: they can't be read."
    )
