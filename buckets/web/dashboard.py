"""The first page: how the store is, how much is in it, and what to do first where nothing is."""

from typing import Any, Final

from django.db import transaction
from django.http.response import HttpResponseBase

from buckets.services.proofs import ask_for_proof
from buckets.tasks import wake_proofs
from buckets.web.glance import Glance
from keys.permissions import Permission
from keys.web.pages import Page

_NEEDED: Final = {
    "figures": Permission.VOLUMES_READ,
    "history": Permission.VOLUMES_READ,
    "recent": Permission.ADMIN,
}
"""For a part, as the API asks it for the same; on the page of who lacks it the part is not there."""


class Dashboard(Page):
    """``figures``: what takes a look at every row is told at once, as it is to who has no JavaScript."""

    template_name = "dashboard/page.html"
    section = "dashboard"
    parts = ("status", "figures", "bucket-list", "history", "recent")

    def show(self, **kwargs: Any) -> dict[str, object]:
        if needed := _NEEDED.get(self.wanted_part or ""):
            self.rights.require(needed)
        asked = self.request.GET
        glance = Glance(self.rights, span=asked.get("range", ""), as_table=asked.get("as") == "table")
        return {"glance": glance, "with_figures": "figures" in asked}


class CheckStore(Page):
    """Has the worker look at every chunk and every needle now. The dashboard tells how it goes."""

    section = "dashboard"
    needs = Permission.VOLUMES_MANAGE
    http_method_names = ("post",)

    @transaction.atomic
    def act(self, **kwargs: Any) -> HttpResponseBase:
        ask_for_proof()
        wake_proofs()
        return self.done("dashboard", say="The store is checked as soon as the worker can; “Proof” tells how it ends.")
