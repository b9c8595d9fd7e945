"""What the `warehouse` command starts with, and `python -m warehouse`.

It imports nothing large before Ctrl-C would be answered by one line.
"""

import sys

from warehouse._exit_codes import INTERRUPTED


def main() -> None:
    """The command line, from the first import to the exit code."""
    try:
        from warehouse.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("warehouse: interrupted\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
