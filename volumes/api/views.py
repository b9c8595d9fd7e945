"""Servers, volumes and usage: reading, for keys with VOLUMES_READ."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys.api import rights
from keys.permissions import Permission
from volumes import selectors
from volumes.api.serializers import (
    ServerListSerializer,
    ServerSerializer,
    UsageSerializer,
    VolumeListSerializer,
    VolumeQuerySerializer,
    VolumeSerializer,
)
from volumes.errors import ServerNotFound, VolumeNotFound


class ReadersView(APIView):
    """A view for those who may see how the store is built."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        rights(request).require(Permission.VOLUMES_READ)


class ServerList(ReadersView):
    """All volume servers, by node."""

    @extend_schema(responses=ServerListSerializer)
    def get(self, request: Request) -> Response:
        return Response({"results": ServerSerializer(selectors.list_servers(), many=True).data})


class ServerDetail(ReadersView):
    """One volume server."""

    @extend_schema(responses=ServerSerializer)
    def get(self, request: Request, server_id: UUID) -> Response:
        server = selectors.list_servers().filter(pk=server_id).first()
        if server is None:
            raise ServerNotFound(f"There is no server {server_id}.")
        return Response(ServerSerializer(server).data)


class VolumeList(ReadersView):
    """Volumes by number, paged."""

    @extend_schema(parameters=[VolumeQuerySerializer], responses=VolumeListSerializer)
    def get(self, request: Request) -> Response:
        query = VolumeQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = query.validated_data
        volumes = selectors.list_volumes().filter(pk__gt=wanted["after"])
        if "state" in wanted:
            volumes = volumes.filter(state=wanted["state"])
        if "server" in wanted:
            volumes = volumes.filter(replicas__server=wanted["server"])
        page = list(volumes[: wanted["limit"] + 1])
        has_more = len(page) > wanted["limit"]
        page = page[: wanted["limit"]]
        return Response(
            {"results": VolumeSerializer(page, many=True).data, "next_after": page[-1].pk if has_more else None}
        )


class VolumeDetail(ReadersView):
    """One volume and its replicas."""

    @extend_schema(responses=VolumeSerializer)
    def get(self, request: Request, volume_id: int) -> Response:
        volume = selectors.list_volumes().filter(pk=volume_id).first()
        if volume is None:
            raise VolumeNotFound(f"There is no volume {volume_id}.")
        return Response(VolumeSerializer(volume).data)


class Usage(ReadersView):
    """Space and counts of the whole store."""

    @extend_schema(responses=UsageSerializer)
    def get(self, request: Request) -> Response:
        return Response(UsageSerializer(selectors.totals()).data)
