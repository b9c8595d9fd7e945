"""Fixtures for all tests: secrets for the unit tests, real processes for the others."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgres import Postgres
from tests.support.programs import missing
from tests.support.redis_server import RedisServer
from tests.support.store import CHUNK_SIZE, Store

# No deadlines: a slow machine is no bug. In CI examples are fewer and the same each time: a red run means a change.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, max_examples=60)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by folder; the quick tests run first."""
    for item in items:
        for folder in ("integration", "browser"):
            if folder in item.path.parts:
                item.add_marker(folder)
    items.sort(key=lambda item: bool({"integration", "browser"} & set(item.path.parts)))


@pytest.fixture(scope="session", autouse=True)
def _secrets() -> None:
    """The test run's own secrets, in its own data directory."""
    from keys.secrets import ensure_secrets

    ensure_secrets()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A throw-away PostgreSQL server."""
    if not Postgres.is_installed():
        missing("PostgreSQL")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A throw-away Redis server."""
    if not RedisServer.is_installed():
        missing("Redis")
    with RedisServer() as server:
        yield server


class StartStore(Protocol):
    """Makes a store that is started as a context manager: `with start_store() as store`."""

    def __call__(
        self,
        directory: Path,
        *,
        kind: str = "sqlite",
        env: dict[str, str] | None = None,
        volume_servers: int = 2,
        worker: bool = True,
        restart: bool = False,
        migrated: bool = True,
    ) -> Store: ...


STORE_KINDS = ["sqlite", "postgres+redis"]
"""SQLite with Celery's filesystem transport, and PostgreSQL with Redis."""


@pytest.fixture(scope="session")
def start_store(request: pytest.FixtureRequest) -> StartStore:
    """A factory of stores, for tests that stop or kill parts of one, or need settings of their own."""
    numbers = count(1)

    def make(
        directory: Path,
        *,
        kind: str = "sqlite",
        env: dict[str, str] | None = None,
        volume_servers: int = 2,
        worker: bool = True,
        restart: bool = False,
        migrated: bool = True,
    ) -> Store:
        settings_of_kind = {}
        if kind == "postgres+redis":
            number = next(numbers)
            database: Postgres = request.getfixturevalue("postgres")
            broker: RedisServer = request.getfixturevalue("redis_server")
            settings_of_kind = {
                "DATABASE_URL": database.new_database(f"store{number}"),
                "REDIS_URL": broker.url(number),
            }
        return Store(
            directory,
            env=settings_of_kind | (env or {}),
            volume_servers=volume_servers,
            worker=worker,
            restart=restart,
            migrated=migrated,
        )

    return make


@pytest.fixture(scope="session", params=STORE_KINDS)
def store(
    request: pytest.FixtureRequest, start_store: StartStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """A running store with two volume servers, shared by the tests that leave it whole."""
    directory = tmp_path_factory.mktemp("store")
    # Without a journal: tests that look for traces of what was refused would find its needles.
    env = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE), "WAREHOUSE_JOURNAL_SECONDS": "0"}
    with start_store(directory, kind=request.param, env=env) as running:
        yield running


@pytest.fixture
def new_bucket(store: Store, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Makes buckets of the shared store, each with a name that no other test has."""
    numbers = count(1)
    stem = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")

    def make(**bucket_settings: object) -> str:
        return store.api().make_bucket(f"t-{stem}-{next(numbers)}-{os.urandom(3).hex()}", **bucket_settings)

    return make


@pytest.fixture
def bucket(new_bucket: Callable[..., str]) -> str:
    """An empty bucket of the shared store."""
    return new_bucket()
