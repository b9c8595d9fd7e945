"""The world that the tests of all routes ask about."""

import copy
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from tests.unit.buckets.lab import forget_caches
from tests.unit.volumes.factories import figures
from tests.unit.volumes.fake_server import FakeVolumeServer
from tests.unit.warehouse_site.matrix_world import World
from volumes.models import Server


@pytest.fixture(scope="module")
def untouched(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[World, FakeVolumeServer]]:
    """A world and its volume server, made once for a module, in a transaction of which nothing stays."""
    forget_caches()
    with FakeVolumeServer() as server, django_db_blocker.unblock(), transaction.atomic():
        yield World.make(server), server
        transaction.set_rollback(True)
    forget_caches()


@pytest.fixture
def world(untouched: tuple[World, FakeVolumeServer], db: None, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """The module's world; what a test does to it is undone, by the transaction of `db` within the module's."""
    caplog.set_level(logging.CRITICAL)  # thousands of refusals, each of which is logged
    forget_caches()
    made, server = untouched
    server.volumes = {made.lab.volume.pk: figures(made.lab.volume.pk)}
    # The module may take longer than a server may be silent.
    Server.objects.update(last_seen_at=timezone.now() + timedelta(hours=1))
    yield copy.deepcopy(made)
    forget_caches()
