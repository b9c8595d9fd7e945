"""Servers: how they are, what they hold, and what an operator wants of them."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.paginator import Paginator
from django.http.response import HttpResponseBase

from keys.errors import Invalid
from keys.permissions import Permission
from keys.web.forms import TypedName, UiForm
from keys.web.pages import FormPage, Page
from volumes import selectors
from volumes.errors import ServerNotFound
from volumes.models import Server
from volumes.services.forgetting import forget_server, losses_of
from volumes.services.servers import set_admin_state
from volumes.web.progress import ServerRow, volume_rows

SERVERS_SHOWN: Final = 50
VOLUMES_SHOWN: Final = 20
"""On a server's page; the list of volumes has all of them."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A button of a server's page; ``ends`` is the state that alone it may put an end to."""

    admin_state: str
    ends: str
    told: str


_WISHES: Final = {
    "drain": _Wish(
        Server.AdminState.DRAINING, Server.AdminState.DRAINING, "is being emptied: its volumes move to other servers."
    ),
    "keep": _Wish(Server.AdminState.ACTIVE, Server.AdminState.DRAINING, "is kept: what has moved stays where it is."),
    "maintain": _Wish(
        Server.AdminState.MAINTENANCE,
        Server.AdminState.MAINTENANCE,
        "is in maintenance: it may be stopped and started, and nothing is copied for that.",
    ),
    "resume": _Wish(Server.AdminState.ACTIVE, Server.AdminState.MAINTENANCE, "is in use again."),
}


class ServersPage(Page):
    """A page for those who may see how the store is built."""

    section = "servers"
    needs = Permission.VOLUMES_READ


class Servers(ServersPage):
    """All servers, by node."""

    template_name = "servers/list.html"
    parts = ("server-list",)

    def show(self) -> dict[str, object]:
        page = Paginator(selectors.list_servers(), SERVERS_SHOWN).get_page(self.request.GET.get("page"))
        return {"page": page, "rows": [ServerRow(server) for server in page]}


class ServerDetail(ServersPage):
    """One server, and the first of its volumes."""

    template_name = "servers/detail.html"
    parts = ("server-now",)

    def show(self, server_id: UUID) -> dict[str, object]:
        row = ServerRow(find_server(server_id))
        volumes = selectors.find_volumes(server=row.server.pk)[:VOLUMES_SHOWN]
        return {
            "row": row,
            "volumes": volume_rows(volumes),
            "volume_size": settings.WAREHOUSE_VOLUME_SIZE,
            "pace": 2 if row.is_draining else 5,
            "may_manage": self.rights.allows(Permission.VOLUMES_MANAGE),
        }


class ServerWish(Page):
    """What an operator wants of a server: its `wish` is one of `_WISHES`."""

    section = "servers"
    needs = Permission.VOLUMES_MANAGE
    http_method_names = ("post",)

    def act(self, server_id: UUID) -> HttpResponseBase:
        server = find_server(server_id)
        wish = _WISHES.get(self.request.POST.get("wish", ""))
        if wish is None:
            raise Invalid(f"There is one of {', '.join(_WISHES)} to be wished of a server.")
        set_admin_state(server_id=server.pk, admin_state=wish.admin_state, ends=wish.ends)
        return self.done("server", server.pk, say=f"Server {server} {wish.told}")


class ServerForget(FormPage):
    """Takes a server that died for good off the books; says before what that comes to."""

    template_name = "servers/forget.html"
    section = "servers"
    needs = Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE

    def make_form(self, data: Any = None, *, server_id: UUID) -> UiForm:
        server = find_server(server_id)
        return TypedName(data, asked=str(server), label=f"Type “{server}” to go on")

    def show(self, server_id: UUID) -> dict[str, object]:
        losses = losses_of(server_id=server_id)
        held = losses.holdings
        return {
            "server": find_server(server_id),
            "losses": losses,
            "objects": held.objects.total(),
            "uploads": held.uploads.total(),
            "bucket_count": len(held.objects.keys() | held.uploads.keys()),
        }

    def save(self, form: UiForm, server_id: UUID) -> HttpResponseBase:
        server = find_server(server_id)
        done = forget_server(server_id=server.pk)
        told = f"{done.copies:,} copies are made anew, {done.volumes:,} volumes are gone."
        return self.done("servers", say=f"Server {server} is forgotten: {told}")


def find_server(server_id: UUID) -> Any:
    """With the annotations of `list_servers`. Raises ServerNotFound."""
    server = selectors.list_servers().filter(pk=server_id).first()
    if server is None:
        raise ServerNotFound(f"There is no server {server_id}.")
    return server
