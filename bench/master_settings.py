"""The product's settings, with one more address: the reference that `make bench-master` measures beside the rest."""

from warehouse_site.settings import *  # noqa: F403

ROOT_URLCONF = "bench.master_urls"
