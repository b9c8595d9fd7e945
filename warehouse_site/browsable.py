"""The browsable API, with something to begin with in every form.

Views are made with this module, so it imports none.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request

CHANGES = ("PATCH", "PUT")
_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


class ExampleRenderer(BrowsableAPIRenderer):
    """Django REST framework's, whose raw data forms begin with what the OpenAPI document has for an example.

    Those that change what is there begin with what it is, so that who sends one as it stands changes nothing.
    """

    def get_raw_data_form(self, data: Any, view: Any, method: str, request: Request) -> Any:
        from warehouse_site.openapi import body_example  # which imports the views' module

        form: Any = super().get_raw_data_form(data, view, method, request)
        match = request.resolver_match
        if form and match is not None:
            path = "/" + _ARGUMENT.sub(r"{\1}", match.route)
            if (example := body_example(path, method)) is not None:
                is_refusal = view.response.status_code >= HTTPStatus.BAD_REQUEST
                shown = {} if is_refusal or not isinstance(data, Mapping) else data
                begin = _settable(shown, example) if method in CHANGES else example
                form.fields["_content"].initial = json.dumps(begin, indent=4, ensure_ascii=False, default=str)
        return form


def _settable(shown: Mapping[str, Any], example: Any) -> dict[str, Any]:
    """The part of what is shown that a body like ``example`` can have; of objects in a list, too."""
    settable = {}
    for name in example:
        if name in shown:
            value, inner = shown[name], example[name]
            if isinstance(value, list) and isinstance(inner, list) and inner and isinstance(inner[0], dict):
                value = [_settable(item, inner[0]) for item in value]
            settable[name] = value
    return settable
