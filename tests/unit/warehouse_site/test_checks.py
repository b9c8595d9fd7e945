import sqlite3

import pytest
from django.core import checks
from django.db import connection
from pytest_django import Settings


@pytest.mark.django_db
def test_the_journal_in_force_is_said() -> None:
    messages = [m for m in checks.run_checks(databases=["default"]) if (m.id or "").startswith("warehouse.")]
    if connection.vendor != "sqlite":
        assert messages == []
        return
    [message] = messages
    assert message.id == "warehouse.I001"
    assert sqlite3.sqlite_version in str(message.msg)


@pytest.mark.django_db
def test_another_journal_than_asked_for_is_a_warning(settings: Settings) -> None:
    if connection.vendor != "sqlite":
        return
    settings.SQLITE_JOURNAL_MODE = "WAL" if settings.SQLITE_JOURNAL_MODE == "PERSIST" else "PERSIST"
    [message] = [m for m in checks.run_checks(databases=["default"]) if (m.id or "").startswith("warehouse.")]
    assert message.id == "warehouse.W002"
