"""What volume servers call. Plain Django: no tokens, no negotiation, JSON in and out."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from keys.errors import Invalid, WarehouseError
from volumes.api.internal_auth import authenticate_server, is_signed
from volumes.errors import SignatureInvalid
from volumes.reports import parse_deregistration, parse_heartbeat, parse_registration
from volumes.services.servers import Orders, deregister_server, record_heartbeat, register_server
from warehouse_site.json_body import parse_json
from warehouse_site.problems import problem_response

View = Callable[[HttpRequest], dict[str, Any]]


def internal(view: View) -> Callable[[HttpRequest], HttpResponse]:
    """A POST view that gives the members of a JSON object; domain errors become problem documents."""

    @csrf_exempt
    @require_POST
    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            return JsonResponse(view(request))
        except WarehouseError as error:
            return problem_response(error, request)

    return wrapped


@internal
def register(request: HttpRequest) -> dict[str, Any]:
    proven = authenticate_server(request) if is_signed(request) else None
    registration = parse_registration(_json(request))
    if proven is not None and proven != registration.report.server:
        raise SignatureInvalid("The body names another server than the signature.")
    welcome = register_server(registration=registration, is_proven=proven is not None)
    return {"kid": welcome.kid, "secret": welcome.secret.hex(), **_orders(welcome.orders)}


@internal
def heartbeat(request: HttpRequest) -> dict[str, Any]:
    server = authenticate_server(request)
    report = parse_heartbeat(_json(request))
    if server != report.server:
        raise SignatureInvalid("The body names another server than the signature.")
    return _orders(record_heartbeat(report=report))


@internal
def deregister(request: HttpRequest) -> dict[str, Any]:
    server = authenticate_server(request)
    server_id, instance = parse_deregistration(_json(request))
    if server != server_id:
        raise SignatureInvalid("The body names another server than the signature.")
    deregister_server(server_id=server_id, instance=instance)
    return {}


def _json(request: HttpRequest) -> object:
    try:
        return parse_json(request.body)
    except ValueError as error:
        raise Invalid(f"The body is not JSON: {error}.") from error


def _orders(orders: Orders) -> dict[str, Any]:
    return {
        "store": orders.store,
        "sequence": orders.sequence,
        "now_ms": orders.now_ms,
        "settings": {"cors_origins": list(orders.cors_origins), "volume_size": settings.WAREHOUSE_VOLUME_SIZE},
        "revoked": {str(key): generation for key, generation in orders.revoked.items()},
        "instructions": [one.as_json() for one in orders.instructions],
    }
