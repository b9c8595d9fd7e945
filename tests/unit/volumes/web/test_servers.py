"""Servers in the web UI: what is shown to whom, and what an operator may wish of them."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from keys.permissions import Permission
from tests.unit.volumes.factories import make_server, make_volume
from tests.unit.volumes.web.conftest import sign_in, text_of
from volumes.models import ForgottenServer, Server

pytestmark = pytest.mark.django_db

HOSTILE = "<img src=x>&\u202e"


def wish(client: Client, server: Server, what: str) -> str:
    """What the server is to be after that."""
    answer = client.post(reverse("server-wish", args=[server.pk]), {"wish": what, "back": "/servers"})
    assert answer.status_code in (303, 403)
    server.refresh_from_db()
    return server.admin_state


def test_the_list_says_how_each_server_is(reader: Client) -> None:
    assert "No server has joined yet" in text_of(reader, "servers")
    up = make_server(node=HOSTILE, capacity_bytes=10**12, free_bytes=4 * 10**11)
    make_volume(up, replica={"size_bytes": 3 * 10**9, "garbage_bytes": 10**9, "damaged_count": 3})
    up.traffic = {"instance": "x", "told": {}, "total": {"sent_bytes": 7 * 10**6, "received_bytes": 1}}
    up.save()
    down = make_server(node="down", last_seen_at=None)
    page = text_of(reader, "servers")
    for shown in ("&lt;img src=x&gt;", "online", "offline", "3 damaged", "400 GB free of 1.0 TB", "7.0 MB", "never"):
        assert shown in page, shown
    assert "<img src=x>" not in page
    assert "has not been heard since it joined" in text_of(reader, "server", down.pk)


def test_a_page_of_many_servers_asks_as_much_as_one_of_few(reader: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(60):
        make_volume(make_server(node=f"n{number:02}"))
    with django_assert_max_num_queries(8):
        first = text_of(reader, "servers")
    assert "Page 1 of 2" in first
    assert "n49 " in first
    assert "n50 " not in first
    assert "n59 " in reader.get("/servers?page=2").content.decode()


def test_who_may_not_see_servers_sees_none(client: Client) -> None:
    server = make_server()
    assert client.get("/servers").headers["Location"].startswith("/sign-in")
    sign_in(client, Permission.ADMIN - 1 - Permission.VOLUMES_READ)
    for name, args in (("servers", []), ("server", [server.pk]), ("volumes", [])):
        assert client.get(reverse(name, args=args)).status_code == 403, name


def test_who_may_only_look_is_offered_nothing_and_changes_nothing(reader: Client) -> None:
    server = make_server(last_seen_at=None)
    page = text_of(reader, "server", server.pk)
    assert "Drain" not in page
    assert "Forget" not in page
    assert wish(reader, server, "drain") == "active"
    assert reader.get(reverse("server-forget", args=[server.pk])).status_code == 403
    reader.post(reverse("server-forget", args=[server.pk]), {"name": str(server)})
    assert Server.objects.exists()


def test_who_works_blindly_sees_no_figures(client: Client) -> None:
    sign_in(client, Permission.VOLUMES_MANAGE)
    server = make_server(last_seen_at=None)
    volume = make_volume(server)
    for name, one in (("server-forget", server), ("volume-compact", volume), ("volume-seal", volume)):
        assert client.get(reverse(name, args=[one.pk])).status_code == 403, name


def test_a_server_is_emptied_kept_and_maintained(operator: Client) -> None:
    server = make_server()
    make_volume(server, redundancy_note="no other server has room", replica={"size_bytes": 5 * 10**6})
    assert wish(operator, server, "drain") == "draining"
    page = text_of(operator, "server", server.pk)
    for shown in ("is being emptied: its volumes move", "Stop draining", "1\n", "5.0 MB", "no other server has room"):
        assert shown in page, shown
    assert wish(operator, server, "maintain") == "draining"
    assert "is being emptied; " in text_of(operator, "servers")
    assert wish(operator, server, "resume") == "draining"
    assert wish(operator, server, "nonsense") == "draining"
    assert wish(operator, server, "keep") == "active"
    assert wish(operator, server, "maintain") == "maintenance"
    assert "End maintenance" in text_of(operator, "server", server.pk)
    assert wish(operator, server, "resume") == "active"


def test_an_empty_server_may_be_switched_off(operator: Client) -> None:
    server = make_server(admin_state="draining")
    assert "it may be switched off" in text_of(operator, "server", server.pk)


def test_a_dead_server_is_forgotten_when_its_name_is_typed(operator: Client) -> None:
    server = make_server(last_seen_at=None, internal_url="http://127.0.0.1:1")
    make_volume(server)
    address = reverse("server-forget", args=[server.pk])
    assert address in text_of(operator, "server", server.pk)
    assert "1 volume " in " ".join(text_of(operator, "server-forget", server.pk).split())
    wrong = operator.post(address, {"name": "n1"})
    assert wrong.status_code == 422
    assert "This is not its name." in wrong.content.decode()
    assert Server.objects.exists()
    done = operator.post(address, {"name": str(server)}, follow=True)
    assert "is forgotten: 0 copies are made anew, 1 volumes are gone." in done.content.decode()
    assert ForgottenServer.objects.filter(pk=server.pk).exists()
    assert operator.get(address).status_code == 404


def test_one_that_is_heard_is_not_forgotten(operator: Client) -> None:
    server = make_server()
    address = reverse("server-forget", args=[server.pk])
    assert address not in text_of(operator, "server", server.pk)
    refused = operator.get(address)
    assert refused.status_code == 409
    assert "was heard" in refused.content.decode()
    assert operator.post(address, {"name": str(server)}).status_code in (303, 422)
    assert Server.objects.exists()


def test_there_is_no_such_server(operator: Client) -> None:
    assert operator.get(reverse("server", args=[uuid4()])).status_code == 404
    assert operator.get("/servers/nonsense").status_code == 404
