"""The database's file: only a migration makes one, and who has it open notices when it is gone.

SQLite goes on in a file that was removed or replaced under it, and all that is committed there is gone when the last
process closes it; one that opens the path meanwhile gets another file, or makes an empty one. So a process remembers
which file it opened and refuses every statement once the path is not that file any more. It looks once a second at
the most: that long a commit may still go into a file that was just removed, as it may right before.
"""

import contextlib
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from django.db import OperationalError

LOOK_EVERY_S = 1.0


class DatabaseLost(OperationalError):
    """The path names no file any more, or another one than this process opened."""


class DatabaseFile:
    """What this process knows of the file at a path."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.is_minded = True
        """False where a lost file is read to its end, as for the rest of the journal."""
        self._clock = clock
        self._opened: tuple[int, int] | None = None
        self._looked_at_s = clock()

    @property
    def uri(self) -> str:
        """Opens it, and never makes one."""
        return f"file://{quote(os.fsencode(self.path))}?mode=rw"

    def make(self) -> None:
        """Makes an empty file where there is none; what keeps that from being done, an opening says."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._opened = None

    def note_opened(self) -> None:
        """A connection was just opened; all later ones of this process must be to the same file."""
        if self._opened is None:
            with contextlib.suppress(OSError):
                self._opened = self._identity()

    def require_same(self) -> None:
        """Raises DatabaseLost."""
        if self._opened is None:
            return
        now_s = self._clock()
        try:
            found = self._identity()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError:
            return  # whether it is there is not known
        if found != self._opened:
            raise DatabaseLost(
                f"The database's file was {'removed' if found is None else 'replaced'} while the store ran, so nothing "
                "is read or written any more. Put that very file back; or stop the store, not by force, since a clean "
                "stop saves what the volumes do not tell yet, and run `manage.py rebuild` (docs/operations.md)."
            )
        self._looked_at_s = now_s

    def require_same_lately(self) -> None:
        """`require_same`, once in `LOOK_EVERY_S`, and each time while it is lost. Raises DatabaseLost."""
        if self.is_minded and self._clock() - self._looked_at_s >= LOOK_EVERY_S:
            self.require_same()

    def _identity(self) -> tuple[int, int]:
        # By its path: a descriptor that is closed again would take this process's locks on the file with it.
        found = self.path.stat()
        return found.st_dev, found.st_ino


def file_of(name: str) -> DatabaseFile | None:
    """The file of a database of this NAME, one for all connections of the process; None for one in memory."""
    if name == ":memory:" or name.startswith("file:"):
        return None
    return _file_at(Path(name).absolute())


@cache
def _file_at(path: Path) -> DatabaseFile:
    return DatabaseFile(path)
