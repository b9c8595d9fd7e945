"""The landing page, the root of the API, and the store's health."""

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from keys.api.bodies import NoQuery
from keys.api.schema import raises
from keys.errors import Invalid
from volumes.selectors import count_online_servers
from warehouse_site import openapi


def landing(request: HttpRequest) -> HttpResponse:
    """What this is, and where to go from here."""
    return render(request, "landing.html")


class ApiRoot(APIView):
    """The collections of this API."""

    permission_classes = (AllowAny,)
    NAMES = ("buckets", "shares", "keys", "servers", "volumes", "usage", "health")

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response({name: f"{reverse('api-root', request=request)}/{name}" for name in self.NAMES})


class Schema(APIView):
    """The API as an OpenAPI document, in YAML or JSON."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    renderer_classes = tuple(openapi.RENDERERS.values())

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        media_type = request.accepted_renderer.media_type
        return HttpResponse(openapi.rendered(media_type), content_type=f"{media_type}; charset=utf-8")


class HealthSerializer(serializers.Serializer[dict[str, object]]):
    status = serializers.CharField(help_text="`ok` or `unavailable`")
    database = serializers.CharField(help_text="`ok` or `unavailable`")
    servers_online = serializers.IntegerField(help_text="Volume servers heard of in the last seconds.")


class Health(APIView):
    """Whether the master can work: 200, or 503 when its database does not answer."""

    permission_classes = (AllowAny,)
    authentication_classes = ()

    @extend_schema(responses={200: HealthSerializer, 503: HealthSerializer})
    @raises(Invalid)
    def get(self, request: Request) -> Response:
        NoQuery.require(request)
        try:
            online = count_online_servers()
        except DatabaseError:
            return Response({"status": "unavailable", "database": "unavailable", "servers_online": 0}, status=503)
        return Response({"status": "ok", "database": "ok", "servers_online": online})
