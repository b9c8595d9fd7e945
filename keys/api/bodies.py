"""What callers send, in every app's API."""

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, ClassVar

from django.http import QueryDict
from rest_framework import serializers
from rest_framework.request import Request

_DECIMAL = re.compile(r"-?[0-9]{1,100}")
MAX_NUMBER = (1 << 63) - 1
"""What a column of the database can hold."""
MAX_ERRORS = 20
"""So many items of a list that are wrong, or fields that there are not, are looked for: the answer tells no more."""


class Body(serializers.Serializer[Any]):
    """What a caller sends. A field that there is not is refused: it may be a misspelt condition.

    So is a field that can only be read, unless it says what is there: what was got can be sent back, and nobody takes
    for changed what can't be. What is there is the ``instance`` that the serializer is made with; else nothing.
    """

    moving: ClassVar[frozenset[str]] = frozenset()
    """Of these fields, those that change by themselves: they may be older than what is there."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)  # which says what is wrong with it
        if unknown := list(islice((name for name in data if name not in self.fields), MAX_ERRORS)):
            raise serializers.ValidationError({_spelt(name): ["There is no such field."] for name in unknown})
        if fixed := [name for name in data if self.fields[name].read_only]:
            shown = self.shown(data)
            if wrong := [name for name in fixed if name not in shown or not self._is_shown(name, shown, data)]:
                raise serializers.ValidationError({name: ["This can't be set; leave it out."] for name in wrong})
        return super().to_internal_value(data)

    def _is_shown(self, name: str, shown: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        return name in self.moving or _is_same(shown[name], data[name])

    def shown(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the fields that can only be read may say in the body ``data``."""
        return {} if self.instance is None else self.to_representation(self.instance)


class Query(Body):
    """What stands behind the `?` of an address. A value that is empty is there nevertheless."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, QueryDict):
            lists = {name for name, field in self.fields.items() if isinstance(field, serializers.ListField)}
            data = {name: data.getlist(name) if name in lists else data[name] for name in data}
        return super().to_internal_value(data)


class NoQuery(Query):
    """Of a list that has no parameters: all that are given are refused."""

    @classmethod
    def require(cls, request: Request) -> None:
        """Raises ValidationError."""
        cls(data=request.query_params).is_valid(raise_exception=True)


class BoundedList(serializers.ListField):
    """A list of ``max_length`` items at the most. One that is longer is refused before any of it is looked at.

    Of a list's mistakes, the first `MAX_ERRORS` items that have some are told.
    """

    def __init__(self, *, max_length: int, **options: Any) -> None:
        self.limit = max_length
        super().__init__(max_length=max_length, **options)

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and len(data) > self.limit:
            self.fail("max_length", max_length=self.limit)
        values: list[Any] = super().to_internal_value(data)
        return values

    def run_child_validation(self, data: Any) -> list[Any]:
        values = []
        errors: dict[Any, Any] = {}
        for at, item in enumerate(data):
            try:
                values.append(self.child.run_validation(item))
            except serializers.ValidationError as error:
                errors[at] = error.detail
                if len(errors) == MAX_ERRORS:
                    break
        if errors:
            raise serializers.ValidationError(errors)
        return values


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


class NumberField(serializers.IntegerField):
    """A number as JSON writes it, in a query too: int() would take the digits of all scripts, and underscores."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or (isinstance(data, str) and not _DECIMAL.fullmatch(data)):
            self.fail("invalid")
        number: int = super().to_internal_value(data)
        return number


class FlagField(serializers.BooleanField):
    """true or false in JSON, and nothing that only looks like it."""

    def to_internal_value(self, data: object) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


def _is_same(shown: object, given: object) -> bool:
    """1 is not true in JSON."""
    return shown == given and isinstance(shown, bool) == isinstance(given, bool)


def _spelt(name: str) -> str:
    """A name that JSON can hold and UTF-8 cannot, as text that can be answered."""
    return name.encode(errors="backslashreplace").decode()
