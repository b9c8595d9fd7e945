"""What the master decides about copies, and what it orders; with servers that report as real ones do."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from tests.unit.volumes.factories import GIB, figures
from tests.unit.volumes.joining import Joiner, problem
from volume_server.signing import replica_ticket
from volumes.derived_secrets import server_secret
from volumes.errors import NoRoom, NoServers, VolumeDegraded
from volumes.models import Replica, Server, Volume
from volumes.selectors import open_primaries_of
from volumes.services.forgetting import forget_server
from volumes.services.placement import forget_table, pick
from volumes.services.redundancy import (
    close_volume,
    is_given_up,
    mend_volumes,
    note_silence,
    set_replication,
)
from volumes.services.servers import set_admin_state
from volumes.services.states import seal_volume
from volumes.services.store import current_store, note_behind, set_replications

pytestmark = pytest.mark.django_db


class Node:
    """A volume server that does as it is told, and tells what it has done in its next report."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.held: dict[int, dict[str, Any]] = {}
        self.refuses_to_open = False
        self.free_bytes = 50 * GIB
        self.joiner = Joiner(instance=name)
        port = 30000 + len(cluster.nodes)
        self.url = f"http://127.0.0.1:{port}"
        self.obey(self.joiner.join(node=name, internal_url=self.url, public_url=self.url))

    @property
    def id(self) -> UUID:
        return self.joiner.id

    @property
    def row(self) -> Server:
        return Server.objects.get(pk=self.id)

    def beat(self) -> list[dict[str, Any]]:
        answer = self.joiner.beat(volumes=list(self.held.values()), free_bytes=self.free_bytes)
        self.obey(answer)
        instructions: list[dict[str, Any]] = answer["instructions"]
        return instructions

    def obey(self, answer: dict[str, Any]) -> None:
        for order in answer["instructions"]:
            getattr(self, "_" + order["do"])(order)

    def _create(self, order: dict[str, Any]) -> None:
        self.held.setdefault(order["volume"], figures(order["volume"], epoch=order["epoch"]))

    def _open(self, order: dict[str, Any]) -> None:
        own, epoch = self.held[order["volume"]], order["epoch"]
        peers = []
        for told in order["peers"]:
            [peer] = [one for one in self.cluster.nodes if str(one.id) == told["server"]]
            assert told["url"] == peer.url
            assert told["ticket"] == replica_ticket(
                server_secret(peer.id, told["kid"]), volume=order["volume"], epoch=epoch, primary=str(self.id)
            )
            state = "lost" if self.refuses_to_open or peer.name in self.cluster.dead else "whole"
            peers.append({"server": told["server"], "state": state, "done_bytes": 1, "total_bytes": 1})
            if state == "whole":
                peer.held[order["volume"]] = {
                    **own,
                    "epoch": epoch,
                    "replication": {"role": "secondary", "epoch": epoch, "state": "open", "detail": ""},
                }
        state = "open" if all(one["state"] == "whole" for one in peers) else "degraded"
        own["epoch"] = epoch
        own["replication"] = {"role": "primary", "epoch": epoch, "state": state, "peers": peers, "detail": ""}

    def _close(self, order: dict[str, Any]) -> None:
        own = self.held[order["volume"]]
        own["epoch"] = order["epoch"]
        own["replication"] = {"role": "secondary", "epoch": order["epoch"], "state": "closed", "detail": ""}

    def _drop(self, order: dict[str, Any]) -> None:
        del self.held[order["volume"]]

    def restart(self) -> None:
        """As a process that was started anew reports."""
        self.cluster.dead.discard(self.name)
        for own in self.held.values():
            if own.get("replication") and own["replication"].get("peers") != []:
                own["replication"] = {**own["replication"], "state": "degraded", "peers": []}


class Cluster:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.dead: set[str] = set()
        self.now = timezone.now()

    def add(self, *names: str) -> list[Node]:
        for name in names:
            self.nodes.append(Node(self, name))
        return self.nodes[-len(names) :]

    def settle(self, rounds: int = 8) -> None:
        """Reports of all that live, and the worker's looks, with time passing in between."""
        for _ in range(rounds):
            self.now += timedelta(seconds=3)
            for node in self.nodes:
                if node.name not in self.dead:
                    node.beat()
            mend_volumes(now=self.now)
        forget_table()

    def kill(self, *nodes: Node) -> None:
        for node in nodes:
            self.dead.add(node.name)
            Server.objects.filter(pk=node.id).update(last_seen_at=self.now - timedelta(seconds=11))


@pytest.fixture
def cluster(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    settings.WAREHOUSE_REREPLICATE_SECONDS = 9
    current_store()
    set_replications(replications=[1, 2])
    made = Cluster()
    monkeypatch.setattr(timezone, "now", lambda: made.now)
    return made


def doubles() -> list[Volume]:
    return list(Volume.objects.filter(replication=2))


def holders(volume: Volume) -> set[UUID]:
    return set(Replica.objects.filter(volume=volume).values_list("server_id", flat=True))


def nodes_of(volume: Volume) -> list[str]:
    return sorted(Replica.objects.filter(volume=volume).values_list("server__node", flat=True))


def states() -> set[str]:
    return {volume.redundancy for volume in doubles()}


def test_volumes_of_two_copies_are_made_on_two_nodes_and_opened(cluster: Cluster) -> None:
    cluster.add("a", "b", "c")
    cluster.settle()
    assert states() == {"whole"}
    for volume in doubles():
        assert len(set(nodes_of(volume))) == 2
        assert volume.opened_epoch == volume.epoch == 2
        assert {one.whole_epoch for one in volume.replicas.all()} == {2}
    made_on = {volume.replicas.get(role="primary").server.node for volume in doubles()}
    assert made_on == {"a", "b", "c"}
    target = pick(needed_bytes=10, replication=2)[0]
    assert Volume.objects.get(pk=target.volume_id).replication == 2
    assert Volume.objects.get(pk=pick(needed_bytes=10)[0].volume_id).replication == 1


def test_a_lost_node_leaves_volumes_that_it_has_no_part_in(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    cluster.kill(a)
    forget_table()
    for _ in range(20):
        target = pick(needed_bytes=10, replication=2)[0]
        assert a.id not in holders(Volume.objects.get(pk=target.volume_id))


def test_never_two_copies_on_one_node(cluster: Cluster) -> None:
    cluster.add("a", "a")
    cluster.settle()
    assert doubles() == []
    with pytest.raises(NoRoom, match="2 different nodes"):
        pick(needed_bytes=10, replication=2)
    assert pick(needed_bytes=10)


def test_a_node_that_is_only_away_is_no_lack_of_nodes(cluster: Cluster) -> None:
    a, _ = cluster.add("a", "b")
    cluster.settle()
    cluster.kill(a)
    forget_table()
    with pytest.raises(NoServers, match="of 2, 1 are online"):
        pick(needed_bytes=10, replication=2)


def test_a_server_that_was_started_anew_is_opened_under_a_new_epoch(cluster: Cluster) -> None:
    a, _ = cluster.add("a", "b")
    cluster.settle()
    before = {volume.pk: volume.epoch for volume in doubles()}
    a.restart()
    a.beat()
    assert {volume.redundancy for volume in doubles() if volume.pk in before} == {"degraded"}
    assert open_primaries_of(before) == {}
    forget_table()
    with pytest.raises(NoServers):
        pick(needed_bytes=10, replication=2)
    cluster.settle()
    assert states() == {"whole"}
    assert all(volume.epoch > before[volume.pk] for volume in doubles() if volume.pk in before)
    assert set(open_primaries_of(before)) == set(before)


def test_while_a_copy_is_away_nothing_is_opened(cluster: Cluster, settings: Settings) -> None:
    settings.WAREHOUSE_REREPLICATE_SECONDS = 10_000
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    before = {volume.pk: (volume.epoch, holders(volume)) for volume in doubles()}
    cluster.kill(a)
    cluster.settle()
    for volume in doubles():
        if volume.pk in before and a.id in holders(volume):
            assert (volume.redundancy, volume.epoch) == ("degraded", before[volume.pk][0])
            assert "is away" in volume.redundancy_note
        if volume.pk in before:
            assert holders(volume) == before[volume.pk][1]


def test_what_was_lost_is_copied_to_another_node_and_dropped_at_its_return(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    had = set(a.held)
    cluster.kill(a)
    cluster.settle()
    assert states() == {"whole"}
    assert all(a.id not in holders(volume) for volume in doubles())
    for volume in doubles():
        assert volume.replicas.get(role="primary").server.node in {"b", "c"}
    a.restart()
    cluster.settle()
    doubles_of_a = {volume.pk for volume in doubles()} & had
    assert doubles_of_a
    left = {number for number in a.held if number in doubles_of_a and a.id not in holders(Volume(pk=number))}
    assert left == set()


def test_no_copy_is_dropped_that_is_newer_than_what_this_database_knows(cluster: Cluster) -> None:
    cluster.add("a", "b")
    cluster.settle()
    stray = next(iter(doubles()))
    c = cluster.add("c")[0]
    c.held[stray.pk] = figures(stray.pk, epoch=stray.epoch + 1)
    c.held[4_000_000_000] = figures(4_000_000_000)
    cluster.settle()
    assert {stray.pk, 4_000_000_000} <= set(c.held)
    c.held[stray.pk]["epoch"] = 1
    cluster.settle()
    assert stray.pk not in c.held
    assert 4_000_000_000 in c.held


def test_a_drop_says_in_which_epoch_the_copy_is_needless(cluster: Cluster) -> None:
    """So that one that comes late does not take a copy that is needed again."""
    cluster.add("a", "b")
    cluster.settle()
    volume = next(iter(doubles()))
    c = cluster.add("c")[0]
    told = {"role": "secondary", "epoch": volume.epoch + 1, "state": "degraded", "peers": [], "detail": ""}
    c.held[volume.pk] = figures(volume.pk, epoch=1, replication=told)
    assert [order for order in c.beat() if order["do"] == "drop"] == []  # it knows of a later epoch
    told["epoch"] = volume.epoch
    orders = [order for order in c.beat() if order["do"] == "drop"]
    assert orders == [{"do": "drop", "volume": volume.pk, "epoch": volume.opened_epoch}]


def test_a_report_from_before_the_volume_was_open_closes_nothing(cluster: Cluster) -> None:
    cluster.add("a", "b")
    cluster.settle()
    volume = next(iter(doubles()))
    peer = next(node for node in cluster.nodes if node.id != volume.replicas.get(role="primary").server_id)
    now = peer.held[volume.pk]["replication"]
    for state, redundancy in (("opening", "whole"), ("degraded", "degraded")):
        peer.held[volume.pk]["replication"] = {**now, "state": state}
        peer.beat()
        volume.refresh_from_db()
        assert volume.redundancy == redundancy


@pytest.mark.parametrize("admin_state", ["active", "maintenance", "draining"])
def test_a_volume_that_is_being_made_does_not_wait_for_a_server_that_is_away(
    cluster: Cluster, admin_state: str
) -> None:  # fmt: skip
    a, b, _ = cluster.add("a", "b", "c")
    a.beat()
    made = [volume for volume in doubles() if holders(volume) == {a.id, b.id}]
    assert {volume.redundancy for volume in made} == {"making"}
    set_admin_state(server_id=b.id, admin_state=admin_state)
    cluster.kill(b)
    cluster.settle(rounds=6)
    assert made
    for volume in made:
        volume.refresh_from_db()
        assert volume.redundancy == "whole"
        assert nodes_of(volume) == ["a", "c"]


def test_of_whole_copies_the_one_with_the_least_damage_opens(cluster: Cluster) -> None:
    cluster.add("a", "b")
    cluster.settle()
    volume = next(iter(doubles()))
    primary = volume.replicas.get(role="primary").server.node
    for node in cluster.nodes:
        node.held[volume.pk]["damaged_count"] = 2 if node.name == primary else 1
        node.restart()
    cluster.settle()
    volume.refresh_from_db()
    assert volume.redundancy == "whole"
    assert volume.replicas.get(role="primary").server.node != primary


def test_a_volume_in_which_a_scrub_found_damage_is_opened_anew_at_once_and_once(cluster: Cluster) -> None:
    """An opening mends what one copy has sound; what none has is not tried again with every look."""
    cluster.add("a", "b")
    cluster.settle()
    volume = next(iter(doubles()))
    node = cluster.nodes[0]

    def opened_after(damaged_count: int, *, scrubbed: bool = True) -> int:
        node.held[volume.pk]["damaged_count"] = damaged_count
        if scrubbed:
            node.held[volume.pk]["scrubbed_ms"] = int(cluster.now.timestamp() * 1000) + 1000
        cluster.now += timedelta(seconds=2)
        cluster.settle()
        volume.refresh_from_db()
        assert volume.redundancy == "whole"
        return volume.epoch

    assert volume.epoch == 2
    assert opened_after(1, scrubbed=False) == 2, "a scrub tells what else there is"
    assert opened_after(1) == 3, "it was opened just now, and not for this damage"
    assert opened_after(0, scrubbed=False) == 3
    assert opened_after(1) == 3, "what could not be mended is found again"
    assert opened_after(2) == 4
    assert opened_after(0) == 4, "mended"
    assert opened_after(1) == 5, "it is another one"
    cluster.now += timedelta(days=2)
    assert opened_after(1, scrubbed=False) == 5, "no scrub has found anything since"
    assert opened_after(1) == 6, "after a day it is worth another try"


def test_without_room_elsewhere_it_waits_and_says_why(cluster: Cluster) -> None:
    a, _ = cluster.add("a", "b")
    cluster.settle()
    before = {volume.pk: holders(volume) for volume in doubles()}
    cluster.kill(a)
    cluster.settle()
    assert {volume.redundancy for volume in doubles() if volume.pk in before} == {"degraded"}
    assert all(holders(volume) == before[volume.pk] for volume in doubles() if volume.pk in before)
    assert "no server on another node has room" in doubles()[0].redundancy_note
    epochs = {volume.epoch for volume in doubles()}
    cluster.settle()
    assert {volume.epoch for volume in doubles()} == epochs  # it is not opened again and again for nothing
    a.restart()
    cluster.settle()
    assert states() == {"whole"}


def test_an_opening_that_fails_is_tried_again(cluster: Cluster) -> None:
    a, b = cluster.add("a", "b")
    a.refuses_to_open = b.refuses_to_open = True
    cluster.settle(rounds=7)
    assert "whole" not in states()
    assert max(volume.epoch for volume in doubles()) > 2
    a.refuses_to_open = b.refuses_to_open = False
    cluster.settle()
    assert states() == {"whole"}


def test_a_drained_server_is_emptied_its_single_copies_too(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    set_admin_state(server_id=a.id, admin_state="draining")
    cluster.settle(rounds=40)
    assert not Replica.objects.filter(server=a.id).exists()
    assert a.held == {}
    assert set(Volume.objects.values_list("redundancy", flat=True)) == {"whole"}
    for volume in Volume.objects.all():
        assert volume.replicas.count() == volume.replication
        assert volume.replicas.filter(role="primary").count() == 1


def test_a_drained_server_keeps_what_fits_nowhere_until_there_is_room(cluster: Cluster) -> None:
    a, b, c = cluster.add("a", "b", "c")
    cluster.settle()
    for node in (b, c):
        node.free_bytes = 0
    before = set(a.held)
    set_admin_state(server_id=a.id, admin_state="draining")
    cluster.settle(rounds=5)
    assert set(a.held) == before
    for volume in Volume.objects.filter(replicas__server=a.id):
        assert "no server on another node has room" in volume.redundancy_note
        assert volume.redundancy == "whole", "it is used on meanwhile"
    for node in (b, c):
        node.free_bytes = 50 * GIB
    cluster.settle(rounds=20)
    assert a.held == {}
    assert set(Volume.objects.values_list("redundancy", "redundancy_note")) == {("whole", "")}


def test_a_server_that_dies_while_it_is_drained_is_given_up_at_once_but_for_its_single_copies(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    singles = set(Volume.objects.filter(replication=1, replicas__server=a.id).values_list("pk", flat=True))
    assert singles
    set_admin_state(server_id=a.id, admin_state="draining")
    cluster.kill(a)
    cluster.settle(rounds=10)
    assert states() == {"whole"}
    assert set(Replica.objects.filter(server=a.id).values_list("volume", flat=True)) == singles
    a.restart()
    cluster.settle(rounds=20)
    assert not Replica.objects.filter(server=a.id).exists()
    assert a.held == {}
    for volume in Volume.objects.all():
        assert (volume.replicas.count(), volume.redundancy) == (volume.replication, "whole")


def test_a_drain_that_is_called_off_leaves_no_copy_too_many(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    set_admin_state(server_id=a.id, admin_state="draining")
    cluster.settle(rounds=2)
    set_admin_state(server_id=a.id, admin_state="active")
    cluster.settle(rounds=20)
    for volume in Volume.objects.all():
        assert (volume.replicas.count(), volume.redundancy) == (volume.replication, "whole")


def test_nothing_is_copied_for_a_server_in_maintenance(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    before = {volume.pk: holders(volume) for volume in doubles()}
    set_admin_state(server_id=a.id, admin_state="maintenance")
    cluster.kill(a)
    cluster.settle(rounds=20)
    assert all(holders(volume) == before[volume.pk] for volume in doubles() if volume.pk in before)
    assert a.row.status == "maintenance"
    a.restart()
    cluster.settle()
    assert states() == {"whole"}


def test_a_master_that_heard_nobody_gives_nobody_up(cluster: Cluster) -> None:
    a, b, c = cluster.add("a", "b", "c")
    cluster.settle()
    before = {volume.pk: holders(volume) for volume in doubles()}
    cluster.kill(a, b, c)
    for _ in range(20):
        cluster.now += timedelta(seconds=3)
        mend_volumes(now=cluster.now)
    cluster.dead = {"a"}  # the others are heard first
    b.restart()
    c.restart()
    cluster.settle(rounds=2)
    assert a.row.silent_seconds < 9
    assert all(holders(volume) == before[volume.pk] for volume in doubles() if volume.pk in before)
    # And a worker that was stopped for an hour counts none of it.
    cluster.now += timedelta(hours=1)
    Server.objects.exclude(pk=a.id).update(last_seen_at=cluster.now)
    silent = a.row.silent_seconds
    note_silence(now=cluster.now)
    assert a.row.silent_seconds == silent
    assert not is_given_up(a.row, now=cluster.now)


def test_replication_is_raised_and_lowered(cluster: Cluster) -> None:
    cluster.add("a", "b")
    cluster.settle()
    volume = Volume.objects.filter(replication=1).first()
    assert volume is not None
    assert set_replication(volume_ids=[volume.pk], replication=2) == 1
    assert set_replication(volume_ids=[volume.pk], replication=2) == 0
    cluster.settle()
    volume.refresh_from_db()
    assert (volume.redundancy, nodes_of(volume)) == ("whole", ["a", "b"])
    set_replication(volume_ids=[volume.pk], replication=1)
    cluster.settle()
    volume.refresh_from_db()
    assert (volume.redundancy, volume.replicas.count(), volume.unsettled) == ("whole", 1, False)
    assert sum(volume.pk in node.held for node in cluster.nodes) == 1


def test_a_copy_that_is_not_known_to_have_everything_is_no_truth(cluster: Cluster) -> None:
    """Neither one that was away at the last opening, nor a directory that was put back from a backup."""
    a, b, _ = cluster.add("a", "b", "c")
    cluster.settle()
    volume = next(one for one in doubles() if holders(one) == {a.id, b.id})
    late = Replica.objects.get(volume=volume, server=a.id)
    for changed in ({"whole_epoch": late.whole_epoch - 1}, {"epoch": late.epoch - 1}, {"state": "missing"}):
        row = Replica.objects.get(pk=late.pk)
        for name, value in changed.items():
            setattr(row, name, value)
        assert late.has_all_of(volume)
        assert not row.has_all_of(volume)
    Replica.objects.filter(pk=late.pk).update(whole_epoch=1)
    cluster.kill(b)
    cluster.settle()
    volume.refresh_from_db()
    assert volume.redundancy == "degraded"
    assert b.id in holders(volume)


def test_a_copy_on_a_failed_disk_is_made_anew_elsewhere(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    volume = next(one for one in doubles() if a.id in holders(one))
    a.held[volume.pk]["state"] = "sealed"
    cluster.settle()
    volume.refresh_from_db()
    assert (volume.state, volume.redundancy) == ("writable", "whole")
    assert nodes_of(volume) == ["b", "c"]


def test_a_sealed_volume_keeps_its_copies(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    volume = next(one for one in doubles() if a.id in holders(one))
    epoch = volume.epoch
    seal_volume(volume_id=volume.pk)
    cluster.kill(a)
    cluster.settle()
    volume.refresh_from_db()
    assert (volume.state, volume.redundancy, nodes_of(volume)) == ("sealed", "whole", ["b", "c"])
    assert volume.epoch > epoch  # leases of before are worth nothing


def test_a_closed_volume_is_opened_when_its_compaction_is_over(cluster: Cluster) -> None:
    cluster.add("a", "b")
    cluster.settle()
    volume = doubles()[0]
    assert close_volume(volume_id=volume.pk) == volume.epoch + 1
    assert close_volume(volume_id=volume.pk) is None
    Volume.objects.filter(pk=volume.pk).update(redundancy_changed_at=cluster.now)
    cluster.settle(rounds=2)
    volume.refresh_from_db()
    assert volume.redundancy == "closed"
    cluster.settle(rounds=12)  # it never began, so it is not waited for
    volume.refresh_from_db()
    assert volume.redundancy == "whole"


def test_what_is_degraded_is_not_closed(cluster: Cluster) -> None:
    a, _ = cluster.add("a", "b")
    cluster.settle()
    cluster.kill(a)
    with pytest.raises(VolumeDegraded):
        close_volume(volume_id=doubles()[0].pk)


def test_an_old_database_moves_nothing(cluster: Cluster) -> None:
    a, _, _ = cluster.add("a", "b", "c")
    cluster.settle()
    cluster.kill(a)
    before = list(Volume.objects.values_list("pk", "epoch"))
    note_behind(seen_sequence=10**9)
    cluster.now += timedelta(seconds=30)
    assert mend_volumes(now=cluster.now).looked_at == 0
    assert list(Volume.objects.values_list("pk", "epoch")) == before


def test_looking_at_volumes_that_are_well_costs_the_same_however_many_there_are(
    cluster: Cluster, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    cluster.add("a", "b", "c")
    cluster.settle()
    with django_assert_num_queries(7):
        assert mend_volumes(now=cluster.now).looked_at == 0


def test_restarts_do_not_pile_up_volumes(cluster: Cluster) -> None:
    a, b = cluster.add("a", "b")
    cluster.settle()
    before = len(doubles())
    for _ in range(5):
        a.restart()
        b.restart()
        cluster.settle(rounds=4)
    assert len(doubles()) <= before + 4


def test_a_full_server_gets_no_copy(cluster: Cluster) -> None:
    a, _, c = cluster.add("a", "b", "c")
    cluster.settle()
    Server.objects.filter(pk=c.id).update(free_bytes=0)
    cluster.kill(a)
    volume = next(one for one in doubles() if a.id in holders(one) and c.id not in holders(one))
    for _ in range(6):
        cluster.now += timedelta(seconds=3)
        Server.objects.exclude(pk=a.id).update(last_seen_at=cluster.now)
        mend_volumes()
    assert c.id not in holders(volume)
    Server.objects.filter(pk=c.id).update(free_bytes=50 * GIB)
    cluster.settle()
    assert c.id in holders(volume)


def test_the_copies_of_a_forgotten_server_are_made_anew_at_once(cluster: Cluster, settings: Settings) -> None:
    settings.WAREHOUSE_REREPLICATE_SECONDS = 10**6
    a, b, c = cluster.add("a", "b", "c")
    cluster.settle()
    held = [volume.pk for volume in doubles() if a.id in holders(volume)]
    assert held
    cluster.kill(a)
    cluster.settle()
    assert a.id in holders(Volume.objects.get(pk=held[0])), "it may come back"
    forget_server(server_id=a.id)
    cluster.settle(20)
    for volume in doubles():
        assert (volume.redundancy, volume.unsettled, holders(volume)) == ("whole", False, {b.id, c.id})
    assert all(volume.replicas.filter(role="primary").count() == 1 for volume in Volume.objects.all())
    assert pick(needed_bytes=10, replication=2)
    assert pick(needed_bytes=10)
    a.held = {}
    assert problem(a.joiner.heartbeat())[1] == "server_forgotten"
