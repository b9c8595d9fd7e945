"""What lies in a folder of keys, chosen by somebody who looks at it: objects, and folders with all below them."""

from collections.abc import Sequence

from django.db import transaction

from buckets.errors import ObjectUnknown
from buckets.services.groups import Rename, commit_group
from buckets.services.prefixes import RenamedPrefix, rename_prefix
from keys.errors import Invalid


def last_name(text: str) -> str:
    """What a key or a folder is called where it lies: ``c.txt`` of ``a/b/c.txt``, ``b/`` of ``a/b/``."""
    at = text.rfind("/", 0, len(text) - 1)
    return text[at + 1 :]


@transaction.atomic
def move_into(
    *, bucket: str, keys: Sequence[str], folders: Sequence[str], to_folder: str, overwrite: bool = False
) -> RenamedPrefix:
    """Moves objects and whole folders (prefixes, each with the slash at its end) into another folder, all or none.

    They keep the last part of their names. Raises what `commit_group` and `rename_prefix` raise.
    """
    if any(to_folder.startswith(folder) for folder in folders):
        raise Invalid(errors={"to": ["A folder can't be moved into itself."]})
    if len({last_name(text) for text in (*keys, *folders)}) < len(keys) + len(folders):
        raise Invalid(errors={"to": ["Two of them have the same name: they can't lie in one folder."]})
    renamed = overwritten = 0
    for folder in folders:
        done = rename_prefix(bucket=bucket, prefix=folder, to_prefix=to_folder + last_name(folder), overwrite=overwrite)
        renamed, overwritten = renamed + done.renamed, overwritten + done.overwritten
    if keys:
        renames = [Rename(key, to_folder + last_name(key), overwrite=overwrite) for key in keys]
        outcomes = commit_group(bucket=bucket, operations=renames).outcomes
        renamed += len(outcomes)
        overwritten += sum(outcome.existed for outcome in outcomes)
    if not renamed:
        raise ObjectUnknown("Nothing was chosen that could be moved.")
    return RenamedPrefix(renamed=renamed, overwritten=overwritten)
