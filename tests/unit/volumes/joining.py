"""A volume server's side of the internal calls, for tests of the master's side."""

import json
import time
from typing import Any
from uuid import UUID, uuid4

from django.http import HttpResponse
from django.test import Client

from keys.secrets import secret
from tests.unit.volumes.factories import heartbeat_body, register_body
from volume_server.signing import TO_MASTER, signed_headers

PREFIX = "/api/v1/internal/"


class Joiner:
    """Speaks as one server; `join` learns the secret, as the real one does."""

    def __init__(self, server: UUID | None = None, instance: str = "i-1") -> None:
        self.id = server or uuid4()
        self.instance = instance
        self.secret: bytes | None = None
        self.kid = 0
        self.offset_ms = 0
        self.http = Client()

    def post(
        self, path: str, body: object, /, *, headers: dict[str, str] | None = None, **changed: Any
    ) -> HttpResponse:
        """A signed post; ``changed`` replaces arguments of the signature."""
        raw = json.dumps(body).encode() if not isinstance(body, bytes) else body
        if headers is None and self.secret is not None:
            signed: dict[str, Any] = {
                "kid": self.kid,
                "direction": TO_MASTER,
                "method": "POST",
                "target": PREFIX + path,
                "body": raw,
                "server": str(self.id),
                "time_ms": int(time.time() * 1000) + self.offset_ms,
            } | changed
            headers = signed_headers(signed.pop("secret", self.secret), **signed)
        return self.http.post(PREFIX + path, raw, content_type="application/json", headers=headers or {})

    def register(self, **fields: Any) -> HttpResponse:
        body = register_body(self.id, self.instance)
        if self.secret is None:
            body["token"] = secret("join.token").decode()
        return self.post("register", body | fields)

    def join(self, **fields: Any) -> dict[str, Any]:
        response = self.register(**fields)
        assert response.status_code == 200, response.content
        answer: dict[str, Any] = json.loads(response.content)
        self.secret, self.kid = bytes.fromhex(answer["secret"]), answer["kid"]
        return answer

    def heartbeat(self, **fields: Any) -> HttpResponse:
        return self.post("heartbeat", heartbeat_body(self.id, self.instance, **fields))

    def beat(self, **fields: Any) -> dict[str, Any]:
        response = self.heartbeat(**fields)
        assert response.status_code == 200, response.content
        answer: dict[str, Any] = json.loads(response.content)
        return answer


def problem(response: HttpResponse) -> tuple[int, str]:
    """Status and code of a problem document."""
    assert response.headers["Content-Type"] == "application/problem+json", response.content
    body = json.loads(response.content)
    assert {"type", "title", "status", "code", "detail"} <= set(body)
    assert body["status"] == response.status_code
    return response.status_code, body["code"]
