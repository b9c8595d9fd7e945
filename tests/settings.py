"""Settings of the test run: the product's own, on a data directory that is thrown away.

Anything that the developer's shell says about a running store is put aside first, so that a test run beside
a store never touches it. `DATABASE_URL` alone is kept: it is how the same tests run on PostgreSQL.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_data = Path(tempfile.mkdtemp(prefix="warehouse-tests-"))
atexit.register(shutil.rmtree, _data, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("WAREHOUSE_") or name == "REDIS_URL"]:
    del os.environ[_name]
os.environ["WAREHOUSE_DATA"] = str(_data)

from warehouse_site.settings import *  # noqa: E402, F403
from warehouse_site.settings import DATABASES  # noqa: E402

if "sqlite" in DATABASES["default"]["ENGINE"]:
    # A file, not memory: threads of one test then meet the same locks as gunicorn's do.
    DATABASES["default"]["TEST"] = {"NAME": str(_data / "test.sqlite3")}

# Tests of the journal turn it on; for the others it would be one more thing to wait for.
WAREHOUSE_JOURNAL_SECONDS = 0

# Passwords of shares are hashed slowly on purpose; what tests ask about them is not how slowly.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Each of Django's test clients sets the middleware up anew, and with it WhiteNoise would list every static file: here
# it looks a file up when it is asked for.
WHITENOISE_AUTOREFRESH = True
