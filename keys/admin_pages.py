"""What the admin pages of all apps have in common.

They show, and whatever changes something calls the service that the API calls: what that refuses becomes an error of
the form, or a message, and nothing was changed. No page counts or sorts a table of a million rows.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timezone import localtime

from keys.errors import WarehouseError

COUNTED = 10_000
"""So many rows of a list are counted and can be leafed through; a search or a filter leads to the others."""


class BoundedPaginator(Paginator[Any]):
    """Counts to `COUNTED` and no further: a page of a list costs the same however long that is."""

    @cached_property
    def _seen(self) -> int:
        rows: Any = self.object_list
        seen: int = rows.order_by()[: COUNTED + 1].count()
        return seen

    @property
    def count(self) -> int:
        return min(self._seen, COUNTED)

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than are counted."""
        return self._seen > COUNTED


class FilledChangeList(ChangeList):
    """A page of a list, with what its rows need besides: asked for all of them at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        assert isinstance(self.model_admin, ServicesAdmin)
        self.model_admin.fill_in(rows)
        self.result_list = rows


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]
    """Shown again with what the service refused, in the words of the service."""

    refusal: WarehouseError | None = None

    def clean(self) -> dict[str, Any]:
        super().clean()
        if self.refusal is not None:
            fields = self.refusal.extra.get("errors")
            for name, texts in fields.items() if isinstance(fields, dict) else [("", [self.refusal.detail])]:
                if name in self.fields:
                    self.add_error(name, texts)
                else:
                    self.add_error(None, [f"{name}: {text}" if name else text for text in texts])
        return self.cleaned_data


class ServicesAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The base of all of them."""

    help_text = ""
    """One sentence for the index page."""
    unselected_actions: tuple[str, ...] = ()
    """Actions that ask for no rows: they do what is due, whatever is chosen."""
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would count the table once more
    list_max_show_all = 0

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return FilledChangeList

    def fill_in(self, rows: list[Any]) -> None:
        """Adds to the rows of one page what their columns show, in a fixed number of queries."""

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """For actions (`permissions=["operate"]`) on rows that cannot be changed by hand."""
        return bool(getattr(request.user, "is_superuser", False))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        refusal = getattr(request, "refusal", None)
        return form if refusal is None else type(form.__name__, (form,), {"refusal": refusal})

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """What the service refused is an error of the form: nothing was kept, and nothing has to be typed again."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except WarehouseError as error:
            request.refusal = error  # type: ignore[attr-defined]
            return super().changeform_view(request, *args, **kwargs)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = {"title": capfirst(self.opts.verbose_name)}
        return super().change_view(request, object_id, form_url, title | (extra_context or {}))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._told(request, super().delete_view, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": capfirst(self.opts.verbose_name_plural), **(extra_context or {})}
        if request.method == "POST":
            self._choose_all(request)
            if request.POST.get("action") == "delete_selected":
                # All of the chosen rows or none, the log entries with them.
                with_log = transaction.atomic(super().changelist_view)
                return self._told(request, with_log, context)
        return self._told(request, super().changelist_view, context)

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        is_for_all = request.POST.get("select_across") == "1"
        takes_rows = request.POST.get("action") not in self.unselected_actions
        if is_for_all and takes_rows and BoundedPaginator(queryset, 1).is_cut:
            self.message_user(request, f"More than {COUNTED:,} rows: filter the list first.", messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)

    def ask_first(
        self, request: HttpRequest, queryset: QuerySet[Any], *, title: str, warning: str
    ) -> TemplateResponse | None:
        """The page that asks whether an action is meant; None once that was said."""
        if request.POST.get("post"):
            return None
        rows = list(queryset[: COUNTED + 1])
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "warning": warning,
            "rows": rows,
            "action": request.POST["action"],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/ask_first.html", context)

    def do_each(
        self,
        request: HttpRequest,
        rows: Iterable[Any],
        service: Callable[[Any], object],
        success: str,
        *,
        named: Callable[[Any], str] = str,
    ) -> None:
        """Calls a service for every chosen row, and says of each, by its name, how that went."""
        for row in rows:
            try:
                service(row)
            except WarehouseError as error:
                self.message_user(request, f"{named(row)}: {error.detail}", messages.ERROR)
            else:
                self.message_user(request, f"{named(row)}: {success}")

    def _choose_all(self, request: HttpRequest) -> None:
        """Django lets no action run without a row: those that ask for none get all."""
        posted = request.POST.copy()
        if posted.get("action") in self.unselected_actions:
            posted.setlist(ACTION_CHECKBOX_NAME, ["all"])
            posted["select_across"] = "1"
            request.POST = posted  # type: ignore[assignment]

    def _told(self, request: HttpRequest, view: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = view(request, *args, **kwargs)
        except WarehouseError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        return response


class ShownOnly(ServicesAdmin):
    """Rows that servers and services alone write: to look at, beside actions on the list."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def link_to(row: models.Model, text: object = None) -> SafeString:
    """A link to a row's page."""
    meta = row._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[row.pk])
    return format_html('<a href="{}">{}</a>', url, row if text is None else text)


def link_to_list(model: type[models.Model], text: object, **chosen: object) -> SafeString:
    """A link to the list of a model, filtered."""
    meta = model._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
    return format_html('<a href="{}?{}">{}</a>', url, urlencode(chosen), text)


def with_dot(status: str, text: object) -> SafeString:
    """A coloured dot for the eye, the status in words for everybody else."""
    return format_html('<span class="status-dot {0}" title="{0}"></span> {1}', status, text)


def when(moment: datetime | None) -> str:
    """A time, to the second, that a narrow column can break, unlike the site's own."""
    return f"{localtime(moment):%Y-%m-%d %H:%M:%S}" if moment else "-"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> SafeString:
    """A plain table in a read-only field."""
    return format_html(
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
        format_html_join("", "<th>{}</th>", ((head,) for head in heads)),
        format_html_join("", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((c,) for c in r)),) for r in rows)),
    )
