"""Who looks at servers and volumes."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from keys.models import ApiKey
from keys.permissions import Permission
from volumes.services.store import current_store


def sign_in(client: Client, permissions: int) -> Client:
    key = ApiKey.objects.create(name=f"key {permissions}", secret_hash="0" * 64, permissions=permissions)
    client.force_login(key, backend="keys.backends.KeyBackend")
    return client


@pytest.fixture
def operator(client: Client) -> Client:
    current_store()
    return sign_in(client, Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE)


@pytest.fixture
def reader(client: Client) -> Client:
    current_store()
    return sign_in(client, Permission.VOLUMES_READ)


def text_of(client: Client, name: str, *args: Any) -> str:
    page = client.get(reverse(name, args=args))
    assert page.status_code == 200, page.content
    return page.content.decode()
