"""A server as an operator names it: its id, the beginning of it, its node, or its address."""

from urllib.parse import urlsplit

from django.core.management.base import CommandError

from volumes.models import Server


def find_server(text: str) -> Server:
    """The one server that ``text`` names. Raises CommandError, which lists what there is instead."""
    servers = list(Server.objects.all())
    wanted = text.strip().lower().rstrip("/")
    for names in (
        lambda one: {str(one.pk), one.node.lower()},
        lambda one: {name for url in (one.public_url, one.internal_url) for name in _address_forms(url.lower())},
        lambda one: {str(one.pk)[: len(wanted)]} if len(wanted) >= 4 else set(),
    ):
        found = [one for one in servers if wanted in names(one)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CommandError(f"{text!r} names {len(found)} servers:\n{_listed(found)}")
    raise CommandError(f"There is no server {text!r}. There are:\n{_listed(servers)}")


def _address_forms(url: str) -> set[str]:
    """An address as it is listed, and without its scheme."""
    return {url.rstrip("/"), urlsplit(url).netloc}


def _listed(servers: list[Server]) -> str:
    return "\n".join(f"  {one.pk}  {one.node}  {one.public_url}  {one.status}" for one in servers) or "  none"
