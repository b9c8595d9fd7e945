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
from volumes.api.internal_auth import Claim, authenticate
from warehouse_site.json_body import parse_json
from warehouse_site.problems import problem_response, status_of

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@csrf_exempt
@require_POST
def confirm(request: HttpRequest) -> HttpResponse:
    """Commits a batch of durable needles; see docs/protocol.md, section 5."""
    try:
        return HttpResponse(confirmed(Claim.of(request), request.body), content_type="application/json")
    except WarehouseError as error:
        return problem_response(error, request)


def confirmed(claim: Claim, raw: bytes) -> bytes:
    """The answer to a confirm, of which ``raw`` is the body. Raises the domain error that refuses the whole."""
    server = authenticate(claim, raw, lately=True)
    try:
        document = parse_json(raw)
    except ValueError as error:
        raise BatchInvalid(f"The body is not JSON: {error}.") from error
    outcome = confirm_needles(server=server, batch=parse_batch(document))
    verdicts = [_on_the_wire(verdict) for verdict in outcome.verdicts]
    return _encode({"sequence": outcome.sequence, "verdicts": verdicts}).encode()


def _on_the_wire(verdict: Verdict) -> dict[str, object]:
    document = verdict.as_json()
    if isinstance(verdict, Refused):
        document["status"] = status_of(verdict.code)
    return document
