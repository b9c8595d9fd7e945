"""What gunicorn serves."""

import os

import django
from django.core.handlers.wsgi import WSGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")
django.setup(set_prefix=False)

from warehouse_site import lane  # noqa: E402 - it needs Django


class Application(WSGIHandler):
    """Django, and what its worker answers without it."""

    lane = lane


application = Application()
