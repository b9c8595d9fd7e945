"""What stands behind the `?`: the same is refused, in the same way, by every list."""

from urllib.parse import quote

import pytest
from rest_framework.test import APIClient

from keys.permissions import Permission
from tests.unit.buckets.lab import Lab, forget_caches, make_key

LISTS = ("buckets", "buckets/photos/objects", "shares", "keys", "volumes", "audit")
NUMBERED = ("shares?", "keys?", "volumes?")
BEYOND = 1 << 63


@pytest.fixture
def api(db: None) -> APIClient:
    forget_caches()
    Lab.make()
    client = APIClient()
    client.force_authenticate(user=make_key(permissions=int(Permission.ADMIN)))
    return client


def refused(api: APIClient, path: str) -> list[str]:
    """The names of the fields that are refused."""
    answer = api.get(f"/api/v1/{path}")
    assert answer.status_code == 400, (path, answer.content)
    assert answer.json()["code"] == "invalid"
    return list(answer.json()["errors"])


@pytest.mark.parametrize("path", [*LISTS, "servers", "tasks", "usage", "proof", "health"])
def test_a_parameter_that_there_is_not(api: APIClient, path: str) -> None:
    assert api.get(f"/api/v1/{path}").status_code == 200
    assert refused(api, f"{path}?limt=5") == ["limt"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("text", ["٣", "\N{FULLWIDTH DIGIT THREE}", "1_0", "3.0", " 3", "+3", "", "three", "9" * 5000])
def test_a_number_is_ascii_digits(api: APIClient, path: str, text: str) -> None:
    assert refused(api, f"{path}?limit={quote(text)}") == ["limit"]
    assert api.get(f"/api/v1/{path}?limit=3").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *(f"{base}after={BEYOND}" for base in NUMBERED),
        f"audit?after=1700000000000000-{BEYOND}",
        f"audit?after={BEYOND}-1",
        f"buckets/photos/objects?order=newest&after={BEYOND}.1",
        f"buckets/photos/objects?order=newest&after=1.{BEYOND}",
        f"audit?key={BEYOND}",
    ],
)
def test_a_place_that_no_row_can_have(api: APIClient, path: str) -> None:
    name = "key" if "key=" in path else "after"
    assert refused(api, path) == [name]
    assert api.get(f"/api/v1/{path}".replace(str(BEYOND), "1")).status_code == 200
