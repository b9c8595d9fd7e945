from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class WarehouseSiteConfig(AppConfig):
    name = "warehouse_site"
    verbose_name = "Warehouse"

    def ready(self) -> None:
        # Registers the system checks, and makes the worker's application the one that tasks belong to.
        from warehouse_site import celery, checks  # noqa: F401


class WarehouseAdminConfig(AdminConfig):
    """Puts our admin site (sign-in with a key) in the place of Django's."""

    default_site = "warehouse_site.admin.WarehouseAdminSite"
