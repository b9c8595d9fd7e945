"""Signing in, and managing keys."""

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys import api, tokens
from keys.api.schema import raises
from keys.api.serializers import (
    JwksSerializer,
    KeyListSerializer,
    KeySerializer,
    NewKeySerializer,
    PageSerializer,
    RefreshSerializer,
    SignInSerializer,
    TokenPairSerializer,
)
from keys.errors import KeyRefused, KeyTooStrong, KeyUnknown, LastAdmin, TokenRefused, TooManyFailures
from keys.models import ApiKey
from keys.permissions import Permission
from keys.selectors import get_key, list_keys
from keys.services.keys import create_key, delete_key, update_key
from keys.services.sign_in import issue_tokens, refresh_tokens, revoke_tokens, sign_in

NO_STORE = {"Cache-Control": "no-store"}


class Jwks(APIView):
    """The public keys that access tokens are verified with (RFC 7517)."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    renderer_classes = (JSONRenderer,)  # to browsers, too: it is made for programs

    @extend_schema(responses=JwksSerializer, tags=["tokens"])
    def get(self, request: Request) -> Response:
        return Response(tokens.jwks(), headers={"Cache-Control": "public, max-age=60"})


class Tokens(APIView):
    """Sign in with a key."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=SignInSerializer, responses=TokenPairSerializer)
    @raises(KeyRefused, TooManyFailures)
    def post(self, request: Request) -> Response:
        given = SignInSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        key = sign_in(key_text=given.validated_data["key"], address=request.META.get("REMOTE_ADDR", ""))
        return Response(TokenPairSerializer(issue_tokens(key=key)).data, headers=NO_STORE)


class TokensRefresh(APIView):
    """Spend a refresh token for a new pair.

    Of several calls with the same one at once, one gets it, the others 401. Coming with it later revokes all tokens
    that descend from the same sign-in.
    """

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=RefreshSerializer, responses=TokenPairSerializer)
    @raises(TokenRefused)
    def post(self, request: Request) -> Response:
        given = RefreshSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        pair = refresh_tokens(refresh=given.validated_data["refresh"])
        return Response(TokenPairSerializer(pair).data, headers=NO_STORE)


class TokensRevoke(APIView):
    """Sign out: end a refresh token and all that descend from the same sign-in.

    Access tokens that were issued before live on until they expire, minutes later. Delete the key, or take its rights
    away, to end them at once.
    """

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=RefreshSerializer, responses={204: None})
    @raises(TokenRefused)
    def post(self, request: Request) -> Response:
        given = RefreshSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        revoke_tokens(refresh=given.validated_data["refresh"])
        return Response(status=204)


class Keys(APIView):
    """All keys, by id."""

    @extend_schema(parameters=[PageSerializer], responses=KeyListSerializer)
    def get(self, request: Request) -> Response:
        """All keys, by id: never their secrets."""
        api.rights(request).require(Permission.KEYS_READ)
        page = PageSerializer(data=request.query_params)
        page.is_valid(raise_exception=True)
        limit = page.validated_data["limit"]
        found = list(list_keys(after=page.validated_data["after"], limit=limit + 1))
        shown = found[:limit]
        next_after = shown[-1].pk if len(found) > limit else None
        return Response(KeyListSerializer({"results": shown, "next_after": next_after}).data)

    @extend_schema(request=KeySerializer, responses={201: NewKeySerializer})
    @raises(KeyTooStrong)
    def post(self, request: Request) -> Response:
        """Make a key that is no stronger than the one used. The answer alone shows its secret."""
        actor = api.rights(request)
        actor.require(Permission.KEYS_MANAGE)
        given = KeySerializer(data=request.data)
        given.is_valid(raise_exception=True)
        new = create_key(actor=actor, **given.validated_changes())
        return Response({**KeySerializer(new.key).data, "key": new.text}, status=201, headers=NO_STORE)


class KeyDetail(APIView):
    """One key."""

    @extend_schema(responses=KeySerializer)
    @raises(KeyUnknown)
    def get(self, request: Request, key_id: int) -> Response:
        """One key."""
        api.rights(request).require(Permission.KEYS_READ)
        return Response(KeySerializer(_key(key_id)).data)

    @extend_schema(request=KeySerializer, responses=KeySerializer)
    @raises(KeyUnknown, KeyTooStrong, LastAdmin)
    def patch(self, request: Request, key_id: int) -> Response:
        """Change what is given of a key. What takes a right away ends its tokens, leases and signed URLs."""
        actor = api.rights(request)
        actor.require(Permission.KEYS_MANAGE)
        given = KeySerializer(_key(key_id), data=request.data, partial=True)
        given.is_valid(raise_exception=True)
        key = update_key(actor=actor, key_id=key_id, **given.validated_changes())
        return Response(KeySerializer(key).data)

    @extend_schema(responses={204: None})
    @raises(KeyUnknown, KeyTooStrong, LastAdmin)
    def delete(self, request: Request, key_id: int) -> Response:
        """Delete a key: its tokens, leases and signed URLs are dead."""
        actor = api.rights(request)
        actor.require(Permission.KEYS_MANAGE)
        delete_key(actor=actor, key_id=key_id)
        return Response(status=204)


def _key(key_id: int) -> ApiKey:
    """Raises KeyUnknown."""
    key = get_key(key_id)
    if key is None:
        raise KeyUnknown(f"There is no key {key_id}.")
    return key
