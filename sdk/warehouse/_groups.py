"""Groups: puts, deletes, copies and renames that become visible in one commit, or not at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from warehouse._master import Master, bucket_path
from warehouse._sources import PutSource, open_source
from warehouse._uploads import Uploader
from warehouse.errors import ApiError, Conflict, ConnectionFailed, NotFound, OutcomeUnknown, TransferError
from warehouse.transfer import Progress, TransferConfig
from warehouse.types import ObjectInfo

if TYPE_CHECKING:
    from types import TracebackType

Many = Callable[[Callable[[tuple[str, PutSource]], None], Iterable[tuple[str, PutSource]]], Iterator[None]]
"""Runs a job on each of many pairs, in parallel."""
Attributes = Callable[..., dict[str, Any]]
"""The optional fields of an upload's body, of a key and of what `put` takes."""


class Group:
    """What is done in its `with` block is seen by others all at once, at the end of the block, or never.

    Bytes move when `put` is called, and stay unseen. An exception in the block, or a refusal at its end, leaves the
    bucket as it was, and what was put is thrown away. Operations happen in their order, each on what those before it
    left; up to a thousand are one group.
    """

    objects: Mapping[str, ObjectInfo]
    """After the block: what the keys that were put, copied or renamed to hold (of this bucket), where they hold
    something. Empty before."""

    def __init__(
        self,
        bucket: str,
        *,
        master: Master,
        uploader: Uploader,
        config: TransferConfig,
        attributes: Attributes,
        many: Many,
        stat_many: Callable[[str, Iterable[str]], Iterator[tuple[str, ObjectInfo | None]]],
    ) -> None:
        self.objects = {}
        self._bucket = bucket
        self._master = master
        self._uploader = uploader
        self._config = config
        self._attributes = attributes
        self._many = many
        self._stat_many = stat_many
        self._operations: list[dict[str, Any]] = []
        self._uploads: list[str] = []
        self._targets: dict[str, None] = {}

    def __enter__(self) -> "Group":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if error is not None:
            self._abort()
        elif self._operations:
            self._commit()

    def put(
        self,
        key: str,
        source: PutSource,
        *,
        size: int | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Send an object; as `Client.put`, but that it is not there until the block ends."""
        attributes = self._attributes(
            key, content_type=content_type, metadata=metadata, if_match=if_match, if_none_match=if_none_match
        )
        with ExitStack() as stack:
            opened = open_source(source, size=size, config=self._config, stack=stack)
            upload = self._uploader.hold(self._bucket, key, opened, attributes=attributes, progress=progress)
        self._uploads.append(upload)
        self._add({"op": "upload", "upload": upload}, target=key)

    def put_many(
        self,
        items: Iterable[tuple[str, PutSource]],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Send (key, source) pairs in parallel, as `put` does; the keys must differ."""

        def put(item: tuple[str, PutSource]) -> None:
            self.put(
                *item, content_type=content_type, metadata=metadata, if_none_match=if_none_match, progress=progress
            )

        for _ in self._many(put, items):
            pass

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete an object. None of that key is no error, unless ``if_match`` is given."""
        self._targets.pop(key, None)
        self._add(operation("delete", key=key, if_match=if_match))

    def copy(
        self,
        key: str,
        to: str,
        *,
        to_bucket: str | None = None,
        from_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """As `Client.copy`."""
        told = copy_body(
            key,
            to,
            to_bucket=to_bucket,
            from_if_match=from_if_match,
            if_match=if_match,
            if_none_match=if_none_match,
            content_type=content_type,
            metadata=metadata,
        )
        self._add({"op": "copy", **told}, target=to if to_bucket in (None, self._bucket) else None)

    def rename(
        self,
        key: str,
        to: str,
        *,
        overwrite: bool = False,
        from_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> None:
        """As `Client.rename`."""
        told = rename_body(
            key, to, overwrite=overwrite, from_if_match=from_if_match, if_match=if_match, if_none_match=if_none_match
        )
        self._targets.pop(key, None)
        self._add({"op": "rename", **told}, target=to)

    def _add(self, told: dict[str, Any], *, target: str | None = None) -> None:
        self._operations.append(told)
        if target is not None:
            self._targets[target] = None

    def _commit(self) -> None:
        # With an upload in it a group happens once, however often it is asked for: so a lost answer is asked for again.
        try:
            self._master.call(
                "POST",
                bucket_path(self._bucket, "commits"),
                body={"operations": self._operations},
                repeatable=bool(self._uploads),
            )
        except Conflict as error:
            if error.code != "upload_over" or not self._was_committed():
                self._abort()
                raise
        except ConnectionFailed as error:
            self._abort()
            raise OutcomeUnknown("the master is gone, perhaps after it had carried the group out") from error
        except BaseException:
            # If it was carried out after all, its uploads are over: to abort them changes nothing.
            self._abort()
            raise
        self.objects = {key: info for key, info in self._stat_many(self._bucket, self._targets) if info is not None}

    def _was_committed(self) -> bool:
        """Whether an answer was lost, and the group was carried out: nobody else knows these uploads."""
        try:
            return self._uploader.state(self._uploads[0]) == "completed"
        except NotFound:
            return False

    def _abort(self) -> None:
        """As far as the master answers."""
        with suppress(TransferError):
            for upload in self._uploads:
                with suppress(ApiError):
                    self._uploader.abort(upload)


def operation(op: str, **fields: Any) -> dict[str, Any]:
    """An operation of a group, with the fields that were given."""
    return {"op": op, **given(fields)}


def copy_body(key: str, to: str, *, to_bucket: str | None, **fields: Any) -> dict[str, Any]:
    return {"from": key, "to": to, **given({"bucket": to_bucket, **fields})}


def rename_body(key: str, to: str, **fields: Any) -> dict[str, Any]:
    return {"from": key, "to": to, **given(fields)}


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not said."""
    return {name: value for name, value in fields.items() if value is not None and value is not False}
