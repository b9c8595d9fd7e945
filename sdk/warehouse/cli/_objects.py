"""Commands that list, show, copy, rename and delete objects: no bytes move."""

import json
from collections.abc import Iterator

import click

from warehouse.cli._context import Context
from warehouse.cli._names import folder_of, named, object_of, target_of
from warehouse.cli._shown import bucket_json, json_line, local, object_json, print_bucket, print_put
from warehouse.cli._words import printable
from warehouse.client import Client
from warehouse.types import ObjectInfo, Prefix

_DELETE_KEYS = 1000
"""Keys that `rm -r` deletes by one call."""


@click.command()
@click.argument("target", metavar="[BUCKET[/PREFIX]]", required=False)
@click.option("-l", "--long", is_flag=True, help="Size, time and type as well.")
@click.option("-r", "--recursive", is_flag=True, help="All keys, not folded at slashes.")
@click.option("-s", "--search", metavar="TEXT", help="Keys that have TEXT somewhere in them; so with -r.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def ls(context: Context, target: str | None, long: bool, recursive: bool, search: str | None, as_json: bool) -> None:
    """List buckets, or the objects whose keys begin with PREFIX."""
    if search and target is None:
        raise click.UsageError("which bucket is to be searched?")
    with context.client() as client:
        if target is None:
            for bucket in client.list_buckets():
                print_bucket(bucket, long=long, as_json=as_json)
            return
        name, prefix = target_of(target)
        entries: Iterator[ObjectInfo | Prefix] | Iterator[ObjectInfo]
        if search:
            entries = client.search(name, search, prefix=prefix)
        else:
            entries = client.list(name, prefix) if recursive else client.list(name, prefix, delimiter="/")
        for entry in entries:
            if as_json:
                click.echo(json_line({"prefix": entry.key} if isinstance(entry, Prefix) else object_json(entry)))
            elif not long:
                click.echo(printable(entry.key))
            elif isinstance(entry, Prefix):
                click.echo(f"{'-':>12}  {'':19}  {printable(entry.key)}")
            else:
                click.echo(f"{entry.size:>12}  {local(entry.updated_at):19}  {printable(entry.key)}")


@click.command()
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
@click.pass_obj
def stat(context: Context, target: str, as_json: bool) -> None:
    """Tell what is known of a bucket or an object."""
    name, key = target_of(target)
    with context.client() as client:
        facts = object_json(client.stat(name, key)) if key else bucket_json(client.bucket(name))
    if as_json:
        click.echo(json_line(facts))
        return
    width = max(map(len, facts))
    for field_name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{field_name:<{width}}  {printable(text)}")


@click.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("-n", "--no-clobber", is_flag=True, help="Fail where there is an object already.")
@click.option("--json", "as_json", is_flag=True, help="Tell the copy as a line of JSON.")
@click.pass_obj
def cp(context: Context, source: str, target: str, no_clobber: bool, as_json: bool) -> None:
    """Copy an object, to another bucket too. No bytes move.

    With the target's KEY left out, or with a slash at its end, the last part of the source's key is added.
    """
    bucket, key = object_of(source)
    to_bucket, to = target_of(target)
    with context.client() as client:
        info = client.copy(bucket, key, named(to, key), to_bucket=to_bucket, if_none_match=no_clobber)
    print_put(info, as_json)


@click.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="BUCKET/KEY")
@click.option("-r", "--recursive", is_flag=True, help="All objects below KEY/, at once, to below the other KEY/.")
@click.option("-f", "--force", is_flag=True, help="Overwrite what is there.")
@click.pass_obj
def mv(context: Context, source: str, target: str, recursive: bool, force: bool) -> None:
    """Rename an object within its bucket, or all below a prefix (-r). No bytes move; all happens, or nothing."""
    bucket, key = target_of(source) if recursive else object_of(source)
    to_bucket, to = target_of(target)
    if bucket != to_bucket:
        raise click.UsageError("objects are renamed within their bucket; between buckets use cp, then rm")
    with context.client() as client:
        if not recursive:
            client.rename(bucket, key, named(to, key), overwrite=force)
            return
        count = client.rename_prefix(bucket, folder_of(key), folder_of(to), overwrite=force)
    click.echo(f"{count} renamed", err=True)


@click.command()
@click.argument("targets", metavar="BUCKET/KEY…", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="KEY and all objects below KEY/.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(context: Context, targets: tuple[str, ...], recursive: bool, yes: bool) -> None:
    """Delete objects."""
    with context.client() as client:
        for target in targets:
            bucket, key = target_of(target)
            if recursive:
                _delete_all(client, bucket, key, ask=not yes)
            elif not key:
                raise click.UsageError("which object? Give BUCKET/KEY, or -r for all of the bucket")
            elif not client.delete(bucket, key):
                context.fail(target, "there is no such object")
    context.finish()


def _delete_all(client: Client, bucket: str, key: str, *, ask: bool) -> None:
    """Delete an object and everything below it, or all of a bucket, having asked once."""
    if ask:
        what = f"{bucket}/{key} and everything below it" if key else f"everything in {bucket}"
        click.confirm(f"Delete {printable(what)}?", abort=True, err=True)
    count = client.delete(bucket, key) if key else 0
    batch: list[str] = []
    for info in client.list(bucket, folder_of(key)):
        batch.append(info.key)
        if len(batch) == _DELETE_KEYS:
            count += len(client.delete_many(bucket, batch))
            batch.clear()
    if batch:
        count += len(client.delete_many(bucket, batch))
    click.echo(f"{count} deleted", err=True)
