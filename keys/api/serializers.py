"""The shapes of the keys API."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from keys.api.bodies import MAX_NUMBER, Body, NumberField, Query, TextField
from keys.models import MAX_BUCKET_CHARS, MAX_NAME_CHARS, ApiKey, Grant
from keys.permissions import ALL_PERMISSIONS, GRANTABLE, bits_of, names
from keys.rights import GrantRow
from keys.services.keys import MAX_GRANTS


class SignInSerializer(Body):
    key = TextField(max_length=1000, trim_whitespace=True, help_text="whk_<id>_<secret>")


class RefreshSerializer(Body):
    refresh = TextField(max_length=8192, trim_whitespace=True)


class TokenPairSerializer(serializers.Serializer[Any]):
    access = serializers.CharField(help_text="Send it as `Authorization: Bearer …`.")
    refresh = serializers.CharField(help_text="Good for one use.")
    expires_in = serializers.IntegerField(source="expires_in_s", help_text="Seconds until `access` expires.")


class JwkSerializer(serializers.Serializer[Any]):
    kty = serializers.CharField(help_text="`RSA`.")
    use = serializers.CharField(help_text="`sig`: it verifies signatures.")
    alg = serializers.CharField(help_text="`RS256`.")
    kid = serializers.CharField(help_text="The `kid` of the tokens that it verifies.")
    n = serializers.CharField(help_text="Modulus, base64url.")
    e = serializers.CharField(help_text="Exponent, base64url.")


class JwksSerializer(serializers.Serializer[Any]):
    keys = JwkSerializer(many=True)


@extend_schema_field(
    {
        "oneOf": [
            {"type": "integer", "minimum": 0, "maximum": ALL_PERMISSIONS},
            {"type": "array", "items": {"type": "string", "enum": names(ALL_PERMISSIONS)}},
        ]
    }
)
class PermissionsField(NumberField):
    """Permission bits: their sum, or a list of their names; always shown as the sum."""

    default_error_messages = {"invalid": 'A list of names, such as ["OBJECTS_READ"], or a number: the sum of the bits.'}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, list):
            if not all(isinstance(name, str) for name in data):
                self.fail("invalid")
            try:
                return bits_of(data)
            except ValueError as error:
                raise serializers.ValidationError(str(error)) from None
        bits: int = super().to_internal_value(data)
        return bits


class GrantSerializer(Body, serializers.ModelSerializer[Grant]):
    bucket = TextField(max_length=MAX_BUCKET_CHARS)
    prefix = TextField(allow_blank=True, default="")
    permissions = PermissionsField(min_value=1, max_value=int(GRANTABLE), help_text="Bits, or a list of names.")
    permission_names = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = Grant
        fields = ("bucket", "prefix", "permissions", "permission_names")
        validators: tuple[()] = ()

    def to_internal_value(self, data: Any) -> Any:
        """A grant is given whole, also where the key around it is given in part: fields look at their root for that."""
        if self.root is self:
            return super().to_internal_value(data)
        alone = GrantSerializer(data=data)
        alone.is_valid(raise_exception=True)
        return alone.validated_data

    def shown(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The names of the bits that are given: a grant is replaced, so there is none to compare it with."""
        try:
            bits = self.fields["permissions"].run_validation(data.get("permissions", serializers.empty))
        except serializers.ValidationError:
            return data  # that they are none is said of the bits
        return {"permission_names": names(bits)}


class KeySerializer(Body, serializers.ModelSerializer[ApiKey]):
    """A key as it is shown: never its secret."""

    name = TextField(max_length=MAX_NAME_CHARS, trim_whitespace=True)
    description = TextField(required=False, allow_blank=True, trim_whitespace=True)
    permissions = PermissionsField(
        min_value=0,
        max_value=ALL_PERMISSIONS,
        default=0,
        help_text="Bits that hold in every bucket: their sum, or a list of their names.",
    )
    grants = GrantSerializer(many=True, required=False, max_length=MAX_GRANTS)  # type: ignore[call-arg]

    moving = frozenset({"last_used_at"})

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "name",
            "description",
            "permissions",
            "permission_names",
            "grants",
            "expires_at",
            "created_at",
            "created_by",
            "last_used_at",
        )
        read_only_fields = ("id", "permission_names", "created_at", "created_by", "last_used_at")

    def validated_changes(self) -> dict[str, Any]:
        """What the caller gave, as keyword arguments of the services."""
        changes = dict(self.validated_data)
        if "grants" in changes:
            changes["grants"] = [GrantRow(**grant) for grant in changes["grants"]]
        return changes


class NewKeySerializer(KeySerializer):
    """A key in the one answer that shows its secret."""

    key = serializers.CharField(read_only=True, help_text="Shown here and never again.")

    class Meta(KeySerializer.Meta):
        fields = (*KeySerializer.Meta.fields, "key")  # type: ignore[assignment]


class KeyListSerializer(serializers.Serializer[Any]):
    results = KeySerializer(many=True)
    next_after = serializers.IntegerField(allow_null=True, help_text="`after` of the next page.")


class PageSerializer(Query):
    after = NumberField(min_value=0, max_value=MAX_NUMBER, default=0)
    limit = NumberField(min_value=1, max_value=1000, default=100)
