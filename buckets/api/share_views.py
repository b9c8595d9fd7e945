"""Shares: a link to one object, for whoever has it. What a link then does is `buckets.web.shares`."""

from django.conf import settings
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from buckets import errors
from buckets.api import share_serializers as shapes
from buckets.api.serving import NO_STORE
from buckets.models import Share
from buckets.selectors.objects import TO_SHARE
from buckets.selectors.shares import ask_makers, list_shares, require_share, require_sharer
from buckets.services.shares import create_share, revoke_share, update_share
from keys.api import rights
from keys.api.schema import raises
from keys.permissions import Permission
from keys.rights import KeyRights


class Shares(APIView):
    """The shares that the key has made, by id; with ADMIN those of all keys."""

    @extend_schema(parameters=[shapes.ShareQuerySerializer], responses=shapes.ShareListSerializer)
    def get(self, request: Request) -> Response:
        maker = _maker(request)
        query = shapes.ShareQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = query.validated_data
        limit = wanted.pop("limit")
        api_key = None if maker.allows(Permission.ADMIN) else maker.id
        found = ask_makers(list_shares(api_key=api_key, limit=limit + 1, **wanted))
        next_after = found[limit - 1].pk if len(found) > limit else None
        return Response(shapes.ShareListSerializer({"results": found[:limit], "next_after": next_after}).data)

    @extend_schema(request=shapes.ShareSerializer, responses={201: shapes.NewShareSerializer})
    @raises(*errors.NO_BUCKET, errors.ObjectUnknown, errors.KeyInvalid, errors.Busy)
    def post(self, request: Request) -> Response:
        """Make a share of an object. The answer shows its link, once: only a hash of it is kept.

        Needs SHARE and OBJECTS_READ on the object, and each use of the link asks again whether this key has them.
        """
        maker = _maker(request)
        given = shapes.ShareSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        terms = dict(given.validated_data)
        bucket, key = terms.pop("bucket")["name"], terms.pop("key")
        maker.require(TO_SHARE, bucket=bucket, key=key)
        new = create_share(maker=maker, maker_name=str(request.user), bucket=bucket, key=key, **terms)
        url = settings.WAREHOUSE_PUBLIC_URL + reverse("share", args=[new.token])
        return Response({**shapes.ShareSerializer(new.share).data, "url": url}, status=201, headers=NO_STORE)


class ShareDetail(APIView):
    """One share, of one's own or with ADMIN any."""

    @extend_schema(responses=shapes.ShareSerializer)
    @raises(errors.ShareUnknown)
    def get(self, request: Request, share_id: int) -> Response:
        """One share, of one's own or with ADMIN any."""
        return Response(shapes.ShareSerializer(_share(request, share_id)).data)

    @extend_schema(request=shapes.ShareChangeSerializer, responses=shapes.ShareSerializer)
    @raises(errors.ShareUnknown, errors.ShareRevoked, errors.Busy)
    def patch(self, request: Request, share_id: int) -> Response:
        """Give the share another end, limit, description or password; a revoked one stays revoked."""
        share = _share(request, share_id)
        rights(request).require(TO_SHARE, bucket=share.bucket.name, key=share.key)
        given = shapes.ShareChangeSerializer(share, data=request.data, partial=True)
        given.is_valid(raise_exception=True)
        [changed] = ask_makers([update_share(share_id=share_id, **given.validated_data)])
        return Response(shapes.ShareSerializer(changed).data)

    @extend_schema(responses={204: None})
    @raises(errors.ShareUnknown)
    def delete(self, request: Request, share_id: int) -> Response:
        """Revoke the share: its link has ended. It stays in the list, with its count."""
        revoke_share(share_id=_share(request, share_id).pk)
        return Response(status=204)


def _maker(request: Request) -> KeyRights:
    """The rights of who asks. Raises PermissionDenied for a key that may share nowhere."""
    maker = rights(request)
    require_sharer(maker)
    return maker


def _share(request: Request, share_id: int) -> Share:
    """One share, of one's own or with ADMIN any."""
    return require_share(share_id, actor=rights(request))
