"""Open the volume of a data directory, and tell how long that took. Nothing is written at the end.

    python -m bench.opening DATA

Prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

from volume_server.store import Store


def main(data: Path) -> None:
    store = Store(data)
    started = time.perf_counter()
    store.open_volumes()
    seconds = time.perf_counter() - started
    [volume] = store.volumes.values()
    print(json.dumps({"seconds": seconds, "needles": volume.figures.live_count}))
    store.close(clean=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
