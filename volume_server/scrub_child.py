"""The process in which a volume is scrubbed (see `volume_server.scrub`).

first message   {"superblock": hex, "end": offset, "rate_bytes"}, and the volume's open file
to the parent   {"at": offset} every second, {"damaged": [as in /admin/damaged, ...]}
"""

import os
import sys
import time

from volume_server import superblock
from volume_server.child import PROGRESS_S, Parent, run_child
from volume_server.damage import Damage
from volume_server.pace import Pace
from volume_server.scrub import SparingFiles, scrub

MAX_BATCH = 200
"""Of findings in one message; they have at most some 200 bytes each."""


class Reporter:
    """Tells the parent how far the pass is and what it found, and finds out that it is gone."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self._found: list[Damage] = []
        self._told_s = time.monotonic()

    def found(self, damage: Damage) -> None:
        self._found.append(damage)
        if len(self._found) == MAX_BATCH:
            self.flush()

    def at(self, offset: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            self.flush()
            self.parent.send({"at": offset})

    def flush(self) -> None:
        if self._found:
            self.parent.send({"damaged": [damage.to_json() for damage in self._found]})
            self._found.clear()


def main(parent: Parent) -> None:
    """One pass; whatever it raises is told."""
    order, (given,) = parent.first()
    files = SparingFiles()
    fd = files.open_again(given)
    os.close(given)
    reporter = Reporter(parent)
    expected = superblock.decode(bytes.fromhex(order["superblock"]))
    pace = Pace(int(order["rate_bytes"]))
    for damage in scrub(files, fd, expected, end=int(order["end"]), pace=pace, progress=reporter.at):
        reporter.found(damage)
    reporter.flush()


if __name__ == "__main__":
    sys.exit(run_child(main))
