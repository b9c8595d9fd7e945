"""What every unit test starts with."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """Nothing that one test cached, rights, servers or failed log-ins, is seen by the next."""
    from django.core.cache import cache

    from buckets.selectors.buckets import forget_open_buckets
    from keys.selectors import forget_rights
    from keys.services.denials import forget_denials
    from volumes.api.internal_auth import forget_servers

    forget_open_buckets()
    forget_rights()
    forget_denials()
    forget_servers()
    cache.clear()
    yield
    forget_rights()
