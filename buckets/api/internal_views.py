"""What volume servers call: confirm. Plain Django, for it is called for every batch of writes."""

import json

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from buckets.batch import parse_batch
from buckets.errors import BatchInvalid
from buckets.services.confirm import confirm_needles
from buckets.verdicts import Refused, Verdict
from keys.errors import WarehouseError
from volumes.api.internal_auth import authenticate_server
from warehouse_site.json_body import parse_json
from warehouse_site.problems import problem_response, status_of


@csrf_exempt
@require_POST
def confirm(request: HttpRequest) -> HttpResponse:
    """Commits a batch of durable needles; see docs/protocol.md, section 5."""
    try:
        server = authenticate_server(request, lately=True)
        confirmed = confirm_needles(server=server, batch=parse_batch(_json(request)))
    except WarehouseError as error:
        return problem_response(error, request)
    answer = {"sequence": confirmed.sequence, "verdicts": [_on_the_wire(verdict) for verdict in confirmed.verdicts]}
    return HttpResponse(
        json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(), content_type="application/json"
    )


def _on_the_wire(verdict: Verdict) -> dict[str, object]:
    document = verdict.as_json()
    if isinstance(verdict, Refused):
        document["status"] = status_of(verdict.code)
    return document


def _json(request: HttpRequest) -> object:
    try:
        return parse_json(request.body)
    except ValueError as error:
        raise BatchInvalid(f"The body is not JSON: {error}.") from error
