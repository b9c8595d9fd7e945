"""`content`: an object's bytes at one address, for browsers and curl."""

from collections.abc import Iterable

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from buckets.api.serving import redirect_to, whole_or_range
from buckets.api.views import KeyedView
from buckets.errors import ObjectUnknown
from buckets.selectors import find_objects, get_bucket
from buckets.services.downloads import sign_needle, url_expiry
from keys.api import rights
from keys.permissions import Permission


class Whatever(BaseContentNegotiation):
    """The bytes are of the object's type, whatever the client would like; errors are JSON."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class Content(KeyedView):
    """An object's bytes. Of one chunk: a redirect to the volume server. Of several: a stream, also of a range."""

    content_negotiation_class = Whatever

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: OpenApiResponse(description="If-None-Match names this version."),
            307: OpenApiResponse(description="The object has one chunk: Location is a signed URL."),
            416: OpenApiResponse(description="The range lies behind the object's end."),
        }
    )
    def get(self, request: Request, bucket: str, key: str) -> HttpResponseBase:
        reader = rights(request)
        reader.require(Permission.OBJECTS_READ, bucket=bucket, key=key)
        expires_at = url_expiry()
        found = find_objects(bucket_id=get_bucket(bucket).pk, keys=[key]).get(key)
        if found is None:
            raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
        if len(found.chunks) == 1:
            return redirect_to(sign_needle(found, reader=reader, expires_at=expires_at), found)
        return whole_or_range(request, found, reader)
