"""The browsable API, with an example in every form. Views are made with this module, so it imports none."""

import json
import re
from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request

_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


class ExampleRenderer(BrowsableAPIRenderer):
    """Django REST framework's, whose raw data forms begin with what the OpenAPI document has for an example."""

    def get_raw_data_form(self, data: Any, view: Any, method: str, request: Request) -> Any:
        from warehouse_site.openapi import body_example  # which imports the views' module

        form: Any = super().get_raw_data_form(data, view, method, request)
        match = request.resolver_match
        if form and match is not None:
            path = "/" + _ARGUMENT.sub(r"{\1}", match.route)
            if (example := body_example(path, method)) is not None:
                form.fields["_content"].initial = json.dumps(example, indent=4, ensure_ascii=False)
        return form
