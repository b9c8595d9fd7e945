"""A long random life of a bucket, against a dict."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings as django_settings
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from buckets.errors import QuotaExceeded
from buckets.models import Bucket, Object
from buckets.services.objects import delete_objects, update_object
from buckets.services.uploads import Slots, abort_upload, create_upload
from buckets.verdicts import Committed, Refused, Stored, Verdict
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches, require_sound

KEYS = st.sampled_from(["a", "b", "c/d"])
SIZES = st.integers(0, 40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("puts"), st.lists(st.tuples(KEYS, SIZES, st.booleans()), min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.sets(KEYS, min_size=1)),
        st.tuples(st.just("change"), KEYS),
        st.tuples(st.just("start"), st.tuples(KEYS, SIZES, st.booleans())),
        st.tuples(st.just("chunk"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
        st.tuples(st.just("abort"), st.integers(0, 9)),
        st.tuples(st.just("repeat"), st.integers(0, 99)),
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
            elif step == "quota":
                Bucket.objects.update(quota_bytes=value)
            assert dict(Object.objects.values_list("key", "size")) == model
            require_sound()

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
