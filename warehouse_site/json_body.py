"""Reading JSON that anybody may have sent."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

TOO_DEEP = "it is nested too deeply"
MAX_NAME_CHARS = 80
"""Of a name that is told in an error."""


def parse_json(raw: bytes) -> object:
    """The value of a JSON text. Raises ValueError, also for nesting that the decoder's stack has no room for."""
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


class BodyParser(JSONParser):
    """Strict JSON in UTF-8: of a name that stands twice in an object nobody knows which value was meant."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return json.loads(stream.read().decode(), object_pairs_hook=_object, parse_constant=_no_number)
        except RecursionError as error:
            raise ParseError(f"JSON parse error - {TOO_DEEP}") from error
        except ValueError as error:
            raise ParseError(f"JSON parse error - {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:MAX_NAME_CHARS]!r} stands twice in one object")
    return fields


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
