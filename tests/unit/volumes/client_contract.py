"""What the master's client may rely on, as checks that run against the fake volume server and the real one.

Each check takes a server, the number of a volume on it, and a live needle of that volume.
"""

from collections.abc import Callable

import pytest

from tests.support.waiting import wait_until
from volumes import client
from volumes.errors import ServerRefused
from volumes.models import Server
from volumes.reports import Figures, Job

Check = Callable[[Server, int, int], None]


def usage_lists_the_volume(server: Server, volume: int, needle: int) -> None:
    usage = client.usage(server)
    assert (usage.server, usage.instance) == (server.pk, server.instance)
    assert usage.capacity_bytes >= usage.free_bytes > 0
    [figures] = [one for one in usage.volumes if one.volume == volume]
    assert (figures.epoch, figures.is_sealed) == (1, False)


def delete_tells_dead_from_never_there(server: Server, volume: int, needle: int) -> None:
    never = needle + (1 << 40)
    for _ in range(2):  # what is dead already counts as deleted
        result = client.delete_needles(server, volume, [needle, never])
        assert (result.deleted, result.absent) == ({needle}, {never})


def an_unknown_volume_is_refused(server: Server, volume: int, needle: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.seal(server, volume + 999),
        lambda: client.close(server, volume + 999, epoch=2),
        lambda: client.delete_needles(server, volume + 999, [1]),
        lambda: client.compact(server, volume + 999),
        lambda: client.scrub(server, volume + 999),
        lambda: client.damaged(server, volume + 999),
    ]
    for call in calls:
        with pytest.raises(ServerRefused) as caught:
            call()
        assert (caught.value.status, caught.value.refusal) == (404, "volume_unknown")


def another_secret_is_refused(server: Server, volume: int, needle: int) -> None:
    stranger = Server(id=server.pk, kid=server.kid + 1, internal_url=server.internal_url)
    with pytest.raises(ServerRefused) as caught:
        client.usage(stranger)
    assert (caught.value.status, caught.value.refusal) == (401, "signature_invalid")


def probe_says_who_is_there(server: Server, volume: int, needle: int) -> None:
    assert client.probe(server.internal_url) == client.Health(server=server.pk, instance=server.instance)


def upkeep_is_told_in_the_figures(server: Server, volume: int, needle: int) -> None:
    def told() -> Figures:
        [figures] = [one for one in client.usage(server).volumes if one.volume == volume]
        return figures

    scrub = client.scrub(server, volume).scrub
    assert scrub is not None
    assert scrub.state == "running"
    wait_until(lambda: _ended(told().scrub), what="the end of the scrub")
    figures = told()
    assert figures.scrubbed_ms is not None
    assert figures.damaged_count == client.damaged(server, volume).count == 0

    compaction = client.compact(server, volume, rate_bytes=0, drop_before_ms=1, drop_damage=True).compaction
    assert compaction is not None
    wait_until(lambda: _ended(told().compaction), what="the end of the compaction")
    compacted = told()
    assert compacted.compaction is not None
    assert compacted.compaction.state == "done", compacted
    assert compacted.revision == figures.revision + 1
    assert compacted.compaction.reclaimed_bytes == figures.size_bytes - compacted.size_bytes


def _ended(job: Job | None) -> bool:
    return job is not None and job.state != "running"


def a_closed_copy_tells_the_epoch_that_it_is_closed_under(server: Server, volume: int, needle: int) -> None:
    for _ in range(2):  # the same order again changes nothing
        figures = client.close(server, volume, epoch=3)
        assert (figures.volume, figures.epoch, figures.is_sealed) == (volume, 3, False)
        assert figures.replication is not None
        assert (figures.replication.epoch, figures.replication.state) == (3, "closed")
    with pytest.raises(ServerRefused) as caught:
        client.close(server, volume, epoch=2)
    assert (caught.value.status, caught.value.refusal) == (409, "epoch_old")
    [told] = [one for one in client.usage(server).volumes if one.volume == volume]
    assert told.epoch >= 3


def a_sealed_volume_stays_sealed(server: Server, volume: int, needle: int) -> None:
    for _ in range(2):
        figures = client.seal(server, volume)
        assert (figures.volume, figures.is_sealed) == (volume, True)
    [told] = [one for one in client.usage(server).volumes if one.volume == volume]
    assert told.is_sealed


CHECKS: list[Check] = [
    usage_lists_the_volume,
    delete_tells_dead_from_never_there,
    an_unknown_volume_is_refused,
    another_secret_is_refused,
    probe_says_who_is_there,
    upkeep_is_told_in_the_figures,
    a_closed_copy_tells_the_epoch_that_it_is_closed_under,
    a_sealed_volume_stays_sealed,
]
"""In this order they can run on one server: the last one closes the volume."""
