"""Checks of the whole store that are kept: asked for, carried out by the worker volume by volume, looked at later.

A task that is killed, or runs twice, does no harm: what is done of a check stands in its row, each volume is counted by
a conditional update, and whoever comes next goes on behind the last one.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from buckets.models import Proof
from buckets.services.fsck import MAX_FINDINGS, Checked, Finding, check_counts, check_volume, volumes_to_check
from keys.actions import Action
from keys.services.audit import record

log = logging.getLogger(__name__)

EVERY = timedelta(days=7)
"""How long after the start of the last check of the whole store the next one begins by itself."""
CLAIM = timedelta(minutes=6)
"""A worker that has said nothing for so long is gone, and another one may go on."""
RENEW_S = 30.0
KEPT = 50
"""Checks that are remembered."""
_COUNTED = tuple(kind.value for kind in Proof.Kind)


@dataclass(frozen=True, slots=True)
class Step:
    """What a worker has done of a check."""

    proof: int | None
    volumes: int = 0
    is_done: bool = False


@transaction.atomic
def ask_for_proof(*, deep: bool = False, volume_id: int | None = None) -> Proof:
    """Has the store, or one volume, checked soon. One that is asked for or under way, and as deep, does as well."""
    waiting = Proof.objects.filter(volume=volume_id, deep=deep).exclude(state=Proof.State.DONE).first()
    if waiting is not None:
        return waiting
    proof = Proof.objects.create(deep=deep, volume=volume_id)
    record(Action.STORE_CHECK, target="" if volume_id is None else str(volume_id), deep=deep)
    return proof


def keep_proof(
    *, checked: Checked, started_at: datetime, deep: bool, volume_id: int | None, volume_count: int
) -> Proof:
    """Remembers a check that somebody else has carried out."""
    proof = Proof.objects.create(
        state=Proof.State.DONE,
        deep=deep,
        volume=volume_id,
        asked_at=started_at,
        started_at=started_at,
        ended_at=timezone.now(),
        volume_count=volume_count,
        needle_count=checked.needle_count,
        row_count=checked.row_count,
        findings=[one.as_json() for one in checked.findings],
        **{kind: checked.counts[kind] for kind in _COUNTED},
    )
    _prune()
    return proof


def work_on_proofs(*, seconds: float, now: datetime | None = None) -> Step:
    """Goes on with the check that is asked for or under way, or begins one when that is due; for so long, and to the
    end of the volume that it is at then."""
    now = now or timezone.now()
    proof = _claim(now)
    if proof is None:
        return Step(None)
    ends_s = time.monotonic() + seconds
    done = 0
    try:
        for volume_id in _volumes_of(proof):
            checked = check_volume(volume_id=volume_id, deep=proof.deep, progress=_renewing(proof))
            if not _take(proof, volume_id, checked):
                return Step(proof.pk, done)  # another one is at it
            done += 1
            if time.monotonic() > ends_s:
                return Step(proof.pk, done)
        _finish(proof)
        return Step(proof.pk, done, is_done=True)
    finally:
        Proof.objects.filter(pk=proof.pk, done_to=proof.done_to).update(busy_until=None)


def _claim(now: datetime) -> Proof | None:
    proof = Proof.objects.exclude(state=Proof.State.DONE).order_by("pk").first()
    if proof is None:
        last = Proof.objects.filter(volume=None).order_by("-pk").first()
        if last is not None and (last.started_at or last.asked_at) > now - EVERY:
            return None
        proof = Proof.objects.create()
    free = Q(busy_until=None) | Q(busy_until__lt=timezone.now())
    claimed = Proof.objects.filter(free, pk=proof.pk).exclude(state=Proof.State.DONE)
    if not claimed.update(
        state=Proof.State.RUNNING, started_at=proof.started_at or now, busy_until=timezone.now() + CLAIM
    ):
        return None
    proof.refresh_from_db()
    return proof


def _volumes_of(proof: Proof) -> list[int]:
    volumes = volumes_to_check(after=proof.done_to)
    return volumes if proof.volume is None else [one for one in volumes if one == proof.volume]


def _renewing(proof: Proof) -> Callable[[int, int], None]:
    told_s = time.monotonic()

    def progress(_volume_id: int, _count: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= RENEW_S:
            told_s = time.monotonic()
            Proof.objects.filter(pk=proof.pk).update(busy_until=timezone.now() + CLAIM)

    return progress


def _take(proof: Proof, volume_id: int, checked: Checked) -> bool:
    """Counts a volume; False where somebody else has done that."""
    room = MAX_FINDINGS - len(proof.findings)
    findings = proof.findings + [one.as_json() for one in checked.findings[:room]]
    changed = Proof.objects.filter(pk=proof.pk, done_to=proof.done_to, state=Proof.State.RUNNING).update(
        done_to=volume_id,
        busy_until=timezone.now() + CLAIM,
        volume_count=F("volume_count") + 1,
        needle_count=F("needle_count") + checked.needle_count,
        row_count=F("row_count") + checked.row_count,
        findings=findings,
        **{kind: F(kind) + checked.counts[kind] for kind in _COUNTED},
    )
    if changed:
        proof.done_to, proof.findings = volume_id, findings
        _tell(checked)
    return bool(changed)


def _finish(proof: Proof) -> None:
    checked = check_counts() if proof.volume is None else Checked()
    room = MAX_FINDINGS - len(proof.findings)
    changed = Proof.objects.filter(pk=proof.pk, done_to=proof.done_to, state=Proof.State.RUNNING).update(
        state=Proof.State.DONE,
        ended_at=timezone.now(),
        miscounted=checked.counts[Proof.Kind.MISCOUNTED],
        findings=proof.findings + [one.as_json() for one in checked.findings[:room]],
    )
    if changed:
        _tell(checked)
        _prune()


def _tell(checked: Checked) -> None:
    for finding in checked.findings[:20]:
        _log(finding)
    if not checked.is_sound:
        log.error("check of %s: %s", f"volume {checked.volume}" if checked.volume else "the counts", checked.verdict)


def _log(finding: Finding) -> None:
    log.error("check: %s", finding)


def _prune() -> None:
    kept = list(Proof.objects.order_by("-pk").values_list("pk", flat=True)[KEPT - 1 : KEPT])
    if kept:
        Proof.objects.filter(pk__lt=kept[0]).delete()
