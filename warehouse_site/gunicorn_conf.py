"""Gunicorn's settings that do not fit on a command line: its log lines look like everybody else's."""

import logging
import os
from typing import Any

from gunicorn.glogging import Logger

from warehouse_site import logs


class HouseLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """No access log: heartbeats and confirms would drown it, and it costs more than answering some of them."""

    def access(self, *_: Any) -> None:
        pass


logging.captureWarnings(capture=True)
logger_class = HouseLogger

logconfig_dict = logs.configuration(os.environ.get("WAREHOUSE_LOG") or "text")
