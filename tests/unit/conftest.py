"""What every unit test starts with."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """Nothing that one test cached, rights or failed log-ins, is seen by the next."""
    from django.core.cache import cache

    from keys.selectors import forget_rights

    forget_rights()
    cache.clear()
    yield
    forget_rights()
