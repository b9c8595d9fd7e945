"""The options of `manage.py up`, and how they become settings.

Settings are read when Django starts, before a command sees its options. So `manage.py` calls `export_options`
first, which puts those that are settings into the environment, for this process and its children.
"""

import argparse
import os
from pathlib import Path
from typing import Final

COMMAND: Final = "up"
DEFAULT_SERVERS: Final = 2
DEFAULT_VOLUME_PORT: Final = 8081
_EXPORTED: Final = {"data": "WAREHOUSE_DATA", "port": "WAREHOUSE_PORT"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options; None as a default means: as the settings say."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder (WAREHOUSE_DATA, ./data)")
    parser.add_argument("--port", type=_port, metavar="P", help="port of the master (WAREHOUSE_PORT, 8000)")
    parser.add_argument(
        "--volume-servers",
        type=_count,
        default=DEFAULT_SERVERS,
        metavar="N",
        help=f"how many volume servers to start ({DEFAULT_SERVERS})",
    )
    parser.add_argument(
        "--volume-port",
        type=_port,
        default=DEFAULT_VOLUME_PORT,
        metavar="P",
        help=f"port of the first volume server, the next ones follow ({DEFAULT_VOLUME_PORT})",
    )
    parser.add_argument("--no-worker", action="store_true", help="start neither worker nor beat")
    parser.add_argument("--no-restart", action="store_true", help="leave a part that dies dead, and say so")
    parser.add_argument("--init", action="store_true", help="make secrets, database and first key, print them, stop")
    parser.add_argument(
        "--json", action="store_true", help="structured logs on stderr; the first line on stdout is the ready event"
    )


def export_options(argv: list[str]) -> None:
    """Put those options of an `up` command line that are settings into the environment."""
    if argv[1:2] != [COMMAND]:
        return
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    add_options(parser)
    try:
        options, _ = parser.parse_known_args(argv[2:])
    except argparse.ArgumentError:
        return  # the command parses them again, and says what is wrong with them
    for option, variable in _EXPORTED.items():
        value = getattr(options, option)
        if value is not None:
            os.environ[variable] = str(value.absolute() if isinstance(value, Path) else value)
    if options.json:
        os.environ["WAREHOUSE_LOG"] = "json"


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return port


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 256:
        raise argparse.ArgumentTypeError("from 0 to 256 volume servers")
    return count
