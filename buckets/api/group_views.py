"""Copies, renames and groups of changes. Whoever may not do all of it is told so before anything is looked at."""

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from buckets import errors
from buckets.api import group_serializers as shapes
from buckets.selectors.objects import TO_LEAVE
from buckets.selectors.uploads import upload_keys
from buckets.services.groups import CommitUpload, Copy, Delete, Operation, commit_group, numbered
from buckets.services.prefixes import rename_prefix
from keys.api import rights
from keys.api.schema import raises
from keys.permissions import Permission
from keys.rights import KeyRights


class CopyObjects(APIView):
    """Copy objects, to other buckets too, all or none of them. No bytes move: copies share them."""

    @extend_schema(request=shapes.CopiesSerializer, responses=shapes.CopiedSerializer)
    @raises(errors.BucketUnknown, errors.ObjectUnknown, errors.ObjectChanged, errors.QuotaExceeded, errors.TooManyRows)
    def post(self, request: Request, bucket: str) -> Response:
        actor = rights(request)
        actor.require(Permission.OBJECTS_READ, bucket=bucket)
        body = _valid(shapes.CopiesSerializer(data=request.data))
        operation = shapes.CopySerializer().operation
        operations = [operation(given) for given in body["copies"]]
        _require_rights(actor, bucket, operations)
        done = commit_group(bucket=bucket, operations=operations)
        return Response({"copied": [shapes.moved(outcome) for outcome in done.outcomes]})


class RenameObjects(APIView):
    """Rename objects, one by one or all below a prefix, all or none of them."""

    @extend_schema(request=shapes.RenamesSerializer, responses=shapes.RenamedSerializer)
    @raises(errors.BucketUnknown, errors.ObjectUnknown, errors.ObjectExists, errors.ObjectChanged, errors.TooManyRows)
    def post(self, request: Request, bucket: str) -> Response:
        actor = rights(request)
        actor.require(TO_LEAVE, bucket=bucket)
        body = _valid(shapes.RenamesSerializer(data=request.data))
        if "renames" in body:
            operation = shapes.RenameSerializer().operation
            operations = [operation(given) for given in body["renames"]]
            _require_rights(actor, bucket, operations)
            return Response(shapes.renamed(commit_group(bucket=bucket, operations=operations).outcomes))
        actor.require(TO_LEAVE, bucket=bucket, key=body["prefix"], prefix=True)
        actor.require(Permission.OBJECTS_WRITE, bucket=bucket, key=body["to_prefix"], prefix=True)
        return Response(shapes.renamed_prefix(rename_prefix(bucket=bucket, **body)))


class Commits(APIView):
    """Make finished uploads, deletes, copies and renames visible in one commit, all or none of them.

    Each operation is judged against what those before it left; what is refused tells its `index`.
    """

    @extend_schema(request=shapes.CommitSerializer, responses=shapes.CommittedSerializer)
    @raises(
        errors.BucketUnknown,
        errors.ObjectUnknown,
        errors.ObjectExists,
        errors.ObjectChanged,
        errors.UploadUnknown,
        errors.UploadIncomplete,
        errors.UploadOver,
        errors.QuotaExceeded,
        errors.TooManyRows,
    )
    def post(self, request: Request, bucket: str) -> Response:
        actor = rights(request)
        # Each operation asks for one of them, here.
        actor.require_any(Permission.OBJECTS_READ, Permission.OBJECTS_WRITE, Permission.OBJECTS_DELETE, bucket=bucket)
        operations: list[Operation] = _valid(shapes.CommitSerializer(data=request.data))["operations"]
        _require_rights(actor, bucket, operations)
        done = commit_group(bucket=bucket, operations=operations)
        return Response({"sequence": done.sequence, "results": [shapes.result(outcome) for outcome in done.outcomes]})


def _require_rights(actor: KeyRights, bucket: str, operations: Sequence[Operation]) -> None:
    """Raises PermissionDenied, with the index of the operation."""
    uploads = [operation.upload for operation in operations if isinstance(operation, CommitUpload)]
    keys = upload_keys(bucket=bucket, uploads=uploads) if uploads else {}
    for at, operation in enumerate(operations):
        with numbered(at):
            if isinstance(operation, CommitUpload):
                # Of an upload that there is not, the commit tells.
                actor.require(Permission.OBJECTS_WRITE, bucket=bucket, key=keys.get(operation.upload))
            elif isinstance(operation, Delete):
                actor.require(Permission.OBJECTS_DELETE, bucket=bucket, key=operation.key)
            elif isinstance(operation, Copy):
                actor.require(Permission.OBJECTS_READ, bucket=bucket, key=operation.source)
                target = bucket if operation.target_bucket is None else operation.target_bucket
                actor.require(Permission.OBJECTS_WRITE, bucket=target, key=operation.target)
            else:
                actor.require(TO_LEAVE, bucket=bucket, key=operation.source)
                actor.require(Permission.OBJECTS_WRITE, bucket=bucket, key=operation.target)


def _valid(body: Any) -> dict[str, Any]:
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)
