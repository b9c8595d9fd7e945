"""Commands that make and remove buckets."""

import time

import click

from warehouse.cli._context import Context
from warehouse.cli._words import printable
from warehouse.client import Client
from warehouse.errors import NotFound

_LOOK_EVERY_S = 0.5
"""How often `rb --force` looks whether the bucket is gone."""


@click.command()
@click.argument("buckets", metavar="BUCKET…", nargs=-1, required=True)
@click.option("--replication", type=click.IntRange(1), metavar="N", help="Copies of each object, on as many nodes.")
@click.pass_obj
def mb(context: Context, buckets: tuple[str, ...], replication: int | None) -> None:
    """Make buckets."""
    settings = {} if replication is None else {"replication": replication}
    with context.client() as client:
        for bucket in buckets:
            client.create_bucket(bucket, **settings)


@click.command()
@click.argument("buckets", metavar="BUCKET…", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="With all that is in them; the store deletes it in the background.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Do not wait until a bucket is gone.")
@click.pass_obj
def rb(context: Context, buckets: tuple[str, ...], force: bool, yes: bool, no_wait: bool) -> None:
    """Remove buckets; they must be empty, but for --force.

    A bucket that is removed by force is closed at once, and its name is free when it is gone. Ctrl-C ends the waiting,
    not the work.
    """
    with context.client() as client:
        for bucket in buckets:
            if force and not yes:
                click.confirm(f"Delete {printable(bucket)} and everything in it?", abort=True, err=True)
            left = client.delete_bucket(bucket, force=force)
            if left is None:
                continue
            click.echo(f"{bucket} is closed; {left.object_count} objects are being deleted", err=True)
            if not no_wait:
                _wait_until_gone(client, bucket)


def _wait_until_gone(client: Client, bucket: str) -> None:
    while True:
        try:
            client.bucket(bucket)
        except NotFound:
            return
        time.sleep(_LOOK_EVERY_S)
