"""Reading JSON that anybody may have sent."""

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

TOO_DEEP = "it is nested too deeply"


def parse_json(raw: bytes) -> object:
    """The value of a JSON text. Raises ValueError, also for nesting that the decoder's stack has no room for."""
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


class BodyParser(JSONParser):
    """Django REST framework's parser, with nesting beyond the stack as one more error of the caller."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError(f"JSON parse error - {TOO_DEEP}") from error
