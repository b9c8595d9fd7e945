"""Which origins a page's policy names."""

import pytest

from tests.unit.volumes.factories import make_server
from volumes.models import Server
from volumes.web.policy import CONNECT, IMAGES, MEDIA, policy_with_servers
from warehouse_site.middleware import CONTENT_SECURITY_POLICY


def directives(policy: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (part.split() for part in policy.split("; "))}


def make_servers(*urls: str) -> None:
    for url in urls:
        Server.objects.filter(pk=make_server().pk).update(public_url=url)


@pytest.mark.django_db
def test_only_the_named_directives_reach_volume_servers() -> None:
    make_servers("http://127.0.0.1:8081", "http://127.0.0.1:8081/", "https://two.example/below")
    found = directives(policy_with_servers(CONNECT, IMAGES))
    servers = ["http://127.0.0.1:8081", "https://two.example"]
    assert found.pop("connect-src") == ["'self'", *servers]
    assert found.pop("img-src") == ["'self'", "data:", *servers]
    own = directives(CONTENT_SECURITY_POLICY)
    del own["img-src"]
    assert found == own


@pytest.mark.django_db
def test_an_address_adds_nothing_else_to_a_policy() -> None:
    make_servers("http://x; script-src *", "http://*", "https://a b", "javascript://x", "http://u@h")
    assert directives(policy_with_servers(MEDIA))["media-src"] == ["'self'"]
