"""A child for the tests of `jobs`, which does what its first message says."""

import os
import sys
import time

from volume_server.child import Parent, run_child


def main(parent: Parent) -> None:
    first, fds = parent.first()
    what = first["do"]
    if what == "read":
        parent.send({"content": os.pread(fds[0], 100, 0).decode(), "count": len(fds)})
    elif what == "echo":
        parent.send({"ready": True})
        while (message := parent.receive()) != {"stop": True}:
            parent.send(message)
    elif what == "poll":
        while (message := parent.poll()) is None:
            parent.send({"nothing": "yet"})
            time.sleep(0.001)
        parent.send(message)
    elif what == "dawdle":
        parent.send({"ready": True})
        os.read(fds[0], 1)
        count = 0
        while parent.receive() != {"stop": True}:
            count += 1
        parent.send({"count": count})
    elif what == "wait":
        parent.send({"ready": True, "session": os.getsid(0), "niceness": os.getpriority(os.PRIO_PROCESS, 0)})
        parent.receive()
    elif what == "fail":
        raise OSError(28, "No space left on device")
    elif what == "exit":
        sys.exit(first["code"])
    elif what == "garbage":
        os.write(0, first["raw"].encode() * first.get("times", 1))
        parent.receive()
    elif what == "end at once":
        for number in range(first.get("times", 1)):
            parent.send({"number": number})
    elif what == "tell":
        while True:  # until the parent is gone
            parent.send({"at": time.monotonic()})
            time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(run_child(main))
