"""What stands for buckets and objects in the arguments. All that is wrong with one is a UsageError."""

import click

from warehouse._paths import split_target


def target_of(text: str) -> tuple[str, str]:
    try:
        text.encode()
        return split_target(text)
    except UnicodeEncodeError as error:
        raise click.UsageError("keys are UTF-8") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def object_of(text: str) -> tuple[str, str]:
    bucket, key = target_of(text)
    if not key:
        raise click.UsageError("which object? Give BUCKET/KEY")
    return bucket, key


def folder_of(key: str) -> str:
    """The prefix of all that is below a key; of all there is, for no key."""
    return key if not key or key.endswith("/") else key + "/"


def named(target: str, key: str) -> str:
    """The key that a copy gets: with a folder as the target, its own last part below that."""
    return target if target and not target.endswith("/") else target + key.rstrip("/").rsplit("/", 1)[-1]
