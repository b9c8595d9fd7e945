"""The admin site of the store: signed in to with a key."""

from django.contrib import admin

from keys.forms import AdminSignInForm


class WarehouseAdminSite(admin.AdminSite):
    site_header = "Warehouse"
    site_title = "Warehouse admin"
    index_title = "The store"
    login_form = AdminSignInForm  # type: ignore[assignment]
    login_template = "admin/login.html"
