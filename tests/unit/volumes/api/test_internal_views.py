"""Joining, reporting and leaving, as volume servers see it."""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from keys.models import ApiKey, RevokedKey
from tests.unit.volumes.factories import figures, heartbeat_body, make_server, make_volume, register_body
from tests.unit.volumes.fake_server import FakeVolumeServer
from tests.unit.volumes.joining import PREFIX, Joiner, problem
from volume_server.signing import REVOKED_FOR_EVER, TO_MASTER, TO_SERVER, signed_headers
from volumes.api.internal_auth import forget_servers
from volumes.derived_secrets import server_secret
from volumes.models import ForgottenServer, Replica, Server, Store, Volume
from volumes.services.forgetting import forget_server
from volumes.services.placement import pick
from volumes.services.store import current_store, next_sequence, set_cors_origins

pytestmark = pytest.mark.django_db


@pytest.fixture
def joiner() -> Joiner:
    return Joiner()


@pytest.fixture
def joined(joiner: Joiner) -> Joiner:
    joiner.join()
    return joiner


def listed(instructions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures of the volumes that were to be made."""
    return [figures(one["volume"], epoch=one["epoch"]) for one in instructions]


class TestRegister:
    def test_a_new_server_gets_all_it_needs(self, joiner: Joiner) -> None:
        answer = joiner.join()
        store = current_store()
        assert set(answer) == {
            "kid", "secret", "store", "sequence", "now_ms", "settings", "revoked", "instructions",
        }  # fmt: skip
        assert (answer["store"], answer["sequence"]) == (str(store.uuid), 0)
        assert bytes.fromhex(answer["secret"]) == server_secret(joiner.id, answer["kid"])
        server = Server.objects.get(pk=joiner.id)
        assert (server.node, server.status, server.proven) == ("n1", "online", False)
        assert server.public_url == "http://127.0.0.1:8081"

    @pytest.mark.parametrize("token", ["wrong", "", None, 7])
    def test_a_wrong_token(self, joiner: Joiner, token: object) -> None:
        response = joiner.register(token=token)
        assert problem(response)[0] in {400, 403}
        assert not Server.objects.exists()

    def test_a_wrong_token_has_its_own_code(self, joiner: Joiner) -> None:
        assert problem(joiner.register(token="wrong")) == (403, "join_refused")
        assert problem(joiner.register(token="ü")) == (403, "join_refused")

    def test_bad_input_names_the_field_and_leaves_nothing(self, joiner: Joiner) -> None:
        response = joiner.register(public_url="nowhere", capacity_bytes=-1)
        assert problem(response) == (400, "invalid")
        assert set(json.loads(response.content)["errors"]) == {"public_url", "capacity_bytes"}
        assert not Server.objects.exists()

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"server": NaN'])
    def test_a_body_that_is_no_json_object(self, joiner: Joiner, raw: bytes) -> None:
        assert problem(joiner.post("register", raw)) == (400, "invalid")

    def test_only_post(self) -> None:
        assert Client().get(PREFIX + "register").status_code == 405

    def test_again_with_the_token_while_the_secret_was_never_used(self, joiner: Joiner) -> None:
        first = joiner.join()
        again = Joiner(joiner.id, joiner.instance)
        assert again.join()["secret"] == first["secret"]

    def test_the_token_alone_is_refused_once_the_secret_was_used(self, joined: Joiner) -> None:
        joined.beat()
        stranger = Joiner(joined.id, "i-2")
        assert problem(stranger.register()) == (409, "server_known")
        assert Server.objects.get().instance == joined.instance

    def test_a_known_server_signs(self, joined: Joiner) -> None:
        joined.join(public_url="http://elsewhere:1", node="n9")
        server = Server.objects.get()
        assert (server.public_url, server.node, server.proven) == ("http://elsewhere:1", "n9", True)

    def test_a_signature_for_another_id_is_refused(self, joined: Joiner) -> None:
        other = register_body(uuid4(), "i-1")
        assert problem(joined.post("register", other)) == (401, "signature_invalid")

    def test_an_unknown_server_that_signs(self) -> None:
        joiner = Joiner()
        joiner.secret, joiner.kid = server_secret(joiner.id, 1), 1
        assert problem(joiner.register()) == (401, "server_unknown")

    def test_a_forgotten_server_is_refused_however_it_asks(self, joined: Joiner) -> None:
        joined.beat(volumes=[figures(7)])
        Server.objects.update(last_seen_at=None, internal_url="http://127.0.0.1:1")
        forget_server(server_id=joined.id)
        forget_servers()
        assert problem(joined.heartbeat()) == (409, "server_forgotten")
        assert problem(joined.register()) == (409, "server_forgotten")
        with_the_token = Joiner(joined.id, "i-2")
        answer = with_the_token.register()
        assert problem(answer) == (409, "server_forgotten")
        assert "start with an empty one" in answer.json()["detail"]
        assert not Server.objects.exists()
        Joiner(instance="i-3").join()  # an empty directory has a new id

    def test_a_server_that_is_being_forgotten_is_shut_out(self, joined: Joiner) -> None:
        ForgottenServer.objects.create(pk=joined.id, node="n1")
        assert problem(joined.register()) == (409, "server_forgotten")

    def test_back_after_a_clean_stop(self, joined: Joiner) -> None:
        joined.post("deregister", {"server": str(joined.id), "instance": joined.instance})
        assert Server.objects.get().status == "offline"
        joined.instance = "i-2"
        joined.join()
        assert Server.objects.get().status == "online"

    def test_a_clone_is_refused_while_the_first_one_answers(self, fake_server: FakeVolumeServer) -> None:
        first = Joiner(fake_server.id, fake_server.instance)
        first.join(internal_url=fake_server.url)
        clone = Joiner(first.id, "clone")
        clone.secret, clone.kid = first.secret, first.kid
        assert problem(clone.register(internal_url="http://127.0.0.1:1")) == (409, "server_running")
        assert Server.objects.get().instance == first.instance

        fake_server.instance = "clone"  # the old process is gone, and the new one is at its address
        clone.join(internal_url=fake_server.url)
        assert Server.objects.get().instance == "clone"
        assert problem(first.heartbeat()) == (409, "superseded")

    def test_another_server_at_the_old_address_is_no_clone(self, fake_server: FakeVolumeServer) -> None:
        first = Joiner(instance=fake_server.instance)
        first.join(internal_url=fake_server.url)
        first.instance = "i-2"
        first.join()

    def test_the_old_process_is_gone_without_a_word(self, joined: Joiner) -> None:
        joined.join(internal_url="http://127.0.0.1:1")
        joined.instance = "i-2"
        joined.join()
        assert Server.objects.get().instance == "i-2"

    def test_of_two_newcomers_at_once_one_is_refused(self, joined: Joiner, monkeypatch: pytest.MonkeyPatch) -> None:
        def meanwhile(_: str) -> None:
            Server.objects.update(instance="quicker")

        monkeypatch.setattr("volumes.client.probe", meanwhile)
        joined.instance = "i-2"
        assert problem(joined.register()) == (409, "server_running")
        assert Server.objects.get().instance == "quicker"

    def test_a_first_try_that_was_still_under_way_is_no_newcomer(
        self, joined: Joiner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def meanwhile(_: str) -> None:
            Server.objects.update(instance="i-2")

        monkeypatch.setattr("volumes.client.probe", meanwhile)
        joined.instance = "i-2"
        joined.join(node="n9")
        assert Server.objects.get().node == "n9"

    @pytest.mark.parametrize("instance", ["i-1", "quicker"])
    def test_a_first_try_of_a_new_server_that_was_still_under_way(
        self, joiner: Joiner, monkeypatch: pytest.MonkeyPatch, instance: str
    ) -> None:
        def meanwhile() -> Store:
            make_server(id=joiner.id, instance=instance)
            return current_store()

        monkeypatch.setattr("volumes.services.servers.current_store", meanwhile)
        if instance == joiner.instance:
            joiner.join()
        else:
            assert problem(joiner.register()) == (409, "server_running")


class TestFailSafe:
    @pytest.mark.parametrize("call", ["register", "heartbeat"])
    def test_another_store(self, joined: Joiner, call: str) -> None:
        assert problem(getattr(joined, call)(store=str(uuid4()))) == (409, "wrong_store")

    @pytest.mark.parametrize("call", ["register", "heartbeat"])
    def test_a_database_older_than_the_server(self, joined: Joiner, call: str) -> None:
        joined.beat(volumes=listed(joined.beat()["instructions"]))
        assert pick(needed_bytes=1)
        response = getattr(joined, call)(store=str(current_store().uuid), sequence=1)
        assert problem(response) == (409, "master_behind")
        assert current_store().behind_of == 1

    def test_a_server_that_lags_is_fine(self, joined: Joiner) -> None:
        next_sequence()
        assert joined.beat(store=str(current_store().uuid), sequence=0)["sequence"] == 1

    def test_a_stranger_cannot_halt_the_store(self, joiner: Joiner) -> None:
        assert problem(joiner.register(token="wrong", sequence=99)) == (403, "join_refused")
        assert current_store().behind_of is None


class TestSignature:
    @pytest.mark.parametrize(
        "changed",
        [
            {"secret": b"another"},
            {"method": "GET"},
            {"target": PREFIX + "register"},
            {"target": PREFIX + "heartbeat?x=1"},
            {"body": b"{}"},
            {"direction": TO_SERVER},
            {"kid": 2},
        ],
    )
    def test_tampered(self, joined: Joiner, changed: dict[str, Any]) -> None:
        response = joined.post("heartbeat", heartbeat_body(joined.id, joined.instance), **changed)
        assert problem(response) == (401, "signature_invalid")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Warehouse-Server", ""),
            ("Warehouse-Server", "not-a-uuid"),
            ("Warehouse-Kid", "01"),
            ("Warehouse-Kid", "-1"),
            ("Warehouse-Kid", "٣"),
            ("Warehouse-Time", "1e3"),
            ("Warehouse-Time", "9" * 40),
            ("Warehouse-Signature", "0" * 64),
            ("Warehouse-Signature", "ü"),
            ("Warehouse-Signature", ""),
        ],
    )
    def test_malformed_headers(self, joined: Joiner, name: str, value: str) -> None:
        raw = json.dumps(heartbeat_body(joined.id, joined.instance)).encode()
        assert joined.secret is not None
        headers = signed_headers(
            joined.secret, kid=joined.kid, direction=TO_MASTER, method="POST", target=PREFIX + "heartbeat",
            body=raw, server=str(joined.id), time_ms=int(timezone.now().timestamp() * 1000),
        )  # fmt: skip
        response = joined.post("heartbeat", raw, headers=headers | {name: value})
        assert problem(response) == (401, "signature_invalid")

    def test_unsigned(self, joined: Joiner) -> None:
        for path in ("heartbeat", "deregister"):
            response = joined.post(path, heartbeat_body(joined.id, joined.instance), headers={})
            assert problem(response) == (401, "signature_invalid")

    def test_in_the_name_of_another_server(self, joined: Joiner) -> None:
        other = make_server()
        for path in ("heartbeat", "deregister"):
            response = joined.post(path, heartbeat_body(other.pk, other.instance))
            assert problem(response) == (401, "signature_invalid")
        other.refresh_from_db()
        assert other.status == "online"

    @pytest.mark.parametrize("offset_ms", [-61_000, 61_000])
    def test_outside_the_time_window_the_clock_is_told(self, joined: Joiner, offset_ms: int) -> None:
        joined.offset_ms = offset_ms
        response = joined.heartbeat()
        assert problem(response) == (401, "clock_skew")
        now_ms = json.loads(response.content)["now_ms"]
        assert abs(now_ms - timezone.now().timestamp() * 1000) < 30_000

    @pytest.mark.parametrize("offset_ms", [-55_000, 55_000])
    def test_inside_the_time_window(self, joined: Joiner, offset_ms: int) -> None:
        joined.offset_ms = offset_ms
        joined.beat()

    def test_the_clock_is_told_to_no_stranger(self, joined: Joiner) -> None:
        joined.offset_ms, joined.secret = 100_000, b"guessed"
        response = joined.heartbeat()
        assert problem(response) == (401, "signature_invalid")
        assert b"now_ms" not in response.content


class TestHeartbeat:
    def test_figures_are_kept(self, joined: Joiner) -> None:
        made = joined.beat()["instructions"]
        volumes = listed(made)
        volumes[0] |= {"size_bytes": 5000, "garbage_bytes": 10, "live_count": 3, "tombstone_count": 1, "revision": 2}
        joined.beat(volumes=volumes, capacity_bytes=1000, free_bytes=600, disk="d1")
        server = Server.objects.get()
        assert (server.capacity_bytes, server.free_bytes, server.disk) == (1000, 600, "d1")
        assert server.used_bytes == 5000 + sum(one["size_bytes"] for one in volumes[1:])
        replica = Replica.objects.get(volume=volumes[0]["volume"])
        assert (replica.size_bytes, replica.garbage_bytes, replica.live_count) == (5000, 10, 3)
        assert (replica.tombstone_count, replica.revision, replica.state) == (1, 2, "open")

    def test_volumes_are_made_ahead_of_need_once(self, joiner: Joiner, settings: Settings) -> None:
        settings.WAREHOUSE_WRITABLE_VOLUMES = 3
        made = joiner.join()["instructions"]
        assert len({one["volume"] for one in made}) == 3
        assert len({one["salt"] for one in made}) == 3
        assert all(one["do"] == "create" and len(one["salt"]) == 32 and one["epoch"] == 1 for one in made)
        assert joiner.beat()["instructions"] == made  # until the server lists them
        assert joiner.beat(volumes=listed(made[:1]))["instructions"] == made[1:]
        assert joiner.beat(volumes=listed(made))["instructions"] == []
        assert set(Volume.objects.values_list("state", flat=True)) == {"writable"}
        assert Volume.objects.count() == 3

    def test_a_volume_too_small_for_a_chunk_gets_a_helper(self, joined: Joiner, settings: Settings) -> None:
        volumes = joined.beat()["instructions"]
        nearly_full = settings.WAREHOUSE_VOLUME_SIZE - settings.WAREHOUSE_CHUNK_SIZE
        told = [figures(one["volume"], size_bytes=nearly_full) for one in volumes]
        assert len(joined.beat(volumes=told)["instructions"]) == len(volumes)
        assert set(
            Volume.objects.filter(pk__in=[one["volume"] for one in volumes]).values_list("state", flat=True)
        ) == {"writable"}

    def test_a_full_volume_gets_a_successor(self, joined: Joiner, settings: Settings) -> None:
        volumes = listed(joined.beat()["instructions"])
        volumes[0]["size_bytes"] = settings.WAREHOUSE_VOLUME_SIZE
        [successor] = joined.beat(volumes=volumes)["instructions"]
        assert Volume.objects.get(pk=volumes[0]["volume"]).state == "full"
        assert successor["volume"] > max(one["volume"] for one in volumes)

    def test_a_compacted_volume_is_writable_again(self, joined: Joiner, settings: Settings) -> None:
        volumes = listed(joined.beat()["instructions"])
        volumes[0]["size_bytes"] = settings.WAREHOUSE_VOLUME_SIZE
        joined.beat(volumes=volumes)
        volumes[0] |= {"size_bytes": 9000, "revision": 1}
        joined.beat(volumes=volumes)
        assert Volume.objects.get(pk=volumes[0]["volume"]).state == "writable"

    def test_a_sealed_volume_is_replaced_and_stays_sealed(self, joined: Joiner) -> None:
        volumes = listed(joined.beat()["instructions"])
        volumes[0]["state"] = "sealed"
        assert len(joined.beat(volumes=volumes)["instructions"]) == 1
        volumes[0]["state"] = "open"
        joined.beat(volumes=volumes)
        assert Volume.objects.get(pk=volumes[0]["volume"]).state == "sealed"

    @pytest.mark.parametrize("admin_state", ["draining", "maintenance"])
    def test_no_volumes_for_a_server_that_is_to_leave(self, joiner: Joiner, admin_state: str) -> None:
        server = make_server(id=joiner.id, admin_state=admin_state, proven=False, stopped_at=timezone.now())
        assert joiner.join()["instructions"] == []
        server.refresh_from_db()
        assert server.admin_state == admin_state

    def test_no_volumes_for_a_full_disk(self, joiner: Joiner) -> None:
        assert joiner.join(capacity_bytes=1000, free_bytes=10)["instructions"] == []
        assert len(joiner.beat(capacity_bytes=1000, free_bytes=11)["instructions"]) == 2

    def test_a_volume_that_is_gone_is_missing_and_never_made_anew(
        self, joined: Joiner, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = joined.beat()["instructions"]
        joined.beat(volumes=listed(made))
        gone, kept = listed(made)
        answer = joined.beat(volumes=[kept])
        assert gone["volume"] not in {one["volume"] for one in answer["instructions"]}
        assert Replica.objects.get(volume=gone["volume"]).state == "missing"
        assert f"no longer lists volume {gone['volume']}" in caplog.text
        for _ in range(20):
            assert pick(needed_bytes=1)[0].volume_id == kept["volume"]
        joined.beat(volumes=[gone, kept])
        assert Replica.objects.get(volume=gone["volume"]).state == "open"

    def test_volumes_of_others_are_told_and_not_used(self, joined: Joiner, caplog: pytest.LogCaptureFixture) -> None:
        foreign = make_volume(make_server())
        unknown = 4_000_000_000
        with caplog.at_level(logging.WARNING):
            joined.beat(volumes=[figures(foreign.pk, live_count=99), figures(unknown)])
        server = Server.objects.get(pk=joined.id)
        assert server.stray_volumes == [foreign.pk, unknown]
        assert "not assigned" in caplog.text
        assert foreign.replicas.get().live_count == 0
        assert not Volume.objects.filter(pk=unknown).exists()
        joined.beat()
        server.refresh_from_db()
        assert server.stray_volumes == []

    def test_damage_is_reported(self, joined: Joiner, caplog: pytest.LogCaptureFixture) -> None:
        volumes = listed(joined.beat()["instructions"])
        volumes[0]["damaged_count"] = 2
        joined.beat(volumes=volumes)
        assert "2 damaged records" in caplog.text

    def test_after_good_bye_a_late_heartbeat_brings_nobody_back(self, joined: Joiner) -> None:
        body = {"server": str(joined.id), "instance": joined.instance}
        assert joined.post("deregister", body).status_code == 200
        assert joined.post("deregister", body).status_code == 200
        assert problem(joined.heartbeat()) == (409, "superseded")
        assert Server.objects.get().status == "offline"

    def test_good_bye_of_an_earlier_instance_is_no_news(self, joined: Joiner) -> None:
        joined.post("deregister", {"server": str(joined.id), "instance": "i-0"})
        assert Server.objects.get().status == "online"

    def test_settings(self, joined: Joiner, settings: Settings) -> None:
        settings.WAREHOUSE_PUBLIC_URL = "https://store.example.org"
        set_cors_origins(origins=["https://app.example.org", "https://store.example.org"])
        assert joined.beat()["settings"] == {
            "cors_origins": ["https://store.example.org", "https://app.example.org"],
            "volume_size": settings.WAREHOUSE_VOLUME_SIZE,
        }

    def test_revoked_keys_are_told(self, joined: Joiner) -> None:
        weakened = ApiKey.objects.create(name="weakened", secret_hash="0" * 64, generation=3)
        ApiKey.objects.create(name="untouched", secret_hash="0" * 64)
        long_ago = timezone.now() - timedelta(days=3)
        ApiKey.objects.create(name="long ago", secret_hash="0" * 64, generation=2, generation_at=long_ago)
        RevokedKey.objects.create(key_id=77)
        assert joined.beat()["revoked"] == {str(weakened.pk): 3, "77": REVOKED_FOR_EVER}

    @pytest.mark.parametrize("count", [2, 40])
    def test_statements_do_not_grow_with_the_volumes(
        self, joined: Joiner, count: int, settings: Settings, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        settings.WAREHOUSE_WRITABLE_VOLUMES = count
        volumes = listed(joined.beat()["instructions"])
        joined.beat(volumes=volumes)
        # Who signs, the store; savepoint, the server, its volumes, the server's row, savepoint; three for the keys.
        with django_assert_num_queries(10):
            joined.beat(volumes=volumes)
        for one in volumes:
            one["size_bytes"] += 1000
        with django_assert_num_queries(11):  # and one update
            joined.beat(volumes=volumes)


@pytest.fixture(autouse=True)
def _logs_are_caught(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield
