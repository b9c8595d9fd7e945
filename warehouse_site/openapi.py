"""How our views read in the OpenAPI document."""

from drf_spectacular.openapi import AutoSchema


class HouseSchema(AutoSchema):
    """Names operations by their path, so that `keys` and `keys/{key_id}` never get one name."""

    def get_operation_id(self) -> str:
        parts = [
            f"by_{part[1:-1]}" if part.startswith("{") else part.replace("-", "_")
            for part in self.path.removeprefix("/api/v1").strip("/").split("/")
        ]
        return "_".join([*parts, self.method.lower()])
