"""A long random life of a bucket, against a dict."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from buckets.errors import (
    KeyInvalid,
    ObjectChanged,
    ObjectExists,
    ObjectUnknown,
    QuotaExceeded,
    UploadIncomplete,
    UploadOver,
)
from buckets.models import Bucket, Object, Upload
from buckets.services.groups import CommitUpload, Copy, Delete, Operation, Rename, commit_group
from buckets.services.objects import delete_objects, update_object
from buckets.services.prefixes import rename_prefix
from buckets.services.uploads import Slots, abort_upload, create_upload
from buckets.verdicts import Committed, Refused, Stored, Verdict
from keys.errors import WarehouseError
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches, require_sound

KEYS = st.sampled_from(["a", "b", "c/d"])
SIZES = st.integers(0, 40)
PREFIXES = st.sampled_from(["", "a", "c/", "c/c/"])
OPERATIONS = st.one_of(
    st.builds(Copy, KEYS, KEYS, if_none_match=st.booleans()),
    st.tuples(KEYS, KEYS, st.booleans())
    .filter(lambda drawn: drawn[0] != drawn[1])
    .map(lambda drawn: Rename(drawn[0], drawn[1], overwrite=drawn[2])),
    st.builds(Delete, KEYS),
    st.integers(0, 9),  # a number of an upload
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("puts"), st.lists(st.tuples(KEYS, SIZES, st.booleans()), min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.sets(KEYS, min_size=1)),
        st.tuples(st.just("change"), KEYS),
        st.tuples(st.just("start"), st.tuples(KEYS, SIZES, st.booleans())),
        st.tuples(st.just("chunk"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
        st.tuples(st.just("abort"), st.integers(0, 9)),
        st.tuples(st.just("repeat"), st.integers(0, 99)),
        st.tuples(st.just("group"), st.lists(OPERATIONS, min_size=1, max_size=5)),
        st.tuples(st.just("prefix"), st.tuples(PREFIXES, PREFIXES, st.booleans())),
        st.tuples(st.just("quota"), st.none() | st.integers(0, 100)),
    ),
    max_size=30,
)


@dataclass
class Sent:
    put: Put
    verdict: Verdict


class MixTests(TestCase):
    @settings(max_examples=60)
    @given(steps=STEPS)
    @override_settings(WAREHOUSE_CHUNK_SIZE=10)
    def test_rows_are_what_was_acknowledged(self, steps: list[tuple[str, Any]]) -> None:
        assert django_settings.WAREHOUSE_CHUNK_SIZE == 10
        forget_caches()
        lab = Lab.make()
        model: dict[str, int] = {}
        sent: list[Sent] = []
        uploads: list[Slots] = []
        for step, value in steps:
            if step == "puts":
                self._put(lab, model, sent, value)
            elif step == "delete":
                deleted = delete_objects(bucket="photos", keys=sorted(value))
                assert set(deleted.deleted) == value & model.keys()
                for key in deleted.deleted:
                    del model[key]
            elif step == "change" and value in model:
                before = Object.objects.get(key=value).etag
                assert update_object(bucket="photos", key=value, metadata={"was": before}).etag != before
            elif step == "start":
                self._start(lab, model, uploads, *value)
            elif step == "chunk" and uploads:
                slots = uploads[value[0] % len(uploads)]
                put = chunk_put(slots.chunks[value[1] % len(slots.chunks)])
                [verdict] = lab.confirm(put)
                sent.append(Sent(put, verdict))
                if isinstance(verdict, Committed) and self._is_new(sent):  # a replay changes nothing
                    model[slots.upload.key] = slots.upload.size
            elif step == "abort" and uploads:
                slots = uploads.pop(value % len(uploads))
                slots.upload.refresh_from_db()
                if slots.upload.is_in_progress:
                    abort_upload(upload_id=slots.upload.pk)
            elif step == "repeat" and sent:
                one = sent[value % len(sent)]
                assert lab.confirm(one.put) == [one.verdict]
            elif step == "group":
                self._commit(model, uploads, value)
            elif step == "prefix" and value[0] != value[1]:
                self._rename_prefix(model, *value)
            elif step == "quota":
                Bucket.objects.update(quota_bytes=value)
            assert dict(Object.objects.values_list("key", "size")) == model
            require_sound(needles=[one.put.needle for one in sent])

    def _commit(self, model: dict[str, int], uploads: list[Slots], drawn: list[Any]) -> None:
        """What a group does to a dict, operation by operation, or what first is wrong with it."""
        operations: list[Operation] = []
        for one in drawn:
            if not isinstance(one, int):
                operations.append(one)
            elif uploads:
                operations.append(CommitUpload(uploads[one % len(uploads)].upload.pk))
        rows = {slots.upload.pk: Upload.objects.get(pk=slots.upload.pk) for slots in uploads}
        left, reserved = dict(model), Bucket.objects.get().reserved_bytes
        expected: type[WarehouseError] | None = None
        for operation in operations:
            expected, reserved = self._carry_out(left, rows, operation, reserved)
            if expected is not None:
                break
        if expected is None:
            commit_group(bucket="photos", operations=operations)
            model.clear()
            model.update(left)
        else:
            with pytest.raises(expected):
                commit_group(bucket="photos", operations=operations)

    @staticmethod
    def _carry_out(
        left: dict[str, int], rows: dict[UUID, Upload], operation: Operation, reserved: int
    ) -> tuple[type[WarehouseError] | None, int]:
        """The error of one operation, and what is reserved after it."""
        quota = Bucket.objects.get().quota_bytes
        if isinstance(operation, Delete):
            left.pop(operation.key, None)
            return None, reserved
        if isinstance(operation, CommitUpload):
            row = rows[operation.upload]
            if row.state != "ready":
                return UploadIncomplete if row.state == "open" else UploadOver, reserved
            reserved -= row.reserved_bytes
            key, size = row.key, row.size
            row.state = "completed"
        else:
            if operation.source not in left:
                return ObjectUnknown, reserved
            key, size = operation.target, left[operation.source]
            if isinstance(operation, Rename):
                if key in left and not operation.overwrite:
                    return ObjectExists, reserved
                left[key] = left.pop(operation.source)
                return None, reserved
            if operation.if_none_match and key in left:
                return ObjectChanged, reserved
        growth = size - left.get(key, 0)
        if quota is not None and growth > 0 and sum(left.values()) + growth + reserved > quota:
            return QuotaExceeded, reserved
        left[key] = size
        return None, reserved

    @staticmethod
    def _rename_prefix(model: dict[str, int], prefix: str, to_prefix: str, overwrite: bool) -> None:
        moved = {key: to_prefix + key[len(prefix) :] for key in model if key.startswith(prefix)}
        taken = set(moved.values()) & (model.keys() - moved.keys())
        try:
            rename_prefix(bucket="photos", prefix=prefix, to_prefix=to_prefix, overwrite=overwrite)
        except ObjectUnknown:
            assert not moved
        except KeyInvalid:
            assert "" in moved.values()
        except ObjectExists:
            assert taken
            assert not overwrite
        else:
            assert overwrite or not taken
            kept = {key: size for key, size in model.items() if key not in moved and key not in taken}
            renamed = {target: model[key] for key, target in moved.items()}
            model.clear()
            model.update(kept | renamed)

    def _start(self, lab: Lab, model: dict[str, int], uploads: list[Slots], key: str, size: int, held: bool) -> None:
        fits = self._fits(model, size - model.get(key, 0))
        try:
            uploads.append(create_upload(bucket="photos", holder=lab.rights, key=key, size=size, held=held))
        except QuotaExceeded:
            assert not fits
        else:
            assert fits

    @staticmethod
    def _fits(model: dict[str, int], growth: int) -> bool:
        bucket = Bucket.objects.get()
        return (
            bucket.quota_bytes is None
            or growth <= 0
            or sum(model.values()) + bucket.reserved_bytes + growth <= bucket.quota_bytes
        )

    def _put(self, lab: Lab, model: dict[str, int], sent: list[Sent], rows: list[tuple[str, int, bool]]) -> None:
        lease = lab.lease(count=len(rows))
        puts = [
            Put(lease.url, lease.first + at, size, key, {"if_none_match": only_new})
            for at, (key, size, only_new) in enumerate(rows)
        ]
        for put, verdict in zip(puts, lab.confirm(*puts), strict=True):
            assert put.key is not None
            if put.fields["if_none_match"] and put.key in model:
                assert isinstance(verdict, Refused)
                assert verdict.code == "precondition_failed"
            elif not self._fits(model, put.size - model.get(put.key, 0)):
                assert isinstance(verdict, Refused)
                assert verdict.code == "quota_exceeded"
            else:
                assert isinstance(verdict, Committed)
                model[put.key] = put.size
            sent.append(Sent(put, verdict))

    @staticmethod
    def _is_new(sent: list[Sent]) -> bool:
        """Whether the last needle was judged for the first time."""
        assert not isinstance(sent[-1].verdict, Stored)
        return all(one.put.needle != sent[-1].put.needle for one in sent[:-1])
