"""The admin site of the store: signed in to with a key."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse

from keys.forms import AdminSignInForm
from volumes.background import background_health
from volumes.models import Store
from volumes.selectors import totals

_APPS = ("buckets", "keys", "volumes")
"""Their order on the index page; others follow by name. Models stand in the order in which they were registered."""


class WarehouseAdminSite(admin.AdminSite):
    site_header = "Warehouse"
    site_title = "Warehouse admin"
    index_title = "The store"
    login_form = AdminSignInForm  # type: ignore[assignment]
    login_template = "admin/login.html"

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """What there is, each model with a sentence on what it is."""
        places = {model: at for at, model in enumerate(self._registry)}
        apps: list[Any] = list(self._build_app_dict(request, app_label).values())
        for app in apps:
            for entry in app["models"]:
                entry["help_text"] = getattr(self._registry[entry["model"]], "help_text", "")
            app["models"].sort(key=lambda entry: places[entry["model"]])
        return sorted(apps, key=lambda app: (_place(app["app_label"]), app["name"]))

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        behind = Store.objects.filter(behind_of__isnull=False).first()
        shown = {"store": totals(), "background": background_health(), "behind": behind}
        return super().index(request, shown | (extra_context or {}))


def _place(app_label: str) -> int:
    return _APPS.index(app_label) if app_label in _APPS else len(_APPS)
