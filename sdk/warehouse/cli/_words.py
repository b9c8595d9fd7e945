"""Text for people: what is printed on a terminal, and what is said of an error."""

import sys
from typing import NoReturn

import click

from warehouse.errors import ApiError, Unauthorized


def printable(text: str) -> str:
    """Text that cannot take a terminal over: control characters are shown escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def words(error: Exception | str, *, about: str | None = None) -> str:
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
    return printable(" ".join(text.split()))


def die(text: str, *, code: int = 1) -> NoReturn:
    click.echo(f"warehouse: {text}", err=True)
    sys.exit(code)
