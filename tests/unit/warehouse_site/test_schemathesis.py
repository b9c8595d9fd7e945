"""The API against its own OpenAPI document: thousands of requests made from it, good and bad, by an ADMIN key.

No answer is a failure of the store, each is one that the document names, and looks as it says. The requests are the
same each time. Every one is sent as it was made, and once more with the path of things that are there; all are undone.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.cache import cache
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from buckets.services.buckets import create_bucket
from keys.permissions import Permission
from tests.unit.buckets.lab import forget_caches
from tests.unit.warehouse_site.matrix_routes import values
from tests.unit.warehouse_site.matrix_world import INSIDE, Caller, World
from warehouse_site import openapi

BUCKET, KEYS = "photos", ("photos/2026/cat.jpg", "photos/2026/dog.jpg")
"""What the document's examples speak of."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"max-examples": 5, "deterministic": True},
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "507"]}},
        "phases": {"stateful": {"enabled": False}, "coverage": {"unexpected-methods": []}},
    }
)
schema = schemathesis.openapi.from_dict(copy.deepcopy(openapi.document()), config=CONFIG)
schema.app = get_wsgi_application()


class Stage:
    """A store and an ADMIN key; what is asked for is undone."""

    def __init__(self, world: World) -> None:
        self.real = values(world, INSIDE) | {"bucket": lambda: BUCKET, "key": lambda: KEYS[0]}
        self.headers = {"Authorization": f"Bearer {world.token_of(Caller(int(Permission.ADMIN)))}"}

    def ask(self, case: Any, checks: list[Any]) -> None:
        with transaction.atomic():
            answer = case.call(headers=self.headers)
            transaction.set_rollback(True)
        forget_caches()
        cache.clear()
        case.validate_response(answer, checks=checks, headers=self.headers)
        if answer.status_code >= 500:
            # Refusals for want of servers or room are right; a database that can't take what it is given is not.
            assert answer.json()["code"] != "database_unavailable", answer.content

    def ask_of_what_is_there(self, case: Any) -> None:
        case.path_parameters = {name: str(self.real[name]()) for name in case.path_parameters}
        self.ask(case, CHECKS)


@pytest.fixture
def stage(world: World) -> Iterator[Stage]:
    create_bucket(name=BUCKET)
    for key in KEYS:
        world.lab.put(key, bucket=BUCKET)
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)  # as Django's own test client does: all is one transaction
    yield Stage(world)
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@schema.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_answers_are_those_that_the_document_names(case: Any, stage: Stage) -> None:
    stage.ask(case, [*CHECKS, negative_data_rejection])
    if case.path_parameters:
        stage.ask_of_what_is_there(case)
