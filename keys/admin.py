"""Keys in the admin site. Everything that changes a key goes through the services."""

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Count, F, QuerySet
from django.forms import BaseModelFormSet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from keys.actions import Action, Outcome
from keys.admin_pages import ServiceForm, ServicesAdmin, ShownOnly, link_to, link_to_list, when, with_dot
from keys.models import ApiKey, AuditEntry, Grant, RefreshFamily, RevokedKey
from keys.permissions import DESCRIPTIONS, GRANTABLE, Permission, names
from keys.printable import printable
from keys.rights import GrantRow, KeyRights
from keys.selectors import rights_now
from keys.services.denials import write_denials
from keys.services.keys import create_key, delete_key, end_sessions, update_key
from keys.services.sign_in import revoke_families

MAX_SAID_CHARS = 120

admin.site.unregister(Group)  # rights are the bits of keys; groups would be a second kind


def bits_text(bits: int) -> str:
    """The names of permission bits and their integer."""
    return f"{', '.join(names(bits)) or 'none'} ({bits})"


class PermissionBoxes(forms.CheckboxSelectMultiple):
    """Named checkboxes, and the integer that they make."""

    class Media:
        js = ("warehouse/permissions.js",)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        boxes = super().render(name, value, attrs, renderer)
        bits = sum({int(one) for one in value or () if str(one).isdecimal()})
        return format_html(
            '<div class="permission-bits">{}<p>As an integer: <output>{}</output></p></div>', boxes, bits
        )


class PermissionBitsField(forms.TypedMultipleChoiceField):
    """An integer of permission bits, as named checkboxes."""

    def __init__(self, *, allowed: Permission, **kwargs: Any) -> None:
        choices = [(int(bit), f"{bit.name}: {DESCRIPTIONS[bit]}") for bit in Permission if bit & allowed]
        super().__init__(coerce=int, choices=choices, widget=PermissionBoxes, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, int):
            return [int(bit) for bit in Permission if bit & value]
        return value

    def clean(self, value: Any) -> int:
        return sum(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        bits = self.prepare_value(initial or 0)
        return {str(bit) for bit in bits} != {str(bit) for bit in data or ()}


class ApiKeyForm(ServiceForm):
    permissions = PermissionBitsField(
        allowed=~Permission(0),
        required=False,
        help_text="These hold in every bucket. To give less, grant rights on single buckets below instead.",
    )

    class Meta:
        model = ApiKey
        fields = ("name", "description", "permissions", "expires_at")
        widgets = {"description": forms.Textarea(attrs={"rows": 2, "cols": 60})}


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
        prefix.help_text = "Exactly this text: logs covers logs2 too, logs/ does not. Empty: the whole bucket."


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


class HasBitFilter(admin.SimpleListFilter):
    title = "right"
    parameter_name = "bit"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(int(bit)), bit.name or "") for bit in Permission]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None or value not in {str(int(bit)) for bit in Permission}:
            return queryset
        having = queryset.annotate(asked_bit=F("permissions").bitand(int(value)))
        chosen: QuerySet[Any] = having.filter(asked_bit__gt=0)
        return chosen


@admin.register(ApiKey)
class ApiKeyAdmin(ServicesAdmin):
    help_text = "Who may do what. There are no other accounts: people and programs sign in with a key."
    form = ApiKeyForm
    inlines = (GrantInline,)
    list_display = ("name", "id", "bits", "grants", "state", "last_used", "expires", "made", "maker")
    list_filter = (IsLiveFilter, HasBitFilter)
    list_select_related = ("created_by",)
    search_fields = ("name", "description", "=id")
    search_help_text = "A part of the name or the description, or a key's number."
    actions = ("expire", "sign_out")
    computed = ("id", "state", "generation", "created_at", "maker", "last_used_at", "sign_ins")
    readonly_fields = computed
    fieldsets = (
        (None, {"fields": ("name", "description", "permissions", "expires_at")}),
        ("State", {"fields": computed}),
    )

    def fill_in(self, rows: list[Any]) -> None:
        granted = Grant.objects.filter(key__in=rows).values_list("key").annotate(count=Count("pk")).order_by()
        counts = dict(granted)
        for key in rows:
            key.grant_count = counts.get(key.pk, 0)

    @admin.display(description="Rights everywhere", ordering="permissions")
    def bits(self, key: ApiKey) -> str:
        return bits_text(key.permissions)

    @admin.display(description="Grants")
    def grants(self, key: Any) -> SafeString | str:
        return link_to_list(Grant, key.grant_count, key__id__exact=key.pk) if key.grant_count else "none"

    @admin.display(description="State")
    def state(self, key: ApiKey) -> SafeString:
        return with_dot("online", "live") if key.is_active else with_dot("offline", "expired")

    @admin.display(description="Last used", ordering="last_used_at")
    def last_used(self, key: ApiKey) -> str:
        return when(key.last_used_at) if key.last_used_at else "never"

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return when(key.expires_at) if key.expires_at else "never"

    @admin.display(description="Made", ordering="created_at")
    def made(self, key: ApiKey) -> str:
        return when(key.created_at)

    @admin.display(description="Made by")
    def maker(self, key: ApiKey) -> SafeString | str:
        return link_to(key.created_by) if key.created_by is not None else "system, or deleted"

    @admin.display(description="Sign-ins")
    def sign_ins(self, key: ApiKey) -> SafeString:
        return link_to_list(RefreshFamily, "all sign-ins of this key to the API", key__id__exact=key.pk)

    @admin.action(description="Expire now: refused from now on, but still listed", permissions=["change"])
    def expire(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        warning = "These keys are refused from now on, and all that was signed for them. A new expiry revives a key."
        if (page := self.ask_first(request, queryset, title="Expire keys", warning=warning)) is not None:
            return page
        actor, now = _actor(request), timezone.now()
        self.do_each(
            request, queryset, lambda key: update_key(actor=actor, key_id=key.pk, expires_at=now), "it has expired."
        )
        return None

    @admin.action(description="Sign out everywhere: end tokens, sessions, leases and URLs", permissions=["change"])
    def sign_out(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        warning = "All that was signed for these keys ends: tokens, sessions, leases, URLs. The keys stay good."
        if (page := self.ask_first(request, queryset, title="Sign keys out", warning=warning)) is not None:
            return page
        actor = _actor(request)
        self.do_each(
            request, queryset, lambda key: end_sessions(actor=actor, key_id=key.pk), "it is signed out everywhere."
        )
        return None

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


@admin.register(Grant)
class GrantAdmin(ShownOnly):
    help_text = "Rights of keys on single buckets and prefixes. They are changed on the page of their key."
    list_display = ("bucket", "exact_prefix", "bits", "holder")
    list_display_links = None
    list_filter = (HasBitFilter,)
    list_select_related = ("key",)
    search_fields = ("bucket", "prefix", "key__name")
    search_help_text = "A part of a bucket's name, of a prefix, or of a key's name."
    fields = ("holder", "bucket", "exact_prefix", "bits")

    @admin.display(description="Prefix", ordering="prefix")
    def exact_prefix(self, grant: Grant) -> SafeString | str:
        return format_html("<code>{}</code>", printable(grant.prefix)) if grant.prefix else "the whole bucket"

    @admin.display(description="Rights", ordering="permissions")
    def bits(self, grant: Grant) -> str:
        return bits_text(grant.permissions)

    @admin.display(description="Key", ordering="key__name")
    def holder(self, grant: Grant) -> SafeString:
        return link_to(grant.key)


class SignInFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("good", "Good"), ("revoked", "Revoked"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RefreshFamily]) -> QuerySet[RefreshFamily]:
        now = timezone.now()
        match self.value():
            case "good":
                return queryset.filter(revoked_at=None, expires_at__gt=now)
            case "revoked":
                return queryset.exclude(revoked_at=None)
            case "expired":
                return queryset.filter(revoked_at=None, expires_at__lte=now)
            case _:
                return queryset


@admin.register(RefreshFamily)
class RefreshFamilyAdmin(ShownOnly):
    """All refresh tokens of one sign-in make a family."""

    help_text = "Who is signed in to the API. Revoking one signs its holder out within the life of an access token."
    list_display = ("short_id", "holder", "state", "renewals", "began", "ends")
    list_filter = (SignInFilter,)
    list_select_related = ("key",)
    search_fields = ("key__name",)
    search_help_text = "A part of the key's name."
    ordering = ("-expires_at",)
    fields = ("id", "holder", "state", "renewals", "created_at", "expires_at", "revoked_at")
    actions = ("revoke",)

    @admin.display(description="Sign-in")
    def short_id(self, family: RefreshFamily) -> str:
        return str(family.pk)[:8]

    @admin.display(description="Key", ordering="key__name")
    def holder(self, family: RefreshFamily) -> SafeString:
        return link_to(family.key)

    @admin.display(description="State")
    def state(self, family: RefreshFamily) -> SafeString:
        if family.revoked_at is not None:
            return with_dot("offline", f"revoked {when(family.revoked_at)}")
        if family.expires_at <= timezone.now():
            return with_dot("offline", "expired")
        return with_dot("online", "good")

    @admin.display(description="Renewed")
    def renewals(self, family: RefreshFamily) -> str:
        return f"{family.serial - 1} times"

    @admin.display(description="Since", ordering="created_at")
    def began(self, family: RefreshFamily) -> str:
        return when(family.created_at)

    @admin.display(description="Until", ordering="expires_at")
    def ends(self, family: RefreshFamily) -> str:
        return when(family.expires_at)

    @admin.action(description="Revoke: sign out", permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[RefreshFamily]) -> None:
        ended = revoke_families(family_ids=queryset.values_list("pk", flat=True))
        self.message_user(request, f"{ended} signed out. What was over before stays so.")


@admin.register(RevokedKey)
class RevokedKeyAdmin(ShownOnly):
    help_text = "Deleted keys whose leases and URLs could still be about: volume servers are told to refuse them."
    list_display = ("key_id", "revoked")
    search_fields = ("=key_id",)
    search_help_text = "The number of a key that was deleted."
    fields = ("key_id", "revoked")
    ordering = ("-revoked_at",)

    @admin.display(description="revoked", ordering="revoked_at")
    def revoked(self, key: RevokedKey) -> str:
        return when(key.revoked_at)


class ActionFilter(admin.SimpleListFilter):
    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(action.value, action.value) for action in Action]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(ShownOnly):
    help_text = "Who did what, when and from where: every change, and every denied try."
    list_display = ("moment", "what", "who", "where", "aim", "source", "said")
    list_display_links = ("moment",)
    list_filter = ("outcome", "through", ActionFilter)
    search_fields = ("=bucket", "^target", "=key_name", "=address", "=request_id", "=action")
    search_help_text = "A bucket, the start of a target, a key's name, an address, a request id, or an action."
    date_hierarchy = "at"
    fields = (
        "moment", "outcome", "action", "who", "where", "aim", "address", "request_id", "through", "count", "detail",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        write_denials(at_once=True)
        return super().get_queryset(request)

    @admin.display(description="Time", ordering="at")
    def moment(self, entry: AuditEntry) -> str:
        return when(entry.at)

    @admin.display(description="Action")
    def what(self, entry: AuditEntry) -> SafeString | str:
        """What was done; in words, too, where it was not, and how often it was tried."""
        times = f" {entry.count:,} times" if entry.count > 1 else ""
        if entry.outcome == Outcome.DONE:
            return f"{entry.action}{times}"
        return format_html(
            '{}<br><strong class="{}">{}{}</strong>', entry.action, entry.outcome, entry.get_outcome_display(), times
        )

    @admin.display(description="Target")
    def aim(self, entry: AuditEntry) -> str:
        return printable(entry.target) or "-"

    @admin.display(description="From")
    def source(self, entry: AuditEntry) -> str:
        return f"{entry.address} {entry.through}".strip()

    @admin.display(description="Key", ordering="key_id")
    def who(self, entry: AuditEntry) -> SafeString | str:
        if entry.key_id is None:
            return "-"
        url = reverse("admin:keys_apikey_change", args=[entry.key_id])
        return format_html('<a href="{}">{} ({})</a>', url, entry.key_name or "key", entry.key_id)

    @admin.display(description="Bucket", ordering="bucket")
    def where(self, entry: AuditEntry) -> SafeString | str:
        if not entry.bucket:
            return "-"
        url = reverse("admin:buckets_bucket_changelist") + "?" + urlencode({"q": entry.bucket})
        return format_html('<a href="{}">{}</a>', url, entry.bucket)

    @admin.display(description="Detail")
    def said(self, entry: AuditEntry) -> str:
        text = printable(", ".join(f"{name} {value}" for name, value in entry.detail.items()))
        return text if len(text) <= MAX_SAID_CHARS else f"{text[:MAX_SAID_CHARS]}…"


def _actor(request: HttpRequest) -> KeyRights:
    """The rights of the signed-in key, as they are now."""
    assert isinstance(request.user, ApiKey)
    return rights_now([request.user.pk])[request.user.pk]
