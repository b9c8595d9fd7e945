"""API keys, their grants, the families of their refresh tokens, and the audit trail.

`ApiKey` is the project's user model: there is no second kind of account.
"""

import uuid
from collections.abc import Iterator
from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from keys.actions import WORDS, Action, Outcome, Through
from keys.permissions import ALL_PERMISSIONS, GRANTABLE, Permission, names
from keys.printable import printable
from keys.rights import ANYBODY

MAX_NAME_CHARS = 100
MAX_PREFIX_BYTES = 1024
MAX_BUCKET_CHARS = 63
HASH_HEX_CHARS = 64
MAX_ACTION_CHARS = 80
MAX_TARGET_CHARS = 1024
MAX_ADDRESS_CHARS = 64


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def live(self) -> "ApiKeyQuerySet":
        """Keys that have not expired."""
        return self.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now()))

    def admins(self) -> "ApiKeyQuerySet":
        """Keys with the ADMIN bit."""
        return self.annotate(admin_bit=F("permissions").bitand(int(Permission.ADMIN))).filter(admin_bit__gt=0)

    def get_by_natural_key(self, username: str) -> "ApiKey":
        """What `django.contrib.auth` asks of a user model."""
        return self.get(pk=username)


ApiKeyManager = models.Manager.from_queryset(ApiKeyQuerySet)


class ApiKey(models.Model):
    """A key of the API, and by that an account. Only a hash of its secret is kept."""

    name = models.CharField(max_length=MAX_NAME_CHARS, help_text="What the key is for.")
    description = models.TextField(blank=True, default="")
    secret_hash = models.CharField(max_length=HASH_HEX_CHARS, editable=False)
    permissions = models.PositiveIntegerField(default=0, help_text="Bits that hold in every bucket.")
    generation = models.PositiveIntegerField(
        default=1, editable=False, help_text="Raised when the key is weakened: tokens and leases name it."
    )
    generation_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    expires_at = models.DateTimeField(null=True, blank=True, db_index=True, help_text="Empty: never.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        "self", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="created_keys"
    )
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiKeyManager()

    USERNAME_FIELD = "id"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    is_anonymous = False
    is_authenticated = True

    class Meta:
        verbose_name = "API key"
        ordering = ("id",)
        constraints = (
            models.CheckConstraint(condition=~Q(name=""), name="key_has_a_name"),
            models.CheckConstraint(condition=Q(id__gt=ANYBODY), name="key_is_somebody"),
            models.CheckConstraint(
                condition=Q(permissions__gte=0, permissions__lte=ALL_PERMISSIONS), name="key_permissions_known"
            ),
            models.CheckConstraint(condition=Q(generation__gte=1), name="key_generation_positive"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_active(self) -> bool:
        """Whether the key has not expired."""
        return self.expires_at is None or self.expires_at > timezone.now()

    @property
    def is_staff(self) -> bool:
        return bool(self.permissions & Permission.ADMIN)

    @property
    def is_superuser(self) -> bool:
        return self.is_staff

    @property
    def permission_names(self) -> list[str]:
        return names(self.permissions)

    def get_username(self) -> str:
        return self.name

    def get_short_name(self) -> str:
        return self.name

    def get_session_auth_hash(self) -> str:
        """What a session is bound to: weakening the key ends its sessions."""
        text = f"{self.pk}.{self.generation}.{self.secret_hash}"
        return salted_hmac("warehouse.keys.session", text, algorithm="sha256").hexdigest()

    def get_session_auth_fallback_hash(self) -> Iterator[str]:
        """Sessions of earlier SECRET_KEYs are not taken over: there are none."""
        yield from ()

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """The admin site's rights: all for ADMIN, none for others."""
        return self.is_active and self.is_staff

    def has_perms(self, perm_list: list[str], obj: object = None) -> bool:
        return self.has_perm("", obj)

    def has_module_perms(self, app_label: str) -> bool:
        return self.has_perm("")


class Grant(models.Model):
    """Rights of a key on one bucket, named by name, and there on the keys that start with `prefix`."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="grants")
    bucket = models.CharField(max_length=MAX_BUCKET_CHARS, db_index=True)
    prefix = models.CharField(max_length=MAX_PREFIX_BYTES, blank=True, default="")
    permissions = models.PositiveIntegerField()

    class Meta:
        ordering = ("bucket", "prefix")
        constraints = (
            models.UniqueConstraint(fields=("key", "bucket", "prefix"), name="grant_once"),
            models.CheckConstraint(condition=~Q(bucket=""), name="grant_names_a_bucket"),
            models.CheckConstraint(
                condition=Q(permissions__gte=1, permissions__lte=int(GRANTABLE)), name="grant_permissions_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.bucket}/{printable(self.prefix)}: {', '.join(self.permission_names)}"

    @property
    def permission_names(self) -> list[str]:
        return names(self.permissions)


class RefreshFamily(models.Model):
    """All refresh tokens that descend from one log-in. Only the newest (`serial`) may be spent."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="refresh_families")
    serial = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)
    revoked_at = models.DateTimeField(null=True)
    spent_at = models.DateTimeField(null=True, help_text="When the token before the newest was spent.")

    class Meta:
        verbose_name_plural = "refresh families"
        constraints = (models.CheckConstraint(condition=Q(serial__gte=1), name="refresh_serial_positive"),)

    def __str__(self) -> str:
        return str(self.id)


class RevokedKey(models.Model):
    """A key that was deleted: what was signed for it is refused until it would have expired anyway."""

    key_id = models.BigIntegerField(primary_key=True)
    revoked_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return str(self.key_id)


class AuditEntry(models.Model):
    """Who did what, or tried to. Written with the change it tells of (`keys.services.audit`), and never changed.

    An entry outlives what it names, so nothing in it is a foreign key.
    """

    at = models.DateTimeField(help_text="When it was done; of several equal denied tries, the first.")
    key_id = models.BigIntegerField("key", null=True, help_text="Which key; empty: the system, or nobody known.")
    key_name = models.CharField(max_length=MAX_NAME_CHARS, blank=True, default="", help_text="Its name then.")
    action = models.CharField(max_length=MAX_ACTION_CHARS)
    bucket = models.CharField(max_length=MAX_BUCKET_CHARS, blank=True, default="")
    target = models.CharField(
        max_length=MAX_TARGET_CHARS,
        blank=True,
        default="",
        help_text="An object's key, what several keys begin with, or a volume, server, upload or key by id.",
    )
    address = models.CharField(max_length=MAX_ADDRESS_CHARS, blank=True, default="", help_text="The client's.")
    request_id = models.CharField(max_length=64, blank=True, default="")
    through = models.CharField(max_length=16, choices=Through)
    outcome = models.CharField(max_length=16, choices=Outcome)
    detail = models.JSONField(default=dict)
    count = models.BigIntegerField(default=1, help_text="How often, within a minute.")
    fold = models.CharField(  # noqa: DJ001 - empty is no fold
        max_length=32, null=True, editable=False, help_text="What equal denied tries of a minute have in common."
    )

    class Meta:
        verbose_name_plural = "audit entries"
        ordering = ("-at", "-id")
        constraints = (
            models.UniqueConstraint(fields=("fold",), condition=Q(fold__isnull=False), name="audit_fold_once"),
            models.CheckConstraint(condition=Q(outcome__in=Outcome.values), name="audit_outcome_known"),
            models.CheckConstraint(condition=Q(through__in=Through.values), name="audit_through_known"),
            models.CheckConstraint(condition=~Q(action="") & Q(count__gte=1), name="audit_tells_something"),
        )
        # A page of each filter, newest first, is a stretch of one of them. Puts are most of what there is and every
        # commit waits for theirs, so they are left out where nobody would look for them.
        indexes = (
            models.Index(fields=("at",), name="audit_at"),
            models.Index(fields=("key_id", "at"), name="audit_key"),
            models.Index(fields=("bucket", "at"), name="audit_bucket"),
            models.Index(fields=("action", "at"), condition=~Q(action=Action.OBJECT_PUT.value), name="audit_action"),
            models.Index(fields=("outcome", "at"), condition=~Q(outcome=Outcome.DONE.value), name="audit_outcome"),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.bucket} {printable(self.target)}".rstrip()

    @property
    def words(self) -> str:
        """The action in words; what was denied is no action, and is told by its route and method: ``GET keys``."""
        if self.action in WORDS:
            return WORDS[self.action]
        route, _, method = self.action.rpartition(".")
        return f"{method.upper()} {route}" if route and method.isalpha() else self.action
