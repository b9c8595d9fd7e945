"""The OpenAPI document is whole: every call is described, with examples and with its errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from django.core.management import call_command

from warehouse_site import openapi, problems

DOCUMENT = openapi.document()
CALLS = {
    f"{method.upper()} {path}": call for path, calls in DOCUMENT["paths"].items() for method, call in calls.items()
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def test_the_document_is_valid_and_made_without_a_warning(tmp_path: Path) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "openapi.yaml"))


def plain(schema: Any) -> Any:
    """The schema as JSON Schema would have it: `nullable` is OpenAPI's own."""
    if isinstance(schema, list):
        return [plain(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: plain(value) for name, value in schema.items() if name not in {"nullable", "readOnly", "writeOnly"}}
    return {"anyOf": [inner, {"type": "null"}]} if schema.get("nullable") is True else inner


def assert_fits(example: object, schema: dict[str, Any]) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    whole = plain({**schema, "components": DOCUMENT["components"]})
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(example)


def contents(answer: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from answer.get("content", {}).items()


@every_call
def test_it_says_what_it_does(call: dict[str, Any]) -> None:
    assert call["summary"]
    assert "\n" not in call["summary"]
    assert call["description"]
    assert call["tags"]
    assert "security" in call
    for parameter in call.get("parameters", ()):
        assert parameter["schema"]
        assert parameter["in"] != "path" or parameter["description"]


@pytest.mark.parametrize(
    ("body", "field", "limit"),
    [("CommitRequest", "operations", 1000), ("KeysRequest", "keys", 1000), ("BucketRequest", "cors_origins", 100)],
)
def test_it_says_how_long_a_list_may_be(body: str, field: str, limit: int) -> None:
    assert DOCUMENT["components"]["schemas"][body]["properties"][field]["maxItems"] == limit


def test_no_two_calls_say_the_same() -> None:
    """A view of several methods describes each of them."""
    summaries = [call["summary"] for call in CALLS.values()]
    assert sorted(summaries) == sorted(set(summaries)), "give each method of the view a docstring of its own"


@every_call
def test_examples_fit_their_schemas(call: dict[str, Any]) -> None:
    bodies = [call.get("requestBody", {}), *(body for status, body in call["responses"].items() if status < "300")]
    for media_type, content in (pair for body in bodies for pair in contents(body)):
        if media_type == "application/json":
            assert_fits(content["example"], content["schema"])
    for parameter in call.get("parameters", ()):
        if parameter.get("required"):
            assert_fits(parameter["example"], parameter["schema"])


def test_examples_name_every_field() -> None:
    """A field that only has its type for an example gets one in warehouse_site/examples.py."""
    for name, call in CALLS.items():
        for body in (call.get("requestBody", {}), *call["responses"].values()):
            for _, content in contents(body):
                assert "'text'" not in str(content.get("example")), (name, content["example"])


@every_call
def test_errors_are_problem_documents_with_known_codes(call: dict[str, Any]) -> None:
    refusals = {status: body for status, body in call["responses"].items() if status >= "400"}
    assert "503" in refusals
    assert call["security"] == [{}] or {} in call["security"] or {"401", "403"} <= refusals.keys()
    assert "requestBody" not in call or {"400", "413", "415"} <= refusals.keys()
    for status, body in refusals.items():
        content = body["content"][problems.CONTENT_TYPE]
        assert body["description"]
        for code, example in content["examples"].items():
            assert example["value"]["status"] == int(status)
            assert example["value"]["code"] == code
            assert_fits(example["value"], content["schema"])
