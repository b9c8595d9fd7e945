"""Gunicorn's settings that do not fit on a command line: its log lines look like everybody else's."""

import os

from warehouse_site import logs

logconfig_dict = logs.configuration(os.environ.get("WAREHOUSE_LOG") or "text")
