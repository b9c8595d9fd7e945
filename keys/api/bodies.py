"""What callers send, in every app's API."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers


class Body(serializers.Serializer[Any]):
    """What a caller sends. A field that there is not is refused: it may be a misspelt condition.

    Fields that are only read may stand in it and change nothing, so that what was got can be sent back.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError({_spelt(name): ["There is no such field."] for name in unknown})
        return super().to_internal_value(data)


def _spelt(name: str) -> str:
    """A name that JSON can hold and UTF-8 cannot, as text that can be answered."""
    return name.encode(errors="backslashreplace").decode()
