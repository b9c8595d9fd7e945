"""Servers and volumes: reading for keys with VOLUMES_READ, upkeep for those with VOLUMES_MANAGE."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys.api import rights
from keys.api.bodies import NoQuery
from keys.api.schema import raises
from keys.errors import Invalid
from keys.permissions import Permission
from volumes import selectors
from volumes.api.serializers import (
    CompactSerializer,
    ServerListSerializer,
    ServerSerializer,
    ServerUpdateSerializer,
    VolumeListSerializer,
    VolumeQuerySerializer,
    VolumeSerializer,
)
from volumes.errors import (
    SERVER_TROUBLE,
    AdminStateConflict,
    CompactionNeedsSpace,
    LeasesHalted,
    ServerAlive,
    ServerNeeded,
    ServerNotFound,
    VolumeDegraded,
    VolumeNotFound,
    VolumeSealed,
)
from volumes.services.forgetting import forget_server
from volumes.services.servers import set_admin_state
from volumes.services.upkeep import scrub_copies, start_compaction


class ReadersView(APIView):
    """A view for those who may see how the store is built."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        rights(request).require(Permission.VOLUMES_READ)


class ManagersView(APIView):
    """A view for those who may have work done on volumes."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        rights(request).require(Permission.VOLUMES_MANAGE)


class ServerList(ReadersView):
    """All volume servers, by node."""

    @extend_schema(responses=ServerListSerializer)
    @raises(Invalid)
    def get(self, request: Request) -> Response:
        NoQuery.require(request)
        return Response({"results": ServerSerializer(selectors.list_servers(), many=True).data})


class ServerDetail(APIView):
    """One volume server."""

    @extend_schema(responses=ServerSerializer)
    @raises(ServerNotFound)
    def get(self, request: Request, server_id: UUID) -> Response:
        rights(request).require(Permission.VOLUMES_READ)
        server = selectors.list_servers().filter(pk=server_id).first()
        if server is None:
            raise ServerNotFound(f"There is no server {server_id}.")
        return Response(ServerSerializer(server).data)

    @extend_schema(request=ServerUpdateSerializer, responses=ServerSerializer)
    @raises(ServerNotFound, AdminStateConflict)
    def patch(self, request: Request, server_id: UUID) -> Response:
        """Have a server emptied (`draining`), say that it will be silent (`maintenance`), or put it back (`active`).

        Of draining and maintenance neither takes the other's place: 409 `admin_state_conflict` until it is `active`.
        """
        rights(request).require(Permission.VOLUMES_MANAGE)
        given = ServerUpdateSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        set_admin_state(server_id=server_id, admin_state=given.validated_data["admin_state"])
        return Response(ServerSerializer(selectors.list_servers().get(pk=server_id)).data)

    @extend_schema(responses={204: None})
    @raises(ServerNotFound, ServerAlive, ServerNeeded, LeasesHalted)
    def delete(self, request: Request, server_id: UUID) -> Response:
        """Take a server that is gone for good off the books. It is never let in again under its id.

        Its copies are made anew from others; what it alone had, and that no object names, is given up. Refused with 409
        `server_alive` while it is heard, and `server_needed` while objects or open uploads lie there alone.
        """
        rights(request).require(Permission.VOLUMES_MANAGE)
        forget_server(server_id=server_id)
        return Response(status=204)


class VolumeList(ReadersView):
    """Volumes by number, paged."""

    @extend_schema(parameters=[VolumeQuerySerializer], responses=VolumeListSerializer)
    def get(self, request: Request) -> Response:
        query = VolumeQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = dict(query.validated_data)
        limit = wanted.pop("limit")
        page = list(selectors.find_volumes(**wanted)[: limit + 1])
        has_more = len(page) > limit
        page = page[:limit]
        return Response(
            {"results": VolumeSerializer(page, many=True).data, "next_after": page[-1].pk if has_more else None}
        )


class VolumeDetail(ReadersView):
    """One volume and its replicas."""

    @extend_schema(responses=VolumeSerializer)
    @raises(VolumeNotFound)
    def get(self, request: Request, volume_id: int) -> Response:
        return _volume(volume_id)


class VolumeCompact(ManagersView):
    """Compaction of one volume: its live needles move to a new file, which takes the old one's place.

    Reads, writes and deletes go on meanwhile. The answer comes at once; how far it is stands in the replica's
    `compaction`. Refused with 507 `disk_full` where the new file would not fit beside the old one.
    A volume of several copies takes no record meanwhile, and is refused with 409 `volume_degraded` while one is away.
    """

    @extend_schema(request=CompactSerializer, responses={202: VolumeSerializer})
    @raises(VolumeNotFound, *SERVER_TROUBLE, VolumeSealed, VolumeDegraded, CompactionNeedsSpace, LeasesHalted)
    def post(self, request: Request, volume_id: int) -> Response:
        given = CompactSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        start_compaction(volume_id=volume_id, **given.validated_data)
        return _volume(volume_id, status=202)


class VolumeScrub(ManagersView):
    """Scrub of one volume: every record of each of its copies is read and checked.

    The answer comes at once; how far it is stands in the replicas' `scrub`, what it found in their `damaged_count`.
    """

    @extend_schema(request=None, responses={202: VolumeSerializer})
    @raises(VolumeNotFound, *SERVER_TROUBLE)
    def post(self, request: Request, volume_id: int) -> Response:
        scrub_copies(volume_id=volume_id)
        return _volume(volume_id, status=202)


def _volume(volume_id: int, *, status: int = 200) -> Response:
    volume = selectors.list_volumes().filter(pk=volume_id).first()
    if volume is None:
        raise VolumeNotFound(f"There is no volume {volume_id}.")
    return Response(VolumeSerializer(volume).data, status=status)
