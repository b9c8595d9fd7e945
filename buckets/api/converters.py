"""How object keys stand in paths."""


class KeyConverter:
    """All of the rest of the path, slashes, newlines and all."""

    regex = r"(?s:.+)"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value
