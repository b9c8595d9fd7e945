"""Buckets, objects and shares as lines for people, and as JSON for programs."""

import json
from datetime import datetime
from typing import Any

import click

from warehouse.types import Bucket, ObjectInfo, Share


def print_put(info: ObjectInfo, as_json: bool) -> None:
    if as_json:
        click.echo(json_line(object_json(info)))


def print_bucket(bucket: Bucket, *, long: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json_line(bucket_json(bucket)))
    elif long:
        created = local(bucket.created_at)
        click.echo(f"{bucket.object_count:>10} objects  {bucket.total_bytes:>15} bytes  {created}  {bucket.name}")
    else:
        click.echo(bucket.name)


def bucket_json(bucket: Bucket) -> dict[str, Any]:
    return {
        "name": bucket.name,
        "created_at": bucket.created_at.isoformat() if bucket.created_at else None,
        "object_count": bucket.object_count,
        "total_bytes": bucket.total_bytes,
        **bucket.settings,
    }


def object_json(info: ObjectInfo) -> dict[str, Any]:
    return {
        "key": info.key,
        "size": info.size,
        "etag": info.etag,
        "content_type": info.content_type,
        "updated_at": info.updated_at.isoformat() if info.updated_at else None,
        **({"metadata": dict(info.metadata)} if info.metadata else {}),
    }


def share_json(share: Share) -> dict[str, Any]:
    return {
        "id": share.id,
        "bucket": share.bucket,
        "key": share.key,
        "state": share.state,
        "expires_at": share.expires_at.isoformat() if share.expires_at else None,
        "max_downloads": share.max_downloads,
        "download_count": share.download_count,
        "has_password": share.has_password,
        **({"description": share.description} if share.description else {}),
        **({"url": share.url} if share.url else {}),
    }


def json_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def local(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""
