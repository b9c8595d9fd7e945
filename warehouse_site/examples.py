"""Examples for the OpenAPI document and the browsable API, made from the names and types of fields."""

from typing import Any

_NEEDLE_URL = "http://127.0.0.1:8081/3/{needle}?exp=1773500000&intent=…&kid=1&sig=…"
_READ_URL = "http://127.0.0.1:8081/3/0000000001020000?etag=…&exp=1773500000&key=7.1&kid=1&sig=…"
_MOMENT = "2026-03-14T15:09:26.535897Z"
_UUID = "0192f7a4-6f5e-7c3a-9d41-2f4b8c6d1e90"

BY_PLACE: dict[str, object] = {
    "CommitRequest.": {
        "operations": [
            {"op": "upload", "upload": _UUID},
            {"op": "rename", "from": "site/index.html", "to": "site/index.old.html", "overwrite": True},
            {"op": "copy", "from": "site/new.html", "to": "site/index.html"},
            {"op": "delete", "key": "site/new.html"},
        ]
    },
    "Deleted.missing": [],
    "GrantRequest.prefix": "2026/",
    "Grant.prefix": "2026/",
    "Grant.permissions": 3,
    "GrantRequest.permissions": 3,
    "Lease.url": _NEEDLE_URL,
    "RenamesRequest.": {"prefix": "inbox/", "to_prefix": "photos/2026/"},
    "Result.op": "copy",
    "LeaseRequestRequest.prefix": "photos/2026/",
    "NewKey.key": "whk_7_…",
    "NewKey.name": "camera",
    "Key.name": "camera",
    "KeyRequest.name": "camera",
    "PatchedKeyRequest.name": "camera",
    "KeyRequest.expires_at": "2999-01-01T00:00:00Z",
    "PatchedKeyRequest.expires_at": "2999-01-01T00:00:00Z",
    "Finding.kind": "missing",
    "Finding.server": "n1 0192f7a4",
    "Finding.needle": "0000000001020000",
    "Finding.detail": "it is not there",
    "Proof.state": "done",
    "Proof.deep": False,
    "Proof.volume": None,
    "Proof.missing": 1,
    "Proof.orphaned": 0,
    "Proof.divergent": 0,
    "Proof.unknown": 0,
    "Proof.miscounted": 0,
    "Proof.verdict": "1 missing, 0 orphaned, 0 divergent",
    "Server.url": "http://127.0.0.1:8081",
    "NewShare.url": "http://127.0.0.1:8000/s/…",
    "AuditEntry.bucket": "photos",
    "AuditEntry.detail": {"settings": {"quota_bytes": 1099511627776}},
    "AuditEntry.target": "",
    "AuditEntry.count": 1,
    "SignInRequest.key": "whk_7_…",
    "UsageHistory.step": 60,
    "Task.name": "buckets.tasks.collect_outbox",
    "Task.result": {"uploads_ended": 0, "tombstoned": 12, "dropped": 3},
}
"""Where a field's name alone says too little: by `Component.field`."""

BY_NAME: dict[str, object] = {
    "access": "eyJhbGciOiJSUzI1NiIs…",
    "action": "bucket.create",
    "address": "192.0.2.7",
    "alg": "RS256",
    "api_key": 7,
    "api_key_name": "camera",
    "beat": "alive",
    "bucket": "photos",
    "check_error": "",
    "chunk_size": 83886080,
    "content_type": "image/jpeg",
    "cors_origins": ["https://app.example.org"],
    "count": 100,
    "crc32": 907060870,
    "created_by": 1,
    "database": "ok",
    "deleted": ["photos/2026/cat.jpg"],
    "description": "The camera in the hall",
    "detail": "",
    "e": "AQAB",
    "error": "",
    "etag": "0192f7a46f5e7c3a9d412f4b8c6d1e90",
    "expires_in": 300,
    "first": "0000000001020000",
    "from": "inbox/cat.jpg",
    "garbage_ratio": 0.25,
    "id": 7,
    "from_if_match": None,
    "if_match": None,
    "if_none_match": True,
    "index": 0,
    "key": "photos/2026/cat.jpg",
    "key_name": "camera",
    "keys": ["photos/2026/cat.jpg"],
    "kid": "QJ5Xw0oJfYv3vRk1E4sQ7l9bX2a6cD8eF0gH1iJ2kL3",
    "kty": "RSA",
    "max_bytes": 65536,
    "metadata": {"camera": "X100"},
    "missing": ["photos/2026/dog.jpg"],
    "n": "w7Zl…",
    "name": "photos",
    "next_after": None,
    "node": "n1",
    "offset": 0,
    "permission_names": ["OBJECTS_READ", "OBJECTS_WRITE"],
    "permissions": 3,
    "prefix": "photos/",
    "prefixes": ["photos/2026/"],
    "quota_bytes": 1099511627776,
    "quota_objects": None,
    "rate_bytes": 52428800,
    "password": "open sesame",
    "request_id": "5f1c",
    "redundancy": "degraded",
    "redundancy_note": "Server n2 0192f7a4 is not heard.",
    "refresh": "eyJhbGciOiJSUzI1NiIs…",
    "replication": 1,
    "schedule": "every 10 s",
    "server_status": "online",
    "size": 48213,
    "status": "ok",
    "stray_volumes": [],
    "target": "photos/2026/cat.jpg",
    "task": "buckets.tasks.collect_outbox",
    "tasks_failed": [],
    "to": "photos/2026/cat.jpg",
    "to_prefix": "photos/2026/",
    "url": _READ_URL,
    "urls": [_READ_URL],
    "use": "sig",
    "version": "1",
    "worker": "alive",
}
"""By the field's name, where its type can hold it."""

BY_FORMAT: dict[str, object] = {"date-time": _MOMENT, "uuid": _UUID, "uri": "http://127.0.0.1:8081"}
BY_TYPE: dict[str, object] = {"integer": 1, "number": 1.0, "string": "text", "boolean": False, "object": {}}

Schema = dict[str, Any]


def example_of(schema: Schema, schemas: dict[str, Schema], name: str = "", owner: str = "") -> Any:
    """A value that ``schema`` takes, for the field ``name`` of the component ``owner``. ``schemas``: all components."""
    if f"{owner}.{name}" in BY_PLACE:
        return BY_PLACE[f"{owner}.{name}"]
    if name in BY_NAME and _fits(BY_NAME[name], schema):
        return BY_NAME[name]
    if "$ref" in schema:
        owner = schema["$ref"].rpartition("/")[2]
        return example_of(schemas[owner], schemas, "", owner)
    for parts in ("allOf", "oneOf"):
        if parts in schema:
            return example_of(schema[parts][0], schemas, name, owner)
    if "properties" in schema:
        return {
            field: example_of(inner, schemas, field, owner)
            for field, inner in schema["properties"].items()
            if not (owner.endswith("Request") and inner.get("readOnly"))
        }
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas, name, owner)]
    return _plain_example(schema)


def _plain_example(schema: Schema) -> object:
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("format") in BY_FORMAT:
        return BY_FORMAT[schema["format"]]
    return schema.get("minimum") or BY_TYPE[schema.get("type", "object")]


def _fits(value: object, schema: Schema) -> bool:
    """Whether the type at least is right."""
    if value is None:
        return bool(schema.get("nullable"))
    kinds: dict[str, Any] = {
        "integer": int,
        "number": float,
        "string": str,
        "array": list,
        "object": dict,
        "boolean": bool,
    }
    if not schema.keys() & {"type", "$ref", "allOf", "oneOf"}:
        return True  # it takes anything
    if "enum" in schema or schema.get("format") in BY_FORMAT:
        return False
    if isinstance(value, list) and "items" in schema:
        return all(_fits(inner, schema["items"]) for inner in value)
    return schema.get("type") in kinds and isinstance(value, kinds[schema["type"]])
