"""What the system checks ask a database."""

import time
from datetime import timedelta

from django.conf import settings
from django.core.checks import CheckMessage
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from volumes.models import Server
from warehouse_site.check_ids import found

WORKER_CONNECTIONS = 8
"""Four of the worker's threads, beat, a command, and two to spare."""
CLOCKS_DIFFER_S = 5
HEARD_IN_THE_FUTURE = timedelta(minutes=1)


def of(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    own = _of_sqlite(connection) if connection.vendor == "sqlite" else _of_postgresql(connection)
    return own + _of_what_was_heard(connection)


def _of_sqlite(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    version = _ask(connection, "SELECT sqlite_version()")
    mode, wanted = _ask(connection, "PRAGMA journal_mode").upper(), settings.SQLITE_JOURNAL_MODE
    if mode not in (wanted, "MEMORY"):
        return [found("warehouse.W002", f"SQLite {version} keeps a {mode} journal, {wanted} was asked for.")]
    why = (
        "it has the fix of the WAL-reset bug"
        if wanted == "WAL"
        else "it lacks the fix of the WAL-reset bug (3.51.3, 3.50.7 or 3.44.6), so WAL is not used"
    )
    return [found("warehouse.I001", f"SQLite {version} keeps a {mode} journal: {why}.")]


def _of_postgresql(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    messages = []
    encoding = _ask(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        messages.append(found("warehouse.E012", f"The database is in {encoding}: not every key could be kept."))
    reserved = int(_ask(connection, "SHOW superuser_reserved_connections"))
    allowed = int(_ask(connection, "SHOW max_connections")) - reserved
    needed = settings.WAREHOUSE_THREADS + WORKER_CONNECTIONS
    if allowed < needed:
        messages.append(
            found(
                "warehouse.W006",
                f"PostgreSQL takes {allowed} connections; {settings.WAREHOUSE_THREADS} threads and the worker may "
                f"open {needed}.",
            )
        )
    ahead_s = float(_ask(connection, "SELECT extract(epoch FROM clock_timestamp())")) - time.time()
    if abs(ahead_s) > CLOCKS_DIFFER_S:
        how = "ahead of" if ahead_s > 0 else "behind"
        messages.append(found("warehouse.W007", f"PostgreSQL's clock is {abs(ahead_s):.0f} s {how} this machine's."))
    return messages


def _of_what_was_heard(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    """A heartbeat that is still to come: this machine's clock was set back since."""
    if Server._meta.db_table not in connection.introspection.table_names():
        return []  # not migrated yet
    late = timezone.now() + HEARD_IN_THE_FUTURE
    heard = Server.objects.using(connection.alias).filter(last_seen_at__gt=late).order_by("-last_seen_at").first()
    if heard is None:
        return []
    return [found("warehouse.W007", f"Server {heard} was heard at {heard.last_seen_at:%Y-%m-%d %H:%M}, in the future.")]


def _ask(connection: BaseDatabaseWrapper, statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return str(cursor.fetchone()[0])
