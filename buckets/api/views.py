"""Buckets, objects, leases, uploads, downloads. Who may is asked before what is there, so that a no tells nothing."""

from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

from django.http import HttpRequest
from django.utils.http import http_date
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from buckets import errors
from buckets.api import serializers as shapes
from buckets.api.preconditions import if_match_of
from buckets.api.serving import NO_STORE
from buckets.errors import KeyInvalid, ObjectUnknown
from buckets.models import Bucket, Object, Upload
from buckets.names import key_error
from buckets.selectors.buckets import get_bucket, list_buckets
from buckets.selectors.listing import list_newest, list_objects, search_objects
from buckets.selectors.objects import TO_ANYBODY, get_object, stat_objects
from buckets.selectors.uploads import get_upload
from buckets.services.buckets import create_bucket, delete_bucket, update_bucket
from buckets.services.deletion import close_bucket
from buckets.services.downloads import sign_downloads
from buckets.services.leases import issue_lease
from buckets.services.objects import delete_objects, update_object
from buckets.services.uploads import abort_upload, create_upload, resume_upload
from buckets.tasks import wake_deletion
from keys.api import rights
from keys.api.schema import raises
from keys.errors import Invalid
from keys.permissions import Permission
from volumes.errors import NO_PLACE


class Buckets(APIView):
    """The buckets that the key may see, by name."""

    @extend_schema(parameters=[shapes.BucketQuerySerializer], responses=shapes.BucketListSerializer)
    def get(self, request: Request) -> Response:
        """The buckets that the key may see, by name."""
        reader = rights(request)
        names = reader.buckets(Permission.BUCKETS_READ)
        if names is not None and not names:
            reader.require(Permission.BUCKETS_READ)
        query = _valid(shapes.BucketQuerySerializer(data=request.query_params))
        limit = query["limit"]
        found = list(list_buckets(names=names, after=query["after"], limit=limit + 1))
        shown = found[:limit]
        next_after = shown[-1].name if len(found) > limit else None
        return Response({"results": shapes.BucketSerializer(shown, many=True).data, "next_after": next_after})

    @extend_schema(request=shapes.BucketSerializer, responses={201: shapes.BucketSerializer})
    @raises(errors.BucketTaken)
    def post(self, request: Request) -> Response:
        """Make a bucket. With `public-read`, OBJECTS_READ and SHARE on it are asked for, too."""
        given = shapes.BucketSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        name = given.validated_data["name"]
        settings = given.validated_settings()
        is_public = settings.visibility == Bucket.Visibility.PUBLIC_READ
        needed = Permission.BUCKETS_WRITE | (TO_ANYBODY if is_public else Permission(0))
        rights(request).require(needed, bucket=name, prefix=True)
        bucket = create_bucket(name=name, settings=settings)
        return Response(shapes.BucketSerializer(bucket).data, status=201)


class BucketDetail(APIView):
    """One bucket: its settings, and what it holds."""

    @extend_schema(responses=shapes.BucketSerializer)
    @raises(errors.BucketUnknown)
    def get(self, request: Request, bucket: str) -> Response:
        """One bucket: its settings, and what it holds."""
        rights(request).require(Permission.BUCKETS_READ, bucket=bucket)
        return Response(shapes.BucketSerializer(get_bucket(bucket, deleting_too=True)).data)

    @extend_schema(request=shapes.BucketChangeSerializer, responses=shapes.BucketSerializer)
    @raises(*errors.NO_BUCKET)
    def patch(self, request: Request, bucket: str) -> Response:
        """Change what is given of a bucket's settings.

        Making it `public-read` asks for OBJECTS_READ and SHARE on the whole bucket, too.
        """
        rights(request).require(Permission.BUCKETS_WRITE, bucket=bucket, prefix=True)
        before = get_bucket(bucket)
        given = shapes.BucketChangeSerializer(before, data=request.data, partial=True)
        given.is_valid(raise_exception=True)
        settings = given.validated_settings()
        if settings.visibility == Bucket.Visibility.PUBLIC_READ != before.visibility:
            rights(request).require(TO_ANYBODY, bucket=bucket, prefix=True)
        changed = update_bucket(name=bucket, settings=settings)
        return Response(shapes.BucketSerializer(changed).data)

    @extend_schema(
        parameters=[shapes.BucketDeleteQuerySerializer], responses={202: shapes.BucketDeletionSerializer, 204: None}
    )
    @raises(*errors.NO_BUCKET, errors.BucketNotEmpty)
    def delete(self, request: Request, bucket: str) -> Response:
        """Delete the bucket, which must be empty; or, with `force`, close it and delete all that is in it (202).

        `force` asks for OBJECTS_DELETE on the whole bucket, too.
        """
        actor = rights(request)
        actor.require(Permission.BUCKETS_DELETE, bucket=bucket, prefix=True)
        if not _valid(shapes.BucketDeleteQuerySerializer(data=request.query_params))["force"]:
            delete_bucket(name=bucket)
            return Response(status=204)
        actor.require(Permission.OBJECTS_DELETE, bucket=bucket, prefix=True)
        closed = close_bucket(name=bucket)
        if closed is None:
            return Response(status=204)
        wake_deletion()
        return Response(shapes.BucketDeletionSerializer(closed).data, status=202)


class Objects(APIView):
    """A bucket's objects, page by page: by key in byte order, or newest first; all, or those that filters let through.

    With a search or filters, and newest first below a prefix, a page looks at a bounded number of objects only, so it
    may be short or empty: go on while `next_after` is not null.
    """

    @extend_schema(parameters=[shapes.ObjectQuerySerializer], responses=shapes.ObjectListSerializer)
    @raises(*errors.NO_BUCKET)
    def get(self, request: Request, bucket: str) -> Response:
        reader = rights(request)
        reader.require(Permission.OBJECTS_READ, bucket=bucket)
        within = reader.prefixes(Permission.OBJECTS_READ, bucket=bucket)
        query = _valid(shapes.ObjectQuerySerializer(data=request.query_params))
        order, delimiter, filters = query.pop("order"), query.pop("delimiter"), query.pop("filters")
        bucket_id = get_bucket(bucket).pk
        if order == "newest":
            page = list_newest(bucket_id=bucket_id, within=within, filters=filters, **query)
        elif filters:
            page = search_objects(bucket_id=bucket_id, within=within, filters=filters, **query)
        else:
            page = list_objects(bucket_id=bucket_id, within=within, delimiter=delimiter, **query)
        return Response(
            {
                "results": [shapes.listed(row) for row in page.objects],
                "prefixes": page.prefixes,
                "next_after": page.next_after,
            }
        )


class KeyedView(APIView):
    """A view of one object, whose key is the rest of the path."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        require_utf8_path(request._request)
        if (problem := key_error(kwargs["key"])) is not None:
            raise KeyInvalid(errors={"key": [problem]})


class ObjectDetail(KeyedView):
    """One object without its bytes."""

    @extend_schema(responses=shapes.ObjectSerializer)
    @raises(*errors.NO_BUCKET, errors.ObjectUnknown, errors.KeyInvalid)
    def get(self, request: Request, bucket: str, key: str) -> Response:
        """One object without its bytes."""
        rights(request).require(Permission.OBJECTS_READ, bucket=bucket, key=key)
        return _object(get_object(bucket=bucket, key=key))

    @extend_schema(
        parameters=[shapes.IF_MATCH], request=shapes.ObjectChangeSerializer, responses=shapes.ObjectSerializer
    )
    @raises(*errors.NO_BUCKET, errors.ObjectUnknown, errors.KeyInvalid, errors.MetadataInvalid, errors.ObjectChanged)
    def patch(self, request: Request, bucket: str, key: str) -> Response:
        """Give the object other attributes, and by that a new ETag.

        `If-Match` is heeded; other conditions are refused.
        """
        rights(request).require(Permission.OBJECTS_WRITE, bucket=bucket, key=key)
        if_match = if_match_of(request)
        before = get_object(bucket=bucket, key=key)
        given = _valid(shapes.ObjectChangeSerializer(before, data=request.data))
        return _object(update_object(bucket=bucket, key=key, if_match=if_match, **given))

    @extend_schema(parameters=[shapes.IF_MATCH], responses={204: None})
    @raises(*errors.NO_BUCKET, errors.ObjectUnknown, errors.KeyInvalid, Invalid, errors.ObjectChanged)
    def delete(self, request: Request, bucket: str, key: str) -> Response:
        """Delete the object. `If-Match` is heeded; other conditions are refused."""
        rights(request).require(Permission.OBJECTS_DELETE, bucket=bucket, key=key)
        if delete_objects(bucket=bucket, keys=[key], if_match=if_match_of(request)).missing:
            raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
        return Response(status=204)


class Leases(APIView):
    """The right to write many small objects, for one call: see docs/protocol.md."""

    @extend_schema(request=shapes.LeaseRequestSerializer, responses={201: shapes.LeaseSerializer})
    @raises(*errors.NO_BUCKET, errors.KeyInvalid, *NO_PLACE)
    def post(self, request: Request, bucket: str) -> Response:
        holder = rights(request)
        holder.require(Permission.OBJECTS_WRITE, bucket=bucket)
        given = _valid(shapes.LeaseRequestSerializer(data=request.data))
        holder.require(Permission.OBJECTS_WRITE, bucket=bucket, key=given["prefix"], prefix=True)
        lease = issue_lease(bucket=bucket, holder=holder, **given)
        return Response(shapes.leased(lease), status=201, headers=NO_STORE)


class Uploads(APIView):
    """Large objects, chunk by chunk."""

    @extend_schema(request=shapes.UploadRequestSerializer, responses={201: shapes.UploadSerializer})
    @raises(
        *errors.NO_BUCKET,
        errors.KeyInvalid,
        errors.MetadataInvalid,
        errors.ObjectChanged,
        errors.ObjectTooLarge,
        errors.QuotaExceeded,
        *NO_PLACE,
    )
    def post(self, request: Request, bucket: str) -> Response:
        holder = rights(request)
        holder.require(Permission.OBJECTS_WRITE, bucket=bucket)
        request_body = shapes.UploadRequestSerializer(data=request.data)
        request_body.is_valid(raise_exception=True)
        given = request_body.validated_options()
        holder.require(Permission.OBJECTS_WRITE, bucket=bucket, key=given["key"])
        slots = create_upload(bucket=bucket, holder=holder, **given)
        return Response(shapes.created_upload(slots), status=201, headers=NO_STORE)


class UploadDetail(APIView):
    """One upload: what it lacks, with fresh URLs."""

    @extend_schema(responses=shapes.UploadStateSerializer)
    @raises(errors.UploadUnknown, errors.BucketDeleting, *NO_PLACE)
    def get(self, request: Request, upload_id: UUID) -> Response:
        """One upload: what it lacks, with fresh URLs."""
        slots = resume_upload(upload=self._upload(request, upload_id), holder=rights(request))
        return Response(shapes.upload_state(slots), headers=NO_STORE)

    @extend_schema(responses={204: None})
    @raises(errors.UploadUnknown, errors.BucketDeleting, errors.UploadOver)
    def delete(self, request: Request, upload_id: UUID) -> Response:
        """Abort the upload; its chunks are gone."""
        abort_upload(upload_id=self._upload(request, upload_id).pk)
        return Response(status=204)

    def _upload(self, request: Request, upload_id: UUID) -> Upload:
        upload = get_upload(upload_id)
        rights(request).require(Permission.OBJECTS_WRITE, bucket=upload.bucket.name, key=upload.key)
        return upload


class Downloads(APIView):
    """Signed URLs for the chunks of many objects; keys that the caller may not read count as missing."""

    @extend_schema(request=shapes.KeysSerializer, responses=shapes.DownloadsSerializer)
    @raises(*errors.NO_BUCKET)
    def post(self, request: Request, bucket: str) -> Response:
        reader = rights(request)
        reader.require(Permission.OBJECTS_READ, bucket=bucket)
        given = _valid(shapes.KeysSerializer(data=request.data))
        found = sign_downloads(bucket=bucket, reader=reader, keys=given["keys"])
        return Response(
            {"objects": [shapes.downloadable(one) for one in found.found], "missing": found.missing},
            headers=NO_STORE,
        )


class StatObjects(APIView):
    """The attributes of many objects, without their bytes; keys that the caller may not read count as missing."""

    @extend_schema(request=shapes.KeysSerializer, responses=shapes.StatSerializer)
    @raises(*errors.NO_BUCKET)
    def post(self, request: Request, bucket: str) -> Response:
        reader = rights(request)
        reader.require(Permission.OBJECTS_READ, bucket=bucket)
        wanted = list(dict.fromkeys(_valid(shapes.KeysSerializer(data=request.data))["keys"]))
        within = reader.prefixes(Permission.OBJECTS_READ, bucket=bucket)
        allowed = wanted if within is None else [key for key in wanted if key.startswith(within)]
        found = stat_objects(bucket_id=get_bucket(bucket).pk, keys=allowed)
        return Response(
            {
                "objects": [shapes.described(found[key]) for key in wanted if key in found],
                "missing": [key for key in wanted if key not in found],
            }
        )


class DeleteObjects(APIView):
    """Delete many objects in one commit: all that there are of them, or, where a right is missing, none."""

    @extend_schema(request=shapes.KeysSerializer, responses=shapes.DeletedSerializer)
    @raises(*errors.NO_BUCKET, errors.TooManyRows)
    def post(self, request: Request, bucket: str) -> Response:
        actor = rights(request)
        actor.require(Permission.OBJECTS_DELETE, bucket=bucket)
        given = _valid(shapes.KeysSerializer(data=request.data))
        for key in given["keys"]:
            actor.require(Permission.OBJECTS_DELETE, bucket=bucket, key=key)
        deleted = delete_objects(bucket=bucket, keys=given["keys"])
        return Response({"deleted": deleted.deleted, "missing": deleted.missing})


def require_utf8_path(request: HttpRequest) -> None:
    """Raises KeyInvalid for a path of bytes that are no UTF-8.

    Django puts `%FF` into the key for a byte FF, which is the key of another object. What came over the wire is only
    known where the server tells it, as gunicorn does.
    """
    try:
        unquote_to_bytes(request.META.get("RAW_URI", "").partition("?")[0]).decode()
    except UnicodeDecodeError:
        raise KeyInvalid(errors={"key": ["The path is not UTF-8."]}) from None


def _object(row: Object) -> Response:
    headers = {"ETag": f'"{row.etag}"', "Last-Modified": http_date(row.updated_at.timestamp())}
    return Response(shapes.described(row), headers=headers)


def _valid(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
