"""Commands that make, list and end links for people without a key."""

from typing import IO

import click

from warehouse.cli._context import Context
from warehouse.cli._names import object_of
from warehouse.cli._shown import json_line, local, share_json
from warehouse.cli._words import printable
from warehouse.errors import ApiError

_MAX_PASSWORD_BYTES = 4096
"""Far more than the store takes."""
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def _seconds(text: str) -> int:
    """Of a length of time such as 90s, 15m, 12h, 7d or 2w."""
    number, unit = text[:-1], _UNIT_S.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdecimal()) or not int(number):
        raise click.BadParameter(f"{text!r} is no length of time: 90s, 15m, 12h, 7d or 2w")
    return int(number) * unit


@click.command()
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
    context: Context,
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
    bucket, key = object_of(target)
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
    click.echo(json_line(share_json(made)) if as_json else made.url)


def _first_line(file: IO[bytes]) -> str:
    """A password as a script gives it, where no list of processes shows it. Raises UsageError."""
    try:
        password = file.readline(_MAX_PASSWORD_BYTES + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("the password is not UTF-8") from error
    if not password:
        raise click.UsageError("the password file begins with an empty line")
    return password


@click.command()
@click.argument("bucket", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def shares(context: Context, bucket: str, as_json: bool) -> None:
    """List the links that this key has made: number, state, downloads, end, object."""
    with context.client() as client:
        for one in client.list_shares(bucket):
            if as_json:
                click.echo(json_line(share_json(one)))
                continue
            count = str(one.download_count) + ("" if one.max_downloads is None else f"/{one.max_downloads}")
            where = printable(f"{one.bucket}/{one.key}")
            click.echo(f"{one.id:>6}  {one.state:<8}  {count:>9}  {local(one.expires_at) or 'never':<19}  {where}")


@click.command()
@click.argument("numbers", metavar="NUMBER…", nargs=-1, required=True, type=click.IntRange(min=1))
@click.pass_obj
def unshare(context: Context, numbers: tuple[int, ...]) -> None:
    """End links, by the numbers that `warehouse shares` tells."""
    with context.client() as client:
        for number in numbers:
            try:
                client.revoke_share(number)
            except ApiError as error:
                context.fail(str(number), error)
    context.finish()
