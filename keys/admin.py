"""Keys in the admin site. Everything that changes a key goes through the services."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import QuerySet
from django.forms import BaseModelFormSet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from keys.errors import WarehouseError
from keys.models import ApiKey, Grant, RefreshFamily
from keys.permissions import DESCRIPTIONS, GRANTABLE, Permission
from keys.rights import GrantRow, KeyRights
from keys.selectors import rights_now
from keys.services.keys import create_key, delete_key, update_key

admin.site.unregister(Group)  # rights are the bits of keys; groups would be a second kind


class PermissionBitsField(forms.TypedMultipleChoiceField):
    """An integer of permission bits, as named checkboxes."""

    def __init__(self, *, allowed: Permission, **kwargs: Any) -> None:
        choices = [(int(bit), f"{bit.name}: {DESCRIPTIONS[bit]}") for bit in Permission if bit & allowed]
        super().__init__(coerce=int, choices=choices, widget=forms.CheckboxSelectMultiple, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, int):
            return [int(bit) for bit in Permission if bit & value]
        return value

    def clean(self, value: Any) -> int:
        return sum(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        bits = self.prepare_value(initial or 0)
        return {str(bit) for bit in bits} != {str(bit) for bit in data or ()}


class ApiKeyForm(forms.ModelForm[ApiKey]):
    permissions = PermissionBitsField(allowed=~Permission(0), required=False, help_text="These hold in every bucket.")

    class Meta:
        model = ApiKey
        fields = ("name", "description", "permissions", "expires_at")


class GrantForm(forms.ModelForm[Grant]):
    permissions = PermissionBitsField(allowed=GRANTABLE)

    class Meta:
        model = Grant
        fields = ("bucket", "prefix", "permissions")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prefix = self.fields["prefix"]
        assert isinstance(prefix, forms.CharField)
        prefix.strip = False  # a prefix is exactly the text it is


class GrantInline(admin.TabularInline[Grant, ApiKey]):
    model = Grant
    form = GrantForm
    extra = 0


class IsLiveFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        live = ApiKey.objects.live().values("pk")
        match self.value():
            case "live":
                return queryset.filter(pk__in=live)
            case "expired":
                return queryset.exclude(pk__in=live)
            case _:
                return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin[ApiKey]):
    form = ApiKeyForm
    inlines = (GrantInline,)
    list_display = ("name", "id", "bits", "live", "expires_at", "last_used_at", "created_at", "created_by")
    list_filter = (IsLiveFilter,)
    list_select_related = ("created_by",)
    search_fields = ("name", "description", "=id")
    readonly_fields = ("id", "generation", "created_at", "created_by", "last_used_at")
    fieldsets = (
        (None, {"fields": ("name", "description", "permissions", "expires_at")}),
        ("State", {"fields": ("id", "generation", "created_at", "created_by", "last_used_at")}),
    )

    @admin.display(description="Rights everywhere")
    def bits(self, key: ApiKey) -> str:
        return ", ".join(key.permission_names) or "none"

    @admin.display(description="Live", boolean=True)
    def live(self, key: ApiKey) -> bool:
        return key.is_active

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """What the services refuse is a message; nothing of it was kept."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except WarehouseError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return redirect(request.get_full_path())

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except WarehouseError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return redirect(request.get_full_path())

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Its actions are done for all of the chosen keys or for none, the log entries with them."""
        if request.method != "POST":
            return super().changelist_view(request, extra_context)  # a transaction would keep writers waiting
        try:
            with transaction.atomic():
                return super().changelist_view(request, extra_context)
        except WarehouseError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return redirect(request.get_full_path())

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return super().get_fieldsets(request, obj) if obj is not None else self.fieldsets[:1]

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """The key itself; its grants follow in `save_related`, in the same transaction."""
        values = {name: form.cleaned_data[name] for name in ApiKeyForm.Meta.fields}
        if change:
            update_key(actor=_actor(request), key_id=obj.pk, **values)
            return
        new = create_key(actor=_actor(request), **values)
        obj.pk = new.key.pk
        request.new_key = new  # type: ignore[attr-defined]  # for response_add, which shows it once
        obj._state.adding = False

    def save_related(
        self, request: HttpRequest, form: Any, formsets: list[BaseModelFormSet[Any, Any]], change: bool
    ) -> None:
        rows = []
        for formset in formsets:
            formset.save(commit=False)  # notes what changed, for the log entry
            rows += [
                GrantRow(line.instance.bucket, line.instance.prefix, line.instance.permissions)
                for line in formset.forms
                if line not in formset.deleted_forms and (line.has_changed() or line.instance.pk)
            ]
        update_key(actor=_actor(request), key_id=form.instance.pk, grants=rows)

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        delete_key(actor=_actor(request), key_id=obj.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            delete_key(actor=_actor(request), key_id=key.pk)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "The new key",
            "opts": self.opts,
            "key": obj,
            "text": request.new_key.text,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "admin/keys/apikey/created.html", context)


@admin.register(RefreshFamily)
class RefreshFamilyAdmin(admin.ModelAdmin[RefreshFamily]):
    """Who is signed in to the API. Read only; deleting one signs its holder out."""

    list_display = ("id", "key", "serial", "created_at", "expires_at", "revoked_at")
    list_select_related = ("key",)
    search_fields = ("key__name",)
    date_hierarchy = "created_at"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RefreshFamily | None = None) -> bool:
        return False


def _actor(request: HttpRequest) -> KeyRights:
    """The rights of the signed-in key, as they are now."""
    assert isinstance(request.user, ApiKey)
    return rights_now([request.user.pk])[request.user.pk]
