"""The command line: `warehouse mb rb ls put get cp mv rm stat share shares unshare`."""

import json
import os
import stat as stat_module
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NoReturn

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from warehouse._exit_codes import INTERRUPTED
from warehouse._paths import Below, UnsafeKey, files_below, relative_parts, split_target
from warehouse._version import __version__
from warehouse.client import Client
from warehouse.errors import ApiError, NotFound, Unauthorized, WarehouseError
from warehouse.transfer import TransferConfig
from warehouse.types import Bucket, ObjectInfo, Prefix, Share

__all__ = ["main"]

_DELETE_KEYS = 1000
"""Keys that `rm -r` deletes by one call."""
_MAX_PASSWORD_BYTES = 4096
"""Far more than the store takes."""
_LOOK_EVERY_S = 0.5
"""How often `rb --force` looks whether the bucket is gone."""
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


@dataclass(slots=True)
class _Context:
    """What the group's options say, and what the commands do with it."""

    url: str | None
    key: str | None
    quiet: bool
    failures: int = field(default=0)

    def client(self, transfer: TransferConfig | None = None) -> Client:
        if not self.url or not self.key:
            lacking = " and ".join(
                name for name, value in (("WAREHOUSE_URL", self.url), ("WAREHOUSE_KEY", self.key)) if not value
            )
            raise click.UsageError(
                f"which store? Set {lacking} in the environment, or give --url and --key before the command."
            )
        try:
            return Client(self.url, self.key, transfer=transfer)
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    def fail(self, what: str, error: Exception | str) -> None:
        """Say that one of several things failed, and go on with the others."""
        self.failures += 1
        click.echo(f"warehouse: {_printable(what)}: {_words(error, about=what)}", err=True)

    def finish(self) -> None:
        if self.failures:
            sys.exit(1)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator["_Bar"]:
        """A progress bar on stderr, where that is a terminal."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=self.quiet or not console.is_terminal) as progress:
            yield _Bar(progress, title, total)


class _Bar:
    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def grow(self, size: int) -> None:
        """There is more to do than was known."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._task, total=total + size)


class _Commands(click.Group):
    """Errors end a command with one line on stderr and exit code 1; wrong usage with 2, Ctrl-C with 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has seen enough; Python must not complain about it at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            _die("interrupted", code=INTERRUPTED)
        except click.Abort as error:
            # Of a question: Ctrl-C is one answer, and no is another.
            if isinstance(error.__context__, KeyboardInterrupt):
                _die("interrupted", code=INTERRUPTED)
            raise
        except (WarehouseError, OSError, ValueError) as error:
            _die(_words(error))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="WAREHOUSE_URL", metavar="URL", help="The store's address. [env: WAREHOUSE_URL]")
@click.option("--key", envvar="WAREHOUSE_KEY", metavar="KEY", help="An API key, whk_… [env: WAREHOUSE_KEY]")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
@click.version_option(__version__, prog_name="warehouse")
@click.pass_context
def main(ctx: click.Context, url: str | None, key: str | None, quiet: bool) -> None:
    """Put objects into a Warehouse store, and get them back.

    Objects are named BUCKET/KEY. A key may hold slashes and any other text.
    """
    ctx.obj = _Context(url, key, quiet)


@main.command()
@click.argument("buckets", metavar="BUCKET…", nargs=-1, required=True)
@click.pass_obj
def mb(context: _Context, buckets: tuple[str, ...]) -> None:
    """Make buckets."""
    with context.client() as client:
        for bucket in buckets:
            client.create_bucket(bucket)


@main.command()
@click.argument("buckets", metavar="BUCKET…", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="With all that is in them; the store deletes it in the background.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Do not wait until a bucket is gone.")
@click.pass_obj
def rb(context: _Context, buckets: tuple[str, ...], force: bool, yes: bool, no_wait: bool) -> None:
    """Remove buckets; they must be empty, but for --force.

    A bucket that is removed by force is closed at once, and its name is free when it is gone. Ctrl-C ends the waiting,
    not the work.
    """
    with context.client() as client:
        for bucket in buckets:
            if force and not yes:
                click.confirm(f"Delete {_printable(bucket)} and everything in it?", abort=True, err=True)
            left = client.delete_bucket(bucket, force=force)
            if left is None:
                continue
            click.echo(f"{bucket} is closed; {left.object_count} objects are being deleted", err=True)
            if not no_wait:
                _wait_until_gone(client, bucket)


@main.command()
@click.argument("target", metavar="[BUCKET[/PREFIX]]", required=False)
@click.option("-l", "--long", is_flag=True, help="Size, time and type as well.")
@click.option("-r", "--recursive", is_flag=True, help="All keys, not folded at slashes.")
@click.option("-s", "--search", metavar="TEXT", help="Keys that have TEXT somewhere in them; so with -r.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def ls(context: _Context, target: str | None, long: bool, recursive: bool, search: str | None, as_json: bool) -> None:
    """List buckets, or the objects whose keys begin with PREFIX."""
    if search and target is None:
        raise click.UsageError("which bucket is to be searched?")
    with context.client() as client:
        if target is None:
            for bucket in client.list_buckets():
                _print_bucket(bucket, long=long, as_json=as_json)
            return
        name, prefix = _target(target)
        entries: Iterator[ObjectInfo | Prefix] | Iterator[ObjectInfo]
        if search:
            entries = client.search(name, search, prefix=prefix)
        else:
            entries = client.list(name, prefix) if recursive else client.list(name, prefix, delimiter="/")
        for entry in entries:
            if as_json:
                click.echo(_json_line({"prefix": entry.key} if isinstance(entry, Prefix) else _object_json(entry)))
            elif not long:
                click.echo(_printable(entry.key))
            elif isinstance(entry, Prefix):
                click.echo(f"{'-':>12}  {'':19}  {_printable(entry.key)}")
            else:
                click.echo(f"{entry.size:>12}  {_local(entry.updated_at):19}  {_printable(entry.key)}")


@main.command()
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
    context: _Context,
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
    bucket, key = _target(target)
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
        _print_put(info, as_json)
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
            _print_put(client.put(bucket, its_key, path, progress=bar.advance, **attributes), as_json)
        elif atomic:
            del attributes["if_match"]
            with client.group(bucket) as group:
                group.put_many(plan.items(), progress=bar.advance, **attributes)
            for info in group.objects.values():
                _print_put(info, as_json)
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
                _print_put(info, as_json)
    context.finish()


@main.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="[FILE|DIR|-]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="All objects below KEY/, into a directory.")
@click.option("--fsync", is_flag=True, help="Have each file on the disk before it takes its name.")
@click.pass_obj
def get(context: _Context, source: str, target: str | None, recursive: bool, fsync: bool) -> None:
    """Get an object into a file, or to standard output (-); with -r, all below a prefix into a directory.

    With -r, all that is below KEY/ goes below the directory. Files take their names only when whole and checked; keys
    that would lead out of the directory are refused.
    """
    bucket, key = _target(source)
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


@main.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("-n", "--no-clobber", is_flag=True, help="Fail where there is an object already.")
@click.option("--json", "as_json", is_flag=True, help="Tell the copy as a line of JSON.")
@click.pass_obj
def cp(context: _Context, source: str, target: str, no_clobber: bool, as_json: bool) -> None:
    """Copy an object, to another bucket too. No bytes move.

    With the target's KEY left out, or with a slash at its end, the last part of the source's key is added.
    """
    bucket, key = _object(source)
    to_bucket, to = _target(target)
    with context.client() as client:
        info = client.copy(bucket, key, _named(to, key), to_bucket=to_bucket, if_none_match=no_clobber)
    _print_put(info, as_json)


@main.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="BUCKET/KEY")
@click.option("-r", "--recursive", is_flag=True, help="All objects below KEY/, at once, to below the other KEY/.")
@click.option("-f", "--force", is_flag=True, help="Overwrite what is there.")
@click.pass_obj
def mv(context: _Context, source: str, target: str, recursive: bool, force: bool) -> None:
    """Rename an object within its bucket, or all below a prefix (-r). No bytes move; all happens, or nothing."""
    bucket, key = _target(source) if recursive else _object(source)
    to_bucket, to = _target(target)
    if bucket != to_bucket:
        raise click.UsageError("objects are renamed within their bucket; between buckets use cp, then rm")
    with context.client() as client:
        if not recursive:
            client.rename(bucket, key, _named(to, key), overwrite=force)
            return
        count = client.rename_prefix(bucket, _folder(key), _folder(to), overwrite=force)
    click.echo(f"{count} renamed", err=True)


@main.command()
@click.argument("targets", metavar="BUCKET/KEY…", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="KEY and all objects below KEY/.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(context: _Context, targets: tuple[str, ...], recursive: bool, yes: bool) -> None:
    """Delete objects."""
    with context.client() as client:
        for target in targets:
            bucket, key = _target(target)
            if recursive:
                _delete_all(client, bucket, key, ask=not yes)
            elif not key:
                raise click.UsageError("which object? Give BUCKET/KEY, or -r for all of the bucket")
            elif not client.delete(bucket, key):
                context.fail(target, "there is no such object")
    context.finish()


@main.command()
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
@click.pass_obj
def stat(context: _Context, target: str, as_json: bool) -> None:
    """Tell what is known of a bucket or an object."""
    name, key = _target(target)
    with context.client() as client:
        facts = _object_json(client.stat(name, key)) if key else _bucket_json(client.bucket(name))
    if as_json:
        click.echo(_json_line(facts))
        return
    width = max(map(len, facts))
    for field_name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{field_name:<{width}}  {_printable(text)}")


def _seconds(text: str) -> int:
    """Of a length of time such as 90s, 15m, 12h, 7d or 2w."""
    number, unit = text[:-1], _UNIT_S.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdecimal()) or not int(number):
        raise click.BadParameter(f"{text!r} is no length of time: 90s, 15m, 12h, 7d or 2w")
    return int(number) * unit


@main.command()
@click.argument("target", metavar="BUCKET/KEY")
@click.option(
    "--expires", "expires_in_s", metavar="TIME", type=_seconds, help="When the link ends: 90s, 15m, 12h, 7d, 2w."
)
@click.option("--max-downloads", metavar="N", type=click.IntRange(min=1), help="How many downloads there may be.")
@click.option("--one-time", is_flag=True, help="One download, then the link ends.")
@click.option("--password", "ask_password", is_flag=True, help="Ask for a password that the link will need.")
@click.option(
    "--password-file",
    metavar="FILE|-",
    type=click.File("rb"),
    help="Read that password from the first line of a file, or of standard input (-).",
)
@click.option("--inline", is_flag=True, help="Browsers show the object instead of saving it.")
@click.option("--description", metavar="TEXT", default="", help="What it is for; the link does not show it.")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
@click.pass_obj
def share(
    context: _Context,
    target: str,
    expires_in_s: int | None,
    max_downloads: int | None,
    one_time: bool,
    ask_password: bool,
    password_file: IO[bytes] | None,
    inline: bool,
    description: str,
    as_json: bool,
) -> None:
    """Make a link to an object, for somebody without a key, and print it.

    It opens in a browser and with curl -L, leads to what the key holds at the time, and is told only now: the store
    keeps a hash of it.
    """
    bucket, key = _object(target)
    if ask_password and password_file is not None:
        raise click.UsageError("--password asks, --password-file reads: which one?")
    if one_time and max_downloads not in (None, 1):
        raise click.UsageError("--one-time and --max-downloads say different things")
    password = None
    if ask_password:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    elif password_file is not None:
        password = _first_line(password_file)
    with context.client() as client:
        made = client.share(
            bucket,
            key,
            expires_in_s=expires_in_s,
            max_downloads=1 if one_time else max_downloads,
            password=password,
            inline=inline,
            description=description,
        )
    click.echo(_json_line(_share_json(made)) if as_json else made.url)


def _first_line(file: IO[bytes]) -> str:
    """A password as a script gives it, where no list of processes shows it. Raises UsageError."""
    try:
        password = file.readline(_MAX_PASSWORD_BYTES + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("the password is not UTF-8") from error
    if not password:
        raise click.UsageError("the password file begins with an empty line")
    return password


@main.command()
@click.argument("bucket", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def shares(context: _Context, bucket: str, as_json: bool) -> None:
    """List the links that this key has made: number, state, downloads, end, object."""
    with context.client() as client:
        for one in client.list_shares(bucket):
            if as_json:
                click.echo(_json_line(_share_json(one)))
                continue
            count = str(one.download_count) + ("" if one.max_downloads is None else f"/{one.max_downloads}")
            where = _printable(f"{one.bucket}/{one.key}")
            click.echo(f"{one.id:>6}  {one.state:<8}  {count:>9}  {_local(one.expires_at) or 'never':<19}  {where}")


@main.command()
@click.argument("numbers", metavar="NUMBER…", nargs=-1, required=True, type=click.IntRange(min=1))
@click.pass_obj
def unshare(context: _Context, numbers: tuple[int, ...]) -> None:
    """End links, by the numbers that `warehouse shares` tells."""
    with context.client() as client:
        for number in numbers:
            try:
                client.revoke_share(number)
            except ApiError as error:
                context.fail(str(number), error)
    context.finish()


def _plan_put(context: _Context, sources: list[Path], key: str, *, recursive: bool) -> Iterator[tuple[Path, str]]:
    """What goes where: (path, key) of every regular file."""
    folder = _folder(key)
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
                if stat_module.S_ISREG(mode):
                    yield path, its_key
                else:
                    context.fail(str(path), "is no regular file")


def _get_tree(context: _Context, client: Client, bucket: str, key: str, target: str) -> None:
    prefix = _folder(key)
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


def _stream(context: _Context, client: Client, bucket: str, key: str, write: Callable[[memoryview], int]) -> None:
    with context.bar(key, client.stat(bucket, key).size) as bar:
        for piece in client.iter_bytes(bucket, key):
            rest = memoryview(piece)
            while rest:
                rest = rest[write(rest) :]
            bar.advance(len(piece))


def _delete_all(client: Client, bucket: str, key: str, *, ask: bool) -> None:
    """Delete an object and everything below it, or all of a bucket, having asked once."""
    if ask:
        what = f"{bucket}/{key} and everything below it" if key else f"everything in {bucket}"
        click.confirm(f"Delete {_printable(what)}?", abort=True, err=True)
    count = client.delete(bucket, key) if key else 0
    batch: list[str] = []
    for info in client.list(bucket, _folder(key)):
        batch.append(info.key)
        if len(batch) == _DELETE_KEYS:
            count += len(client.delete_many(bucket, batch))
            batch.clear()
    if batch:
        count += len(client.delete_many(bucket, batch))
    click.echo(f"{count} deleted", err=True)


def _wait_until_gone(client: Client, bucket: str) -> None:
    while True:
        try:
            client.bucket(bucket)
        except NotFound:
            return
        time.sleep(_LOOK_EVERY_S)


def _folder(key: str) -> str:
    """The prefix of all that is below a key; of all there is, for no key."""
    return key if not key or key.endswith("/") else key + "/"


def _target(text: str) -> tuple[str, str]:
    try:
        text.encode()
        return split_target(text)
    except UnicodeEncodeError as error:
        raise click.UsageError("keys are UTF-8") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _object(text: str) -> tuple[str, str]:
    bucket, key = _target(text)
    if not key:
        raise click.UsageError("which object? Give BUCKET/KEY")
    return bucket, key


def _named(target: str, key: str) -> str:
    """The key that a copy gets: with a folder as the target, its own last part below that."""
    return target if target and not target.endswith("/") else target + key.rstrip("/").rsplit("/", 1)[-1]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--meta takes NAME=VALUE, not {text!r}")
    return name, value


def _print_put(info: ObjectInfo, as_json: bool) -> None:
    if as_json:
        click.echo(_json_line(_object_json(info)))


def _print_bucket(bucket: Bucket, *, long: bool, as_json: bool) -> None:
    if as_json:
        click.echo(_json_line(_bucket_json(bucket)))
    elif long:
        created = _local(bucket.created_at)
        click.echo(f"{bucket.object_count:>10} objects  {bucket.total_bytes:>15} bytes  {created}  {bucket.name}")
    else:
        click.echo(bucket.name)


def _bucket_json(bucket: Bucket) -> dict[str, Any]:
    return {
        "name": bucket.name,
        "created_at": bucket.created_at.isoformat() if bucket.created_at else None,
        "object_count": bucket.object_count,
        "total_bytes": bucket.total_bytes,
        **bucket.settings,
    }


def _object_json(info: ObjectInfo) -> dict[str, Any]:
    return {
        "key": info.key,
        "size": info.size,
        "etag": info.etag,
        "content_type": info.content_type,
        "updated_at": info.updated_at.isoformat() if info.updated_at else None,
        **({"metadata": dict(info.metadata)} if info.metadata else {}),
    }


def _share_json(share: Share) -> dict[str, Any]:
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


def _json_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _local(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _printable(text: str) -> str:
    """Text that cannot take a terminal over: control characters are shown escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _words(error: Exception | str, *, about: str | None = None) -> str:
    """One line for people, who know already that it is ``about`` this file."""
    if isinstance(error, Unauthorized):
        text = f"the store does not accept this key ({error.code})"
    elif isinstance(error, ApiError) and error.status >= 500 and error.request_id:
        text = f"{error} [request {error.request_id}]"
    elif isinstance(error, OSError) and error.strerror:
        named = str(error.filename or "")
        text = f"{named}: {error.strerror}" if named and named != about else error.strerror
    else:
        text = str(error)
    return _printable(" ".join(text.split()))


def _die(text: str, *, code: int = 1) -> NoReturn:
    click.echo(f"warehouse: {text}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
