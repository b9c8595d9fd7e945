"""Gunicorn's settings that do not fit on a command line: its log lines look like everybody else's."""

import logging
import os
import sys
from typing import Any

from gunicorn.glogging import Logger

from warehouse_site import logs


class HouseLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """No access log: heartbeats and confirms would drown it, and it costs more than answering some of them."""

    def access(self, *_: Any) -> None:
        pass


def on_starting(server: Any) -> None:
    """Several processes without a cache that they share are refused (the check `warehouse.E007`)."""
    workers = server.cfg.workers
    if workers > 1 and not os.environ.get("REDIS_URL"):
        sys.exit(
            f"warehouse.E007: {workers} gunicorn workers without REDIS_URL. Set it, or run one worker "
            "with more WAREHOUSE_THREADS."
        )


logging.captureWarnings(capture=True)
logger_class = HouseLogger

logconfig_dict = logs.configuration(os.environ.get("WAREHOUSE_LOG") or "text")
