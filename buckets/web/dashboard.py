"""The first page: how the store is."""

from keys.web.pages import Page


class Dashboard(Page):
    template_name = "dashboard/page.html"
    section = "dashboard"
