"""Shares: links to single objects."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.text import capfirst

from buckets.admin.parts import BucketFilter
from buckets.models import Share
from buckets.selectors.shares import STATES_BY_TERMS, ask_makers, shares_in
from buckets.services.shares import revoke_share
from keys.admin_pages import ShownOnly, link_to, when
from keys.models import ApiKey
from keys.printable import printable


class ShareStateFilter(admin.SimpleListFilter):
    title = "state by its terms"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(state), str(state.label)) for state in STATES_BY_TERMS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Share]) -> QuerySet[Share]:
        if self.value() not in STATES_BY_TERMS:
            return queryset
        return queryset.filter(shares_in(self.value() or "", now=timezone.now()))


class PasswordFilter(admin.SimpleListFilter):
    title = "password"
    parameter_name = "password"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "with one"), ("no", "without")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Share]) -> QuerySet[Share]:
        match self.value():
            case "yes":
                return queryset.exclude(password_hash="")
            case "no":
                return queryset.filter(password_hash="")
            case _:
                return queryset


class ShareAdmin(ShownOnly):
    help_text = "Links to single objects, for whoever has one."
    list_display = ("target", "standing", "downloads", "password", "maker", "ends", "used")
    list_filter = (ShareStateFilter, PasswordFilter, BucketFilter)
    list_select_related = ("bucket",)
    sortable_by = ()
    search_fields = ("=id", "key", "description", "api_key_name")
    search_help_text = "A share's number, or a part of its key, of its description, or of the name of who made it."
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("id", "target", "description", "inline")}),
        ("Terms", {"fields": ("ends", "max_downloads", "password")}),
        ("State", {"fields": ("standing", "download_count", "used", "revoked")}),
        ("Whose", {"fields": ("maker", "made")}),
    )
    actions = ("revoke",)

    def fill_in(self, rows: list[Any]) -> None:
        ask_makers(rows)
        living = ApiKey.objects.in_bulk({share.api_key for share in rows})
        for share in rows:
            share.maker_row = living.get(share.api_key)

    @admin.display(description="state")
    def standing(self, share: Share) -> str:
        if share.may_be_shared is None:
            ask_makers([share])
        return share.state.label

    @admin.display(description="leads to")
    def target(self, share: Share) -> str:
        return f"{share.bucket}/{printable(share.key)}"

    @admin.display(description="downloads")
    def downloads(self, share: Share) -> str:
        limit = "" if share.max_downloads is None else f" of {share.max_downloads:,}"
        return f"{share.download_count:,}{limit}"

    @admin.display(description="password", boolean=True)
    def password(self, share: Share) -> bool:
        return share.has_password

    @admin.display(description="made by")
    def maker(self, share: Any) -> str:
        """The API key's name then; a deleted one, whose shares have all ended, has no page."""
        row = share.maker_row if hasattr(share, "maker_row") else ApiKey.objects.filter(pk=share.api_key).first()
        text = f"{share.api_key_name} ({share.api_key})"
        return link_to(row, text) if row is not None else f"{text}, deleted"

    @admin.display(description="ends")
    def ends(self, share: Share) -> str:
        return when(share.expires_at)

    @admin.display(description="last used")
    def used(self, share: Share) -> str:
        return when(share.last_used_at)

    @admin.display(description="revoked")
    def revoked(self, share: Share) -> str:
        return when(share.revoked_at)

    @admin.display(description="made")
    def made(self, share: Share) -> str:
        return when(share.created_at)

    @admin.action(description="Revoke: their links end at once", permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Share]) -> HttpResponse | None:
        warning = "The links of these shares end for good. Their rows stay, with their counts."
        if (page := self.ask_first(request, queryset, title="Revoke shares", warning=warning)) is not None:
            return page
        self.do_each(
            request,
            queryset,
            lambda share: revoke_share(share_id=share.pk),
            "it is revoked.",
            named=lambda share: capfirst(str(share)),
        )
        return None
