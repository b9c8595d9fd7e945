"""The API as an OpenAPI document, and how our views read in it."""

from functools import lru_cache
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The document, made once in the life of a process: it takes a while. Not to be changed."""
    from drf_spectacular.generators import SchemaGenerator  # reads the settings that name this module

    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


RENDERERS = {
    renderer.media_type: renderer
    for renderer in (OpenApiYamlRenderer, OpenApiYamlRenderer2, OpenApiJsonRenderer, OpenApiJsonRenderer2)
}
"""The forms that the document has, by media type; the first is sent to whom any will do."""


@lru_cache
def rendered(media_type: str) -> bytes:
    """The document's text in one of its forms; YAML takes a while, too."""
    renderer: Any = RENDERERS[media_type]()
    text: bytes = renderer.render(document())
    return text


class HouseSchema(AutoSchema):
    """Names operations by their path, so that `keys` and `keys/{key_id}` never get one name."""

    def get_operation_id(self) -> str:
        parts = [
            f"by_{part[1:-1]}" if part.startswith("{") else part.replace("-", "_")
            for part in self.path.removeprefix("/api/v1").strip("/").split("/")
        ]
        return "_".join([*parts, self.method.lower()])
