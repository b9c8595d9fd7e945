from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from keys.permissions import Permission
from keys.services.keys import NewKey, create_key
from keys.services.sign_in import issue_tokens


@pytest.fixture
def new_key(db: None) -> Callable[..., NewKey]:
    """Makes keys on behalf of the system."""

    def make(permissions: int = 0, **values: Any) -> NewKey:
        return create_key(actor=None, name=values.pop("name", "a key"), permissions=int(permissions), **values)

    return make


@pytest.fixture
def admin(new_key: Callable[..., NewKey]) -> NewKey:
    return new_key(Permission.ADMIN, name="admin")


@pytest.fixture
def client_of() -> Callable[[NewKey], APIClient]:
    """An API client that is signed in with a key."""

    def make(new: NewKey) -> APIClient:
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_tokens(key=new.key).access}")
        return client

    return make
