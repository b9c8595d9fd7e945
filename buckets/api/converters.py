"""How bucket names and object keys stand in paths."""


class BucketConverter:
    """One part of the path. A NUL is in no name, and no text that every database takes."""

    regex = r"[^/\0]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class KeyConverter:
    """All of the rest of the path, slashes, newlines and all."""

    regex = r"(?s:.+)"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value
