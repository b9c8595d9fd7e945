"""The command line: `warehouse mb rb ls put get cp mv rm stat share shares unshare`."""

import os
import sys
from typing import Any

import click

from warehouse._exit_codes import INTERRUPTED
from warehouse._version import __version__
from warehouse.cli._buckets import mb, rb
from warehouse.cli._context import Context
from warehouse.cli._objects import cp, ls, mv, rm, stat
from warehouse.cli._shares import share, shares, unshare
from warehouse.cli._transfers import get, put
from warehouse.cli._words import die, words
from warehouse.errors import WarehouseError

__all__ = ["main"]


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
            die("interrupted", code=INTERRUPTED)
        except click.Abort as error:
            # Of a question: Ctrl-C is one answer, and no is another.
            if isinstance(error.__context__, KeyboardInterrupt):
                die("interrupted", code=INTERRUPTED)
            raise
        except (WarehouseError, OSError, ValueError) as error:
            die(words(error))


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
    ctx.obj = Context(url, key, quiet)


for command in (mb, rb, ls, put, get, cp, mv, rm, stat, share, shares, unshare):
    main.add_command(command)
