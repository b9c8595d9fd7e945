import time
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpRequest
from django.test import RequestFactory
from pytest_django import DjangoAssertNumQueries

from tests.unit.volumes.factories import make_server
from volume_server.signing import TO_MASTER, signed_headers
from volumes.api import internal_auth
from volumes.api.internal_auth import Claim, authenticate, authenticate_server
from volumes.derived_secrets import server_secret
from volumes.errors import ServerUnknown, SignatureInvalid
from volumes.models import Server

pytestmark = pytest.mark.django_db
TARGET = "/api/v1/internal/confirm"


@pytest.fixture
def server() -> Server:
    return make_server()


def signed(server: Server, *, kid: int | None = None) -> HttpRequest:
    kid = kid or server.kid
    headers: dict[str, Any] = signed_headers(
        server_secret(server.pk, kid), kid=kid, direction=TO_MASTER, method="POST", target=TARGET, body=b"{}",
        server=str(server.pk), time_ms=int(time.time() * 1000),
    )  # fmt: skip
    return RequestFactory().post(TARGET, b"{}", content_type="application/json", headers=headers)


def authenticate_lately(request: HttpRequest) -> UUID:
    return authenticate(Claim.of(request), request.body, lately=True)


def test_the_database_is_asked_once_for_many_confirms(
    server: Server, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        for _ in range(3):
            assert authenticate_lately(signed(server)) == server.pk


def test_other_calls_ask_each_time(server: Server, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(2):
        authenticate_server(signed(server))
        authenticate_server(signed(server))


def test_a_remembered_server_still_has_to_sign(server: Server) -> None:
    authenticate_lately(signed(server))
    forged = signed(server)
    forged.META["HTTP_WAREHOUSE_SIGNATURE"] = "0" * 64
    with pytest.raises(SignatureInvalid):
        authenticate_lately(forged)


def test_a_secret_out_of_force_is_refused_once_somebody_asks(server: Server) -> None:
    authenticate_lately(signed(server))
    Server.objects.update(kid=2)
    assert authenticate_lately(signed(server, kid=1)) == server.pk
    with pytest.raises(SignatureInvalid):
        authenticate_server(signed(server, kid=1))
    authenticate_lately(signed(server, kid=2))
    with pytest.raises(SignatureInvalid):
        authenticate_lately(signed(server, kid=1))


def test_a_server_that_is_gone_is_refused_when_the_memory_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert internal_auth.CACHE_SECONDS <= 1
    authenticate_lately(signed(server))
    Server.objects.all().delete()
    later = time.monotonic() + internal_auth.CACHE_SECONDS
    monkeypatch.setattr(internal_auth.time, "monotonic", lambda: later + 0.001)
    with pytest.raises(ServerUnknown):
        authenticate_lately(signed(server))


def test_a_new_secret_is_taken_at_once(server: Server) -> None:
    authenticate_lately(signed(server))
    Server.objects.update(kid=2)
    assert authenticate_lately(signed(server, kid=2)) == server.pk


def test_an_unknown_server_is_not_remembered(server: Server) -> None:
    Server.objects.all().delete()
    with pytest.raises(ServerUnknown):
        authenticate_lately(signed(server))
    server.save(force_insert=True)
    assert authenticate_lately(signed(server)) == server.pk
