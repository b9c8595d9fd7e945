import pytest
from rest_framework.test import APIClient

from keys.models import ApiKey
from keys.permissions import Permission
from tests.unit.buckets.lab import Lab, make_key


def client_of(key: ApiKey) -> APIClient:
    client = APIClient()
    client.force_authenticate(user=key)
    return client


@pytest.fixture
def api(db: None) -> APIClient:
    """A client that may do everything."""
    return client_of(make_key(permissions=int(Permission.ADMIN)))


@pytest.fixture
def filled(lab: Lab) -> Lab:
    """A store whose bucket holds a few objects."""
    lab.put_many("a", "dir/b", "dir/c", "e")
    return lab
