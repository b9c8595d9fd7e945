"""`content`: an object's bytes at one address, for browsers and curl."""

from collections.abc import Iterable
from typing import Any

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from buckets import errors
from buckets.api.serving import redirect_to, whole_or_range
from buckets.api.views import KeyedView
from buckets.errors import ObjectUnknown
from buckets.selectors.buckets import get_bucket, is_public
from buckets.selectors.objects import find_objects
from buckets.services.downloads import sign_needle, url_expiry
from keys.api import rights
from keys.api.schema import raises
from keys.permissions import Permission
from keys.rights import KeyRights, public_reader


class Whatever(BaseContentNegotiation):
    """The bytes are of the object's type, whatever the client would like; errors are JSON."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class SignedInOrPublic(IsAuthenticated):
    """Whoever signed in, and of public buckets anybody. Of all others the answer is one and the same 401, whether there
    is such a bucket or not."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return super().has_permission(request, view) or (
            request.method in ("GET", "HEAD") and is_public(view.kwargs["bucket"])
        )


class Content(KeyedView):
    """An object's bytes. Of one chunk: a redirect to the volume server. Of several: a stream, also of a range.

    Without a token: of buckets with the visibility `public-read`.
    """

    content_negotiation_class = Whatever
    permission_classes = (SignedInOrPublic,)

    @extend_schema(
        auth=[{"accessToken": []}, {"cookieAuth": []}, {}],  # type: ignore[list-item]  # the document's form
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: OpenApiResponse(description="If-None-Match names this version."),
            307: OpenApiResponse(description="The object has one chunk: Location is a signed URL."),
        },
    )
    @raises(
        *errors.NO_BUCKET,
        errors.ObjectUnknown,
        errors.KeyInvalid,
        errors.ObjectChanged,
        errors.RangeUnsatisfiable,
        errors.NeedleUnreadable,
        errors.Busy,
    )
    def get(self, request: Request, bucket: str, key: str) -> HttpResponseBase:
        reader = _reader(request, bucket, key)
        expires_at = url_expiry()
        found = find_objects(bucket_id=get_bucket(bucket).pk, keys=[key]).get(key)
        if found is None:
            raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
        if len(found.chunks) == 1:
            return redirect_to(sign_needle(found, reader=reader, expires_at=expires_at), found)
        return whole_or_range(request, found, reader)


def _reader(request: Request, bucket: str, key: str) -> KeyRights:
    """On whose behalf the object is read. Raises PermissionDenied, TokenRefused."""
    reader = rights(request) if request.user.is_authenticated else public_reader(bucket)
    if not reader.allows(Permission.OBJECTS_READ, bucket=bucket, key=key) and is_public(bucket):
        return public_reader(bucket)  # a key that may do less than anybody
    reader.require(Permission.OBJECTS_READ, bucket=bucket, key=key)
    return reader
