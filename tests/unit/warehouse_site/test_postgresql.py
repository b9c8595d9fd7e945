"""A kept connection to PostgreSQL is looked at before it is used again, and asked only where there is a reason to."""

from collections.abc import Iterator

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.db.utils import load_backend

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="on PostgreSQL alone")


@pytest.fixture
def kept(django_db_blocker: object) -> Iterator[object]:
    """A connection besides those of the test run, with the checks that the product asks for."""
    wrapper = load_backend(settings.DATABASES["default"]["ENGINE"]).DatabaseWrapper(
        {**connection.settings_dict}, "kept"
    )
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        yield wrapper
        wrapper.close()


def number_of(wrapper: object) -> int:
    """The server's process behind the connection."""
    with wrapper.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("SELECT pg_backend_pid()")
        found: int = cursor.fetchone()[0]
        return found


def next_request(wrapper: object) -> None:
    wrapper.close_if_unusable_or_obsolete()  # type: ignore[attr-defined]
    wrapper.health_check_done = False  # type: ignore[attr-defined]


def end(process: int) -> None:
    """As a restart of the server does it."""
    parameters = {name: connection.get_connection_params()[name] for name in ("host", "port", "user", "dbname")}
    with psycopg.connect(**parameters, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [process])


def test_connection_that_is_well_is_kept_and_not_asked(kept: object, monkeypatch: pytest.MonkeyPatch) -> None:
    first = number_of(kept)
    monkeypatch.setattr(psycopg.Cursor, "execute", None)  # whoever asked would fail
    assert kept.is_usable()  # type: ignore[attr-defined]
    monkeypatch.undo()
    next_request(kept)
    assert number_of(kept) == first


def test_connection_that_the_server_ended_is_replaced(kept: object) -> None:
    first = number_of(kept)
    end(first)
    next_request(kept)
    assert number_of(kept) != first


def test_connection_that_failed_is_asked(kept: object) -> None:
    first = number_of(kept)
    end(first)
    with pytest.raises(OperationalError):
        number_of(kept)
    assert not kept.is_usable()  # type: ignore[attr-defined]
    next_request(kept)
    assert number_of(kept) != first
