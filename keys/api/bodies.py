"""What callers send, in every app's API."""

from collections.abc import Callable, Mapping
from typing import Any

from django.http import QueryDict
from rest_framework import serializers


class Body(serializers.Serializer[Any]):
    """What a caller sends. A field that there is not is refused: it may be a misspelt condition.

    Fields that are only read may stand in it and change nothing, so that what was got can be sent back.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError({_spelt(name): ["There is no such field."] for name in unknown})
        return super().to_internal_value(data)


class Query(Body):
    """What stands behind the `?` of an address. A value that is empty is there nevertheless."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, QueryDict):
            lists = {name for name, field in self.fields.items() if isinstance(field, serializers.ListField)}
            data = {name: data.getlist(name) if name in lists else data[name] for name in data}
        return super().to_internal_value(data)


class TextField(serializers.CharField):
    """Text as it is given: nothing is trimmed unless asked for, and numbers are no text.

    ``error_of`` says what is wrong with one.
    """

    def __init__(self, *, error_of: Callable[[str], str | None] | None = None, **options: Any) -> None:
        self.error_of = error_of
        super().__init__(**{"trim_whitespace": False, **options})

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text: str = super().to_internal_value(data)
        if self.error_of is not None and (problem := self.error_of(text)) is not None:
            raise serializers.ValidationError(problem)
        return text


class FlagField(serializers.BooleanField):
    """true or false in JSON, and nothing that only looks like it."""

    def to_internal_value(self, data: object) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


def _spelt(name: str) -> str:
    """A name that JSON can hold and UTF-8 cannot, as text that can be answered."""
    return name.encode(errors="backslashreplace").decode()
