"""Commands that move bytes: files and directories to objects, and back."""

import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from warehouse._paths import Below, UnsafeKey, files_below, relative_parts
from warehouse.cli._context import Context
from warehouse.cli._names import folder_of, target_of
from warehouse.cli._shown import print_put
from warehouse.client import Client
from warehouse.transfer import TransferConfig
from warehouse.types import ObjectInfo


@click.command()
@click.argument("sources", metavar="FILE|DIR|-…", nargs=-1, required=True)
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("-r", "--recursive", is_flag=True, help="Put directories with all that is in them.")
@click.option("--content-type", metavar="TYPE", help="Media type; guessed from the key otherwise.")
@click.option("--meta", "metadata", metavar="NAME=VALUE", multiple=True, help="Metadata; may be given several times.")
@click.option("--if-none-match", is_flag=True, help="Only where there is no object yet.")
@click.option("--if-match", metavar="ETAG", help="Only over this version.")
@click.option("--atomic", is_flag=True, help="All objects become visible at once, or none; up to a thousand.")
@click.option("--json", "as_json", is_flag=True, help="Tell each object as a line of JSON.")
@click.pass_obj
def put(
    context: Context,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    content_type: str | None,
    metadata: tuple[str, ...],
    if_none_match: bool,
    if_match: str | None,
    atomic: bool,
    as_json: bool,
) -> None:
    """Put files, directories (-r), or what comes from standard input (-).

    A single file becomes KEY; with KEY left out, or with a slash at its end, the file's name is added. Of a single
    directory the content goes below KEY/; of several sources each keeps its name.
    """
    bucket, key = target_of(target)
    attributes: dict[str, Any] = {
        "content_type": content_type,
        "metadata": dict(_pair(text) for text in metadata),
        "if_none_match": if_none_match,
        "if_match": if_match,
    }
    if "-" in sources:
        if len(sources) > 1 or not key or key.endswith("/"):
            raise click.UsageError("standard input (-) is put alone, and needs a whole BUCKET/KEY")
        with context.client() as client, context.bar(key, None) as bar:
            info = client.put(bucket, key, sys.stdin.buffer, progress=bar.advance, **attributes)
        print_put(info, as_json)
        return
    plan: dict[str, Path] = {}
    for path, its_key in _plan_put(context, [Path(source) for source in sources], key, recursive=recursive):
        if its_key in plan:
            context.fail(str(path), f"would overwrite {plan[its_key]} at {its_key!r}")
        else:
            plan[its_key] = path
    if if_match and len(plan) != 1:
        raise click.UsageError("--if-match is about one object")
    total = sum(path.stat().st_size for path in plan.values())
    if atomic and context.failures:
        sys.exit(1)  # not all of it can be put, so none of it is
    title = next(iter(plan.values())).name if len(plan) == 1 else f"{len(plan)} files"
    with context.client() as client, context.bar(title, total) as bar:
        if len(plan) == 1:
            ((its_key, path),) = plan.items()
            print_put(client.put(bucket, its_key, path, progress=bar.advance, **attributes), as_json)
        elif atomic:
            del attributes["if_match"]
            with client.group(bucket) as group:
                group.put_many(plan.items(), progress=bar.advance, **attributes)
            for info in group.objects.values():
                print_put(info, as_json)
        else:
            del attributes["if_match"]
            done = client.put_many(
                bucket,
                plan.items(),
                progress=bar.advance,
                on_error=lambda failed, error: context.fail(str(plan[failed]), error),
                **attributes,
            )
            for info in done:
                print_put(info, as_json)
    context.finish()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--meta takes NAME=VALUE, not {text!r}")
    return name, value


def _plan_put(context: Context, sources: list[Path], key: str, *, recursive: bool) -> Iterator[tuple[Path, str]]:
    """What goes where: (path, key) of every regular file."""
    folder = folder_of(key)
    for source in sources:
        if source.is_dir():
            if not recursive:
                context.fail(str(source), "is a directory (use -r)")
                continue
            base = folder if len(sources) == 1 else folder + source.resolve().name + "/"
            found = [(path, base + name) for path, name in files_below(source)]
        elif len(sources) == 1 and key and not key.endswith("/"):
            found = [(source, key)]
        else:
            found = [(source, folder + source.name)]
        for path, its_key in found:
            try:
                mode = path.stat().st_mode
                its_key.encode()
            except OSError as error:
                context.fail(str(path), error)
            except UnicodeEncodeError:
                context.fail(repr(str(path)), "the name is not UTF-8, so it cannot be a key")
            else:
                if stat.S_ISREG(mode):
                    yield path, its_key
                else:
                    context.fail(str(path), "is no regular file")


@click.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="[FILE|DIR|-]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="All objects below KEY/, into a directory.")
@click.option("--fsync", is_flag=True, help="Have each file on the disk before it takes its name.")
@click.pass_obj
def get(context: Context, source: str, target: str | None, recursive: bool, fsync: bool) -> None:
    """Get an object into a file, or to standard output (-); with -r, all below a prefix into a directory.

    With -r, all that is below KEY/ goes below the directory. Files take their names only when whole and checked; keys
    that would lead out of the directory are refused.
    """
    bucket, key = target_of(source)
    transfer = TransferConfig(fsync=fsync)
    if recursive:
        with context.client(transfer) as client:
            _get_tree(context, client, bucket, key, target or ".")
        context.finish()
        return
    if not key:
        raise click.UsageError("which object? Give BUCKET/KEY, or -r for all of the bucket")
    with context.client(transfer) as client:
        if target == "-":
            _stream(context, client, bucket, key, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return
        path = Path(target) if target else Path()
        if target is None or path.is_dir():
            path = path / relative_parts(key.rsplit("/", 1)[-1])[0]
        if path.exists() and not path.is_file():
            # A device or a pipe is written to; it must not be replaced by a file.
            with path.open("wb", buffering=0) as out:
                _stream(context, client, bucket, key, out.write)
            return
        size = client.stat(bucket, key).size
        with context.bar(path.name, size) as bar:
            client.download(bucket, key, path, progress=bar.advance)


def _get_tree(context: Context, client: Client, bucket: str, key: str, target: str) -> None:
    prefix = folder_of(key)
    below = Below(target)
    with context.bar(f"{bucket}/{prefix}", 0) as bar:
        found = False

        def wanted() -> Iterator[tuple[str, Path]]:
            nonlocal found
            for info in client.list(bucket, prefix):
                found = True
                try:
                    path = _path_of(info, info.key[len(prefix) :], below)
                except (UnsafeKey, OSError) as error:
                    context.fail(f"{bucket}/{info.key}", error)
                    continue
                if path is not None:
                    bar.grow(info.size)
                    yield info.key, path

        def failed(key: str, error: Exception) -> None:
            context.fail(f"{bucket}/{key}", error)

        for _ in client.download_many(bucket, wanted(), progress=bar.advance, on_error=failed):
            pass
    if not found and prefix:
        context.fail(f"{bucket}/{prefix}", "there is nothing below it")


def _path_of(info: ObjectInfo, name: str, below: Below) -> Path | None:
    """The file for an object, or None for a "folder" object, of which only the directory is made."""
    if name and not name.endswith("/"):
        return below.path_for(name)
    if info.size:
        raise UnsafeKey(f"{info.key!r} ends in a slash and has bytes: it can be no file")
    below.path_for(name + "-")
    return None


def _stream(context: Context, client: Client, bucket: str, key: str, write: Callable[[memoryview], int]) -> None:
    with context.bar(key, client.stat(bucket, key).size) as bar:
        for piece in client.iter_bytes(bucket, key):
            rest = memoryview(piece)
            while rest:
                rest = rest[write(rest) :]
            bar.advance(len(piece))
