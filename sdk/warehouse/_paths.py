"""Between keys, which are any text, and file paths, which are not."""

import os
from collections.abc import Iterator
from pathlib import Path


class UnsafeKey(ValueError):
    """A key that would name a file outside of the directory it is meant for, or none at all."""


def split_target(target: str) -> tuple[str, str]:
    """`bucket/key` → bucket and key; the key is empty for a bare bucket."""
    bucket, _, key = target.partition("/")
    if not bucket:
        raise ValueError(f"{target!r} does not begin with the name of a bucket")
    return bucket, key


def relative_parts(key: str) -> tuple[str, ...]:
    """The path segments that a key stands for below some directory. Raises UnsafeKey.

    A slash at the end (a "folder" object) gives the segments before it.
    """
    segments = key.removesuffix("/").split("/")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise UnsafeKey(f"{key!r} has an empty, '.' or '..' part and is not written to any file")
        if (os.sep != "/" and os.sep in segment) or os.path.splitdrive(segment)[0] or "\0" in segment:
            raise UnsafeKey(f"{key!r} cannot be a file name here")
    return tuple(segments)


class Below:
    """Makes paths below one directory, and none outside: neither by `..` nor by a symbolic link on the way."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._root = Path(directory).resolve()
        self._made: set[Path] = set()

    def path_for(self, key: str) -> Path:
        """Where a key's file goes; its directories are made. Raises UnsafeKey, OSError."""
        path = self._root.joinpath(*relative_parts(key))
        if path.parent not in self._made:
            # Judged before anything is made: mkdir would follow a link on the way.
            self._check(key, path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)
        if path.is_symlink():
            self._check(key, path)
        return path

    def _check(self, key: str, path: Path) -> None:
        if not path.resolve().is_relative_to(self._root):
            raise UnsafeKey(f"{key!r} would be written outside of {self._root}, through a link")


def files_below(directory: Path) -> Iterator[tuple[Path, str]]:
    """(path, path relative to the directory with slashes) of every file below it, in order.

    Links to files are followed, links to directories are not; what is no regular file is given all the same, for
    the caller to refuse.
    """

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(directory, onerror=fail):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            yield path, path.relative_to(directory).as_posix()
