"""Changes of a volume's state. Which are allowed stands in `Volume.TRANSITIONS`, as data."""

import logging

from django.db import transaction
from django.utils import timezone

from keys.actions import Action, Outcome
from keys.services.audit import record
from volumes import client
from volumes.errors import IllegalTransition, VolumeNotFound, VolumeServerError
from volumes.models import Replica, Volume
from volumes.services import placement
from volumes.services.redundancy import end_epoch

log = logging.getLogger(__name__)


def move_volume(*, volume_id: int, to: str) -> None:
    """Brings a volume into another state. Raises IllegalTransition when it is in none that leads there.

    One conditional UPDATE that must hit exactly one row, so of two callers at once one is told.
    """
    sources = [state for state, targets in Volume.TRANSITIONS.items() if to in targets]
    moved = Volume.objects.filter(pk=volume_id, state__in=sources).update(state=to, state_changed_at=timezone.now())
    if moved != 1:
        raise IllegalTransition(f"Volume {volume_id} is in no state that leads to {to!r}.")
    log.info("volume %d is %s now", volume_id, to)
    transaction.on_commit(placement.forget_table)


def seal_volume(*, volume_id: int) -> None:
    """Closes a volume to writes for good; its needles stay readable.

    The server seals first: once that is durable nothing can be appended, whatever becomes of the row.
    Raises VolumeNotFound, IllegalTransition (it is sealed), VolumeServerError.
    """
    replica = (
        Replica.objects.select_related("server", "volume").filter(volume=volume_id, role=Replica.Role.PRIMARY).first()
    )
    if replica is None:
        raise VolumeNotFound(f"There is no volume {volume_id}.")
    if replica.volume.redundancy != Volume.Redundancy.WHOLE or replica.volume.replicas.count() > 1:
        # Its copies may have to be made elsewhere later, which a sealed file does not take part in. So it is sealed
        # by there being no lease on it any more: those that there are end with its epoch.
        with transaction.atomic():
            move_volume(volume_id=volume_id, to=Volume.State.SEALED)
            end_epoch(volume_id=volume_id)
            record(Action.VOLUME_SEAL, target=str(volume_id))
        return
    if Volume.State.SEALED not in Volume.TRANSITIONS[replica.volume.state]:
        raise IllegalTransition(f"Volume {volume_id} is {replica.volume.state}.")
    try:
        client.seal(replica.server, volume_id)
    except VolumeServerError as error:
        record(Action.VOLUME_SEAL, target=str(volume_id), outcome=Outcome.FAILED, code=error.code)
        raise
    with transaction.atomic():
        move_volume(volume_id=volume_id, to=Volume.State.SEALED)
        record(Action.VOLUME_SEAL, target=str(volume_id))
