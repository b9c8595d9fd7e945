"""The API as an OpenAPI document, and how our views read in it.

Summaries are the first lines of docstrings. Errors that every call of a kind can have are added by what the call
looks like, those of its own by `keys.api.schema.raises`. Examples are made from the names and types of the fields.
"""

import inspect
from functools import lru_cache
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from rest_framework.permissions import SAFE_METHODS, AllowAny

from keys import errors
from volumes.errors import LeasesHalted
from volumes.models import MAX_VOLUME
from warehouse_site import problems
from warehouse_site.examples import example_of

RENDERERS = {
    renderer.media_type: renderer
    for renderer in (OpenApiYamlRenderer, OpenApiYamlRenderer2, OpenApiJsonRenderer, OpenApiJsonRenderer2)
}
"""The forms that the document has, by media type; the first is sent to whom any will do."""

TOKENS = "/api/v1/tokens"
"""Below it one signs in and out, in a database that is behind, too."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "bucket": {"description": "The bucket's name.", "schema": {"type": "string", "minLength": 1}},
    "key": {
        "description": "The object's key, percent-encoded; slashes may stand as they are. Keys with `.` or `..` "
        "segments are reached by batch calls only.",
        "schema": {"type": "string", "minLength": 1},
    },
    "key_id": {"description": "The API key's number."},
    "server_id": {"description": "The volume server's id."},
    "share_id": {"description": "The share's number."},
    "task": {
        "description": "The task's name, as `tasks` lists it.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.]{1,100}$"},
    },
    "upload_id": {"description": "The upload's id."},
    "volume_id": {
        "description": "The volume's number.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_VOLUME},
    },
}
"""What the parameters in paths are: the converters of our URLs say too little."""

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457). `code` is stable; some errors have further members.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "A short sentence, the same for every case of the code."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "code": {"type": "string", "description": "What went wrong, for programs."},
        "detail": {"type": "string", "description": "The case at hand, for people."},
        "request_id": {"type": "string", "description": "The same as in the X-Request-Id header, and in the log."},
        "errors": {
            "type": "object",
            "description": "Of `invalid`: what is wrong, by the field's path, as `grants.0.prefix`.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
}


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The document, made once in the life of a process: it takes a while. Not to be changed."""
    from drf_spectacular.generators import SchemaGenerator  # reads the settings that name this module

    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


@lru_cache
def rendered(media_type: str) -> bytes:
    """The document's text in one of its forms; YAML takes a while, too."""
    renderer: Any = RENDERERS[media_type]()
    text: bytes = renderer.render(document())
    return text


def body_example(path: str, method: str) -> object | None:
    """The example of what a call sends; None where there is no such call, or it sends nothing."""
    operation = document()["paths"].get(path, {}).get(method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {})
    example: object = content.get("application/json", {}).get("example")
    return example


class HouseSchema(AutoSchema):
    """Names operations by their path, so that `keys` and `keys/{key_id}` never get one name."""

    def get_operation_id(self) -> str:
        parts = [
            f"by_{part[1:-1]}" if part.startswith("{") else part.strip(".").replace("-", "_").replace(".", "_")
            for part in self.path.removeprefix("/api/v1").strip("/").split("/")
        ]
        return "_".join([*parts, self.method.lower()])

    def get_summary(self) -> str:
        return self._first_line().removesuffix(".")

    def _first_line(self) -> str:
        described: str = self.get_description()
        return described.strip().split("\n\n")[0].replace("\n", " ").split(". ")[0]

    def get_operation(self, *args: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args)
        if operation is None:
            return None
        for status, kinds in sorted(self._errors(operation).items()):
            answer = operation["responses"].setdefault(str(status), {"description": _sentence(kinds)})
            answer.setdefault("content", {})[problems.CONTENT_TYPE] = _problem_content(status, kinds)
        operation["responses"] = dict(sorted(operation["responses"].items()))
        return operation

    def _errors(self, operation: dict[str, Any]) -> dict[int, dict[str, str]]:
        """Titles of the errors that can be answered, by status and code."""
        places = {parameter["in"] for parameter in operation.get("parameters", ())}
        method = inspect.unwrap(getattr(self.view, self.method.lower()))
        kinds: list[type[errors.WarehouseError]] = [problems.DatabaseBusy]
        if self.method not in SAFE_METHODS and not self.path.startswith(TOKENS):
            kinds.append(LeasesHalted)
        for kind in getattr(method, "errors", ()):
            # What is raised may be a special case of it; families as wide as `Invalid` stand for themselves.
            kinds += [kind] if kind.__module__ == errors.__name__ else problems.family(kind)
        codes = ["not_acceptable"]
        if AllowAny not in getattr(self.view, "permission_classes", ()):
            kinds += [errors.Unauthenticated, errors.TokenRefused, errors.PermissionDenied]
        if "query" in places:
            codes.append("bad_request")
        if "requestBody" in operation:
            codes += ["bad_request", "unsupported_media_type"]
            kinds += [errors.Invalid, errors.TooLarge]
        if "query" in places:
            kinds.append(errors.Invalid)
        if "path" in places:
            kinds.append(errors.NotFound)
        found: dict[int, dict[str, str]] = {}
        for kind in kinds:
            found.setdefault(problems.status_of(kind), {})[kind.code] = kind.title
        for code in codes:
            status, title = problems.FRAMEWORK_ERRORS[code]
            found.setdefault(status, {})[code] = title
        return found


def finish(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Last touches (a hook of drf-spectacular): the schema of errors, examples, what the parameters are."""
    schemas = result["components"]["schemas"]
    schemas["Problem"] = PROBLEM_SCHEMA
    for path in result["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter.update(PARAMETERS[parameter["name"]])
                if parameter.get("required"):
                    parameter.setdefault("example", example_of(parameter["schema"], schemas, parameter["name"]))
            for answer in (operation.get("requestBody", {}), *operation["responses"].values()):
                for media_type, content in answer.get("content", {}).items():
                    if media_type == "application/json":
                        content.setdefault("example", example_of(content["schema"], schemas))
            for status, answer in operation["responses"].items():
                answer["description"] = answer["description"] or ("Done." if status < "300" else "See `status`.")
    return result


def _sentence(kinds: dict[str, str]) -> str:
    return "; ".join(f"{title} (`{code}`)" for code, title in kinds.items()) + "."


def _problem_content(status: int, kinds: dict[str, str]) -> dict[str, Any]:
    return {
        "schema": {
            "allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"type": "object", "properties": {"code": {"type": "string", "enum": sorted(kinds)}}},
            ]
        },
        "examples": {
            code: {
                "value": {
                    "type": "about:blank",
                    "title": title,
                    "status": status,
                    "code": code,
                    "detail": f"{title}.",
                    "request_id": "0c6b1e0f6c1f4a0a8f0b6a3f4f3a2d11",
                }
            }
            for code, title in sorted(kinds.items())
        },
    }
