"""Held uploads, copies, renames and groups on real processes."""

import os

from tests.support.api import send
from tests.support.store import CHUNK_SIZE, Store


def test_a_group_becomes_visible_at_once(store: Store, bucket: str) -> None:
    api = store.api()
    old, new, small = b"old", os.urandom(2 * CHUNK_SIZE + 5), b"small"
    api.put(bucket, "site/index", old)
    uploads = []
    for key, body in (("site/index", new), ("site/extra", small)):
        upload = api.post(f"buckets/{bucket}/uploads", {"key": key, "size": len(body), "held": True})
        for chunk in upload["chunks"]:
            answer = send("PUT", chunk["url"], body[chunk["offset"] : chunk["offset"] + chunk["size"]])
            assert (answer.status, answer.json["state"]) == (202, "stored"), answer
        assert api.get(f"uploads/{upload['id']}")["state"] == "ready"
        uploads.append(upload["id"])
    assert api.list(bucket) == ["site/index"]
    assert api.read(bucket, "site/index") == old

    operations = [
        {"op": "rename", "from": "site/index", "to": "old/index"},
        *({"op": "upload", "upload": upload} for upload in uploads),
        {"op": "copy", "from": "site/index", "to": "copy"},
    ]
    refused = api.request("POST", f"buckets/{bucket}/commits", {"operations": [*operations, operations[0]]})
    assert (refused.status, refused.code, refused.json["index"]) == (409, "object_exists", 4)
    assert api.list(bucket) == ["site/index"]
    api.post(f"buckets/{bucket}/commits", {"operations": operations}, status=200)
    assert api.list(bucket) == ["copy", "old/index", "site/extra", "site/index"]
    assert api.post(f"buckets/{bucket}/rename", {"prefix": "site/", "to_prefix": "site/v2/"}, status=200)["count"] == 2

    api.post(f"buckets/{bucket}/delete", {"keys": ["site/v2/index"]}, status=200)
    assert api.read(bucket, "copy") == new
    assert api.read(bucket, "old/index") == old
    assert api.read(bucket, "site/v2/extra") == small
