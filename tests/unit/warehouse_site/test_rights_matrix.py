"""The rights matrix: every route, asked by keys with every single right, about what is theirs and what is not.

What each route needs stands in `matrix_routes`; what each caller must hear is worked out here from that alone, and
not by the code that decides it in the store.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from keys.permissions import ALL_PERMISSIONS, GRANTABLE, Permission, names
from keys.rights import GrantRow
from tests.unit.buckets.lab import forget_caches
from tests.unit.warehouse_site.matrix_routes import (
    ROUTES,
    Door,
    Route,
    Scope,
    Shown,
    values,
)
from tests.unit.warehouse_site.matrix_world import (
    INSIDE,
    KEYS,
    OTHER,
    OWN,
    PREFIX,
    TARGETS,
    Caller,
    Target,
    World,
    strangers,
)

NO_API = ("admin", "favicon.ico", "api/v1/internal/", "api/auth/", "s/")
"""Where other things decide who may: Django's admin site, the signatures of volume servers, forms to sign in with, and
the links of shares."""
PAGES = (".web.", "django.contrib.auth.")
"""In the name of the module of a page for people: what each needs is tested beside it."""


@dataclass(frozen=True)
class Found:
    """A route as Django knows it."""

    name: str
    full_name: str
    """With the namespace, as `reverse` wants it."""
    path: str
    arguments: tuple[str, ...]
    methods: frozenset[str]


def routes_of(patterns: Any, prefix: str = "", namespace: str = "") -> Iterator[Found]:
    """All routes of the API. HEAD goes with GET, OPTIONS shows nothing but the methods."""
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if route.startswith(NO_API):
            continue
        if isinstance(pattern, URLResolver):
            inside = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from routes_of(pattern.url_patterns, route, inside)
        elif isinstance(pattern, URLPattern) and not any(page in pattern.callback.__module__ for page in PAGES):
            view = getattr(pattern.callback, "view_class", None)
            assert view is not None, f"/{route} is a function: make it a class, so that its methods can be known"
            methods = {method.upper() for method in view.http_method_names if hasattr(view, method)}
            assert pattern.name, f"/{route} has no name"
            yield Found(
                name=pattern.name,
                full_name=namespace + pattern.name,
                path=route,
                arguments=tuple(pattern.pattern.converters),
                methods=frozenset(methods - {"HEAD", "OPTIONS"}),
            )


FOUND = {found.name: found for found in routes_of(get_resolver().url_patterns)}


def test_every_route_has_an_entry(world: World) -> None:
    there = {(found.name, method) for found in FOUND.values() for method in found.methods}
    known = {(route.name, route.method) for route in ROUTES}
    missing = "\n".join(f'    Route("{name}", "{method}", …),' for name, method in sorted(there - known))
    assert not missing, f"say in tests/unit/warehouse_site/matrix_routes.py (how: see there) who may call:\n{missing}"
    assert not known - there, "entries of matrix_routes.py that no route answers to"
    arguments = {argument for found in FOUND.values() for argument in found.arguments}
    assert not arguments - values(world, INSIDE).keys(), "add to values in matrix_routes.py what these stand for"


# --- who must hear what ---


def holds(caller: Caller, permission: int, scope: Scope, target: Target) -> bool:
    """Whether the caller has this one right for the target, as the design says it."""
    if caller.permissions & (permission | Permission.ADMIN):
        return True
    for grant in caller.grants:
        here = grant.bucket == target.bucket
        covers = {
            Scope.STORE: False,
            Scope.SOMEWHERE: True,
            Scope.BUCKET: here,
            Scope.WHOLE_BUCKET: here and not grant.prefix,
            Scope.KEY: here and target.key.startswith(grant.prefix),
        }
        if grant.permissions & permission and covers[scope]:
            return True
    return False


def may(caller: Caller, route: Route, target: Target) -> bool:
    return all(
        holds(caller, permission, need.scope, target)
        for need in route.required
        for permission in Permission
        if need.permissions & permission
    )


def visible(caller: Caller, route: Route, target: Target) -> set[str]:
    """What an answer may show to the caller."""
    assert route.shows is not None
    [need] = route.required
    bit = int(need.permissions)
    match route.shows[0]:
        case Shown.BUCKETS:
            return {name for name in (OWN, OTHER) if holds(caller, bit, Scope.BUCKET, Target(name, ""))}
        case Shown.KEYS:
            return {key for key in KEYS if holds(caller, bit, Scope.KEY, Target(target.bucket, key))}
        case Shown.KEY:
            return {target.key} if holds(caller, bit, Scope.KEY, target) else set()


def callers(route: Route) -> dict[Caller, str]:
    """Every right alone, in each form; what the route needs and no more; all but what it needs."""
    made: dict[Caller, str] = {Caller(): "nothing"}

    def add(caller: Caller, name: str) -> None:
        made.setdefault(caller, name)

    for permission in Permission:
        add(Caller(int(permission)), f"{permission.name} everywhere")
        if permission & GRANTABLE:
            add(granted(permission, ""), f"{permission.name} on {OWN}")
            add(granted(permission, PREFIX), f"{permission.name} on {OWN} {PREFIX}")
    if route.bits:
        needed = " and ".join(names(route.bits))
        add(Caller(route.bits), f"{needed} everywhere")
        if not route.bits & ~GRANTABLE:
            add(granted(route.bits, ""), f"{needed} on {OWN}")
            add(granted(route.bits, PREFIX), f"{needed} on {OWN} {PREFIX}")
        for permission in Permission:
            if permission & route.bits and permission != Permission.ADMIN:
                rest = ALL_PERMISSIONS & ~int(permission) & ~int(Permission.ADMIN)
                add(Caller(rest), f"all but {permission.name}")
                add(granted(rest & GRANTABLE, ""), f"all but {permission.name} on {OWN}")
    return made


def granted(permissions: int, prefix: str) -> Caller:
    return Caller(grants=(GrantRow(OWN, prefix, int(permissions)),))


# --- asking ---


class Asker:
    """Sends requests, each of which is undone."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = Client(raise_request_exception=False)

    def ask(self, route: Route, target: Target, authorization: str | None, method: str = "") -> Any:
        known = values(self.world, target)
        url = reverse(FOUND[route.name].full_name, kwargs={name: known[name]() for name in FOUND[route.name].arguments})
        if route.query:
            url += f"?{route.query}"
        headers = {} if authorization is None else {"Authorization": authorization}
        with transaction.atomic():
            if route.arrange:
                route.arrange(self.world, target)
            body = "" if route.body is None else filled(json.dumps(route.body), known)
            answer = self.client.generic(
                method or route.method, url, body, content_type="application/json", headers=headers
            )
            transaction.set_rollback(True)
        if route.method != "GET":
            forget_caches()
        return answer


def filled(text: str, known: dict[str, Callable[[], object]]) -> str:
    for name, value in known.items():
        if f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", str(value()))
    return text


def wrongs(answer: Any, route: Route, *, expected: int) -> Iterator[str]:
    """What is not as it should be; nothing for an answer that is right."""
    if answer.status_code != expected:
        yield f"{answer.status_code} instead of {expected}: {answer.content[:300]!r}"
    elif expected in {401, 403}:
        problem = json.loads(answer.content) if answer.headers["Content-Type"] == "application/problem+json" else {}
        codes = {401: {"not_authenticated", "token_refused"}, 403: {"permission_denied", "key_too_strong"}}
        if problem.get("code") not in codes[expected]:
            yield f"no such problem document: {answer.content[:300]!r}"
        if expected == 401 and not answer.headers.get("WWW-Authenticate", "").startswith("Bearer"):
            yield "no challenge"


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_who_may(route: Route, world: World) -> None:
    asker, found = Asker(world), []
    for caller, name in callers(route).items():
        authorization = f"Bearer {world.token_of(caller)}"
        for target in TARGETS:
            allowed = may(caller, route, target)
            answer = asker.ask(route, target, authorization)
            wrong = list(wrongs(answer, route, expected=route.status if allowed else 403))
            if not wrong and allowed and route.shows is not None:
                shown, wanted = set(route.shows[1](answer.json())), visible(caller, route, target)
                if shown != wanted:
                    wrong.append(f"shows {sorted(shown)} instead of {sorted(wanted)}")
            if not wrong and route.method == "GET":
                head = asker.ask(route, target, authorization, "HEAD")
                if (head.status_code, head.content) != (answer.status_code, b""):
                    wrong.append(f"HEAD is {head.status_code} with {len(head.content)} bytes")
            found += [f"{name}, {target.bucket}/{target.key}: {text}" for text in wrong]
    assert not found, f"{route} needs {route.needs}:\n" + "\n".join(found)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_strangers(route: Route, world: World) -> None:
    asker, found = Asker(world), []
    for name, authorization in strangers().items():
        welcome = route.needs is Door.OPEN or (route.needs is Door.ANYBODY and authorization is None)
        expected = route.status if welcome else 401
        for method in [route.method, "HEAD"] if route.method == "GET" else [route.method]:
            answer = asker.ask(route, INSIDE, authorization, method)
            if method == "HEAD":
                if answer.status_code != expected:
                    found.append(f"{name}: HEAD is {answer.status_code} instead of {expected}")
            else:
                found += [f"{name}: {text}" for text in wrongs(answer, route, expected=expected)]
    assert not found, f"{route} needs {route.needs}:\n" + "\n".join(found)
