"""The shapes of copies, renames and groups in the API."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from rest_framework import serializers

from buckets import names
from buckets.api.serializers import MetadataField, ObjectSerializer, OnlyNewField
from buckets.services.groups import MAX_OPERATIONS, CommitUpload, Copy, Delete, Operation, Outcome, Rename, Version
from buckets.services.prefixes import RenamedPrefix
from buckets.verdicts import rfc3339
from keys.api.bodies import Body, BoundedList, FlagField, TextField


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """What the caller gave; null is as good as nothing."""
    return {name: value for name, value in fields.items() if value is not None}


class _TargetBody(Body):
    """Of an operation that makes an object: what its target must hold before."""

    if_match = TextField(
        required=False,
        allow_null=True,
        error_of=names.if_match_error,
        help_text="ETags that the target may have; `*`: any.",
    )
    if_none_match = OnlyNewField(
        required=False,
        allow_null=True,
        help_text='`true` or `"*"`: only where there is no object of the target\'s key.',
    )


class _FromTo(_TargetBody):
    to = TextField(error_of=names.key_error)
    from_if_match = TextField(
        required=False,
        allow_null=True,
        error_of=names.if_match_error,
        help_text="ETags that the source may have; `*`: any.",
    )

    def get_fields(self) -> dict[str, Any]:
        # "from" can't be the name of a class's attribute.
        return {"from": TextField(error_of=names.key_error), **super().get_fields()}


class CopySerializer(_FromTo):
    bucket = TextField(
        required=False,
        allow_null=True,
        error_of=names.bucket_name_error,
        help_text="Of the copy; else the source's own.",
    )
    content_type = TextField(
        required=False, allow_null=True, error_of=names.content_type_error, help_text="Instead of the source's."
    )
    metadata = MetadataField(required=False, allow_null=True, help_text="Instead of the source's.")

    def operation(self, given: dict[str, Any]) -> Copy:
        given = _given(given)
        return Copy(given.pop("from"), given.pop("to"), target_bucket=given.pop("bucket", None), **given)


class RenameSerializer(_FromTo):
    overwrite = FlagField(required=False, help_text="Else an object of the new key is an error.")

    def operation(self, given: dict[str, Any]) -> Rename:
        given = _given(given)
        return Rename(given.pop("from"), given.pop("to"), **given)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["from"] == attrs["to"]:
            raise serializers.ValidationError({"to": ["It has this key already."]})
        return attrs


class DeleteSerializer(Body):
    key = TextField(error_of=names.key_error)
    if_match = TextField(
        required=False,
        allow_null=True,
        error_of=names.if_match_error,
        help_text="ETags that the object may have; `*`: any.",
    )

    def operation(self, given: dict[str, Any]) -> Delete:
        return Delete(**_given(given))


class CommitUploadSerializer(_TargetBody):
    upload = serializers.UUIDField()

    def operation(self, given: dict[str, Any]) -> CommitUpload:
        return CommitUpload(**_given(given))


_OPERATIONS: dict[str, type[CopySerializer | RenameSerializer | DeleteSerializer | CommitUploadSerializer]] = {
    "upload": CommitUploadSerializer,
    "delete": DeleteSerializer,
    "copy": CopySerializer,
    "rename": RenameSerializer,
}
_NAMES: dict[type[Operation], str] = {CommitUpload: "upload", Delete: "delete", Copy: "copy", Rename: "rename"}


class OperationSerializer(serializers.Serializer[Any]):
    """One operation: `op`, and the fields of that one alone."""

    op = serializers.ChoiceField(choices=list(_OPERATIONS))
    upload = serializers.UUIDField(required=False, help_text="`upload`: one that is `ready`.")
    key = TextField(required=False, help_text="`delete`.")
    to = TextField(required=False, help_text="`copy`, `rename`.")
    bucket = TextField(required=False, help_text="`copy`: of the copy; else the source's own.")
    overwrite = FlagField(required=False, help_text="`rename`.")
    content_type = TextField(required=False, help_text="`copy`: instead of the source's.")
    metadata = MetadataField(required=False, help_text="`copy`: instead of the source's.")
    from_if_match = TextField(
        required=False, allow_null=True, help_text="`copy`, `rename`: ETags that the source may have."
    )
    if_match = TextField(required=False, allow_null=True, help_text="ETags that the target may have; `*`: any.")
    if_none_match = OnlyNewField(
        required=False, allow_null=True, help_text="Only where there is no object of the target's key."
    )

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": TextField(required=False, help_text="`copy`, `rename`.")}

    @cached_property
    def _bodies(self) -> dict[str, CopySerializer | RenameSerializer | DeleteSerializer | CommitUploadSerializer]:
        """One of each for all operations of a call: to make one takes longer than to use it."""
        return {name: kind() for name, kind in _OPERATIONS.items()}

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)  # which says what is wrong with it
        kind = data.get("op")
        if not isinstance(kind, str) or kind not in _OPERATIONS:
            raise serializers.ValidationError({"op": [f"One of {', '.join(_OPERATIONS)}."]})
        body = self._bodies[kind]
        return body.operation(body.run_validation({name: value for name, value in data.items() if name != "op"}))


class CommitSerializer(Body):
    operations = BoundedList(child=OperationSerializer(), allow_empty=False, max_length=MAX_OPERATIONS)


class CopiesSerializer(Body):
    copies = BoundedList(child=CopySerializer(), allow_empty=False, max_length=MAX_OPERATIONS)


class RenamesSerializer(Body):
    """`renames`, or `prefix` and `to_prefix`."""

    renames = BoundedList(child=RenameSerializer(), allow_empty=False, max_length=MAX_OPERATIONS, required=False)
    prefix = TextField(required=False, allow_blank=True, error_of=lambda text: names.key_error(text) if text else None)
    to_prefix = TextField(
        required=False, allow_blank=True, error_of=lambda text: names.key_error(text) if text else None
    )
    overwrite = FlagField(required=False, help_text="With `prefix`: objects of the new keys, too.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "renames" in attrs:
            if others := attrs.keys() - {"renames"}:
                raise serializers.ValidationError({name: ["Not beside `renames`."] for name in sorted(others)})
        elif missing := {"prefix", "to_prefix"} - attrs.keys():
            raise serializers.ValidationError({name: ["Needed, or `renames`."] for name in sorted(missing)})
        elif attrs["prefix"] == attrs["to_prefix"]:
            raise serializers.ValidationError({"to_prefix": ["This is the prefix that they have."]})
        return attrs


# --- answers ---


class _MovedSerializer(ObjectSerializer):
    key = None  # type: ignore[assignment]
    to = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.CharField(), **super().get_fields()}


class CopiedObjectSerializer(_MovedSerializer):
    bucket = serializers.CharField(help_text="Of the copy.")


class CopiedSerializer(serializers.Serializer[Any]):
    copied = CopiedObjectSerializer(many=True)


class RenamedSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="Objects that got other keys.")
    overwritten = serializers.IntegerField(help_text="Objects that were there before.")
    renamed = _MovedSerializer(many=True, required=False, help_text="Not of a prefix.")


class ResultSerializer(serializers.Serializer[Any]):
    op = serializers.ChoiceField(choices=list(_OPERATIONS))
    upload = serializers.UUIDField(required=False)
    key = serializers.CharField(required=False, help_text="`upload`, `delete`.")
    deleted = serializers.BooleanField(required=False, help_text="`delete`: whether there was an object.")
    to = serializers.CharField(required=False, help_text="`copy`, `rename`.")
    bucket = serializers.CharField(required=False, help_text="`copy`: of the copy.")
    size = serializers.IntegerField(required=False)
    etag = serializers.CharField(required=False)
    content_type = serializers.CharField(required=False)
    metadata = serializers.DictField(child=serializers.CharField(), required=False)
    created_at = serializers.DateTimeField(required=False)
    updated_at = serializers.DateTimeField(required=False)

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": serializers.CharField(required=False, help_text="`copy`, `rename`.")}


class CommittedSerializer(serializers.Serializer[Any]):
    sequence = serializers.IntegerField(help_text="The number of the commit in the store.")
    results = ResultSerializer(many=True, help_text="In the order of the operations.")


def moved(outcome: Outcome) -> dict[str, object]:
    """A copy or a rename."""
    operation, version = outcome.operation, outcome.version
    assert isinstance(operation, Copy | Rename)
    assert version is not None
    where = {"bucket": outcome.bucket} if isinstance(operation, Copy) else {}
    return {"from": operation.source, "to": outcome.key, **where, **_described(version)}


def renamed(outcomes: list[Outcome]) -> dict[str, object]:
    return {
        "count": len(outcomes),
        "overwritten": sum(outcome.existed for outcome in outcomes),
        "renamed": [moved(outcome) for outcome in outcomes],
    }


def renamed_prefix(done: RenamedPrefix) -> dict[str, object]:
    return {"count": done.renamed, "overwritten": done.overwritten}


def result(outcome: Outcome) -> dict[str, object]:
    """What became of an operation of a group."""
    operation, version = outcome.operation, outcome.version
    op: dict[str, object] = {"op": _NAMES[type(operation)]}
    if isinstance(operation, Copy | Rename):
        return op | moved(outcome)
    if isinstance(operation, Delete):
        return op | {"key": outcome.key, "deleted": outcome.existed}
    assert version is not None
    return op | {"upload": str(operation.upload), "key": outcome.key, **_described(version)}


def _described(version: Version) -> dict[str, object]:
    return {
        "size": version.size,
        "etag": version.etag,
        "content_type": version.content_type,
        "metadata": version.metadata,
        "created_at": rfc3339(version.created_at),
        "updated_at": rfc3339(version.updated_at),
    }
