"""`python -m volume_server`: needle storage on this machine, for a Warehouse master."""

import argparse
import logging
import os
import re
import resource
import sys
from pathlib import Path

from volume_server.errors import DataDirectoryBusy, VolumeUnusable
from volume_server.logs import configure_logging
from volume_server.process import Options, VolumeServer
from volume_server.upkeep import DEFAULT_SCRUB_DAYS, DEFAULT_SCRUB_RATE

NODE_CHARACTERS = 64
"""The master takes no longer name of a node."""


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m volume_server",
        description="Stores needles in volume files and serves them to the holders of signed URLs.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data directory; made if absent")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8081, help="the port for clients (default %(default)s)")
    parser.add_argument(
        "--internal-port",
        type=_port,
        metavar="Q",
        help="a port of its own for /usage, /admin, /healthz and /metrics (default: the same port)",
    )
    parser.add_argument("--master", required=True, metavar="URL", help="where the master is")
    parser.add_argument(
        "--join-token",
        metavar="T",
        default=os.environ.get("WAREHOUSE_JOIN_TOKEN"),
        help="lets a new server join (default: WAREHOUSE_JOIN_TOKEN, which other users of this machine cannot see)",
    )
    parser.add_argument("--public-url", metavar="U", help="how clients reach this server (default: host and port)")
    parser.add_argument("--internal-url", metavar="I", help="how the master reaches it (default: likewise)")
    parser.add_argument(
        "--node",
        type=_node,
        default=os.uname().nodename,
        help="the failure domain: servers of one node never hold two replicas of a volume (default: %(default)s)",
    )
    parser.add_argument(
        "--scrub-days",
        type=_days,
        default=DEFAULT_SCRUB_DAYS,
        metavar="DAYS",
        help="read and check every volume once in so many days; 0: only when asked (default %(default)g)",
    )
    parser.add_argument(
        "--scrub-rate",
        type=_size,
        default=DEFAULT_SCRUB_RATE,
        metavar="BYTES",
        help="how many bytes a second a scrub reads, such as 50M; 0: as fast as it goes (default 16M)",
    )
    found = parser.parse_args(arguments)
    return Options(
        data=found.data,
        host=found.host,
        port=found.port,
        internal_port=found.internal_port,
        master=found.master.rstrip("/"),
        join_token=found.join_token or None,
        public_url=found.public_url,
        internal_url=found.internal_url,
        node=found.node,
        scrub_days=found.scrub_days,
        scrub_rate=found.scrub_rate,
    )


def raise_file_limit() -> None:
    """As many open files as this process may have: each connection takes one, and so does each volume."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    options = parse_options()
    raise_file_limit()
    configure_logging(os.environ.get("WAREHOUSE_LOG", "text"))
    try:
        return VolumeServer(options).run()
    except (DataDirectoryBusy, VolumeUnusable) as error:
        logging.getLogger("volume_server").critical("%s", error.detail)
    except OSError as error:
        logging.getLogger("volume_server").critical("cannot start: %s", error)
    return 1


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return port


def _node(text: str) -> str:
    if not text.strip() or len(text) > NODE_CHARACTERS:
        raise argparse.ArgumentTypeError(f"a node has a name, of up to {NODE_CHARACTERS} characters")
    return text


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return days


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no size; 50M is one")
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


if __name__ == "__main__":
    sys.exit(main())
