"""The process in which a volume is copied (see `volume_server.compaction`): a walk over records in Python would take
the interpreter's lock from the loop again and again.

    first message         {"path", "directory", "drop_before_ms", "drop_damage", "rate_bytes"}
    then from the parent  {"do": "follow", "upto"}, {"do": "save"}
    to the parent         {"loaded": watermark}, {"progress": offset}, {"at", "tail"} after each step
"""

import gc
import sys
import time
from pathlib import Path

from volume_server.checkpoint import CheckpointFile
from volume_server.child import Parent, run_child
from volume_server.compaction import CompactionFailed, Copied, Copy
from volume_server.durability import FileSystem
from volume_server.pace import Pace
from volume_server.verification import ForkedVerifier

PROGRESS_EVERY_S = 0.25


class Reporter:
    """Tells the parent how far the copy is, and finds out that it is gone."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self._told_s = time.monotonic()

    def __call__(self, at: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= PROGRESS_EVERY_S:
            self._told_s = now_s
            self.parent.send({"progress": at})


def main(parent: Parent) -> None:
    """Copies until the parent has what it needs, then goes with it. Whatever it raises is told."""
    gc.disable()  # millions of records are looked at, and nothing here refers to itself
    order, _ = parent.first()
    files, path = FileSystem(), Path(order["path"])
    copy = Copy(
        files,
        path,
        Path(order["directory"]),
        drop_before_ms=int(order["drop_before_ms"]),
        drop_damage=bool(order["drop_damage"]),
        pace=Pace(int(order["rate_bytes"])),
        progress=Reporter(parent),
        verifier=ForkedVerifier,
    )
    loaded = CheckpointFile(files, path.with_suffix(".idx"), copy.old).load()
    if loaded is None:
        raise CompactionFailed("the checkpoint that was just made cannot be read")
    parent.send({"loaded": loaded.watermark})
    live_bytes = max(loaded.watermark - loaded.figures.garbage_bytes, 0)
    tell(parent, copy.copy(loaded.index, loaded.watermark, reserve_bytes=live_bytes))
    del loaded
    while True:
        step = parent.receive()
        tell(parent, copy.follow(int(step["upto"])) if step["do"] == "follow" else copy.save())


def tell(parent: Parent, copied: Copied) -> None:
    parent.send({"at": copied.at, "tail": copied.tail})


if __name__ == "__main__":
    sys.exit(run_child(main))
