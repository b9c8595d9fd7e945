"""Settings of the store. Everything comes from environment variables, each explained where it is read.

Importing this module writes nothing and needs no secret: secrets are read when they are first used
(see `keys.secrets`). Values that cannot be understood are reported by `manage.py check` (warehouse.E001).
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import dj_database_url
import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import SimpleLazyObject

from buckets.sizes import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from keys.secrets import secret
from warehouse_site import logs, sqlite
from warehouse_site.environment import Environment

django_stubs_ext.monkeypatch()  # lets Django's own generic classes be written with their types: ModelAdmin[ApiKey]

BASE_DIR: Final = Path(__file__).resolve().parent.parent

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
DAY_SECONDS: Final = 24 * 3600

ENVIRONMENT: Final = Environment(os.environ)
_env = ENVIRONMENT

# --- Where the store is -------------------------------------------------------------------------------------------

WAREHOUSE_DATA: Final = Path(
    _env.text("WAREHOUSE_DATA", "./data", "Folder of the database, the secrets, the broker and the volumes.")
).absolute()
WAREHOUSE_PORT: Final = _env.number(
    "WAREHOUSE_PORT", "8000", "Port of the master under `manage.py up`.", least=1, most=65535
)
WAREHOUSE_PUBLIC_URL: Final = (
    _env.url(
        "WAREHOUSE_PUBLIC_URL",
        "",
        "Origin under which clients reach the master; empty: http://127.0.0.1 and the port. https turns on HSTS, "
        "secure cookies and the redirect to https.",
    )
    or f"http://127.0.0.1:{WAREHOUSE_PORT}"
)
WAREHOUSE_HOSTS: Final = _env.names(
    "WAREHOUSE_HOSTS", "", "Further host names that requests may name, separated by commas."
)
WAREHOUSE_DEBUG: Final = _env.flag("WAREHOUSE_DEBUG", "0", "1 shows Django's error pages; never in production.")
WAREHOUSE_LOG: Final = _env.choice(
    "WAREHOUSE_LOG", "text", "How log lines look on stderr: `json` or `text`.", of=("json", "text")
)
WAREHOUSE_THREADS: Final = _env.number(
    "WAREHOUSE_THREADS", "16", "Threads of the master; a quarter of them may stream objects.", least=4, most=512
)

# --- Sizes and lifetimes ------------------------------------------------------------------------------------------

WAREHOUSE_CHUNK_SIZE: Final = _env.size(
    "WAREHOUSE_CHUNK_SIZE",
    "80MiB",
    "Size of an object's chunks, the last one excepted; a bucket may have its own.",
    least=MIN_CHUNK_BYTES,
    most=MAX_CHUNK_BYTES,
)
WAREHOUSE_VOLUME_SIZE: Final = _env.size(
    "WAREHOUSE_VOLUME_SIZE", "16GiB", "Size at which a volume counts as full.", least=64 * KIB, most=512 * GIB
)
WAREHOUSE_WRITABLE_VOLUMES: Final = _env.number(
    "WAREHOUSE_WRITABLE_VOLUMES",
    "2",
    "Writable volumes made ahead of need on each server, for each number of copies.",
    least=1,
    most=64,
)
WAREHOUSE_REREPLICATE_SECONDS: Final = _env.number(
    "WAREHOUSE_REREPLICATE_SECONDS",
    "600",
    "How long a server may be silent before its copies are made anew on others.",
    least=1,
    most=30 * DAY_SECONDS,
)
WAREHOUSE_LEASE_SECONDS: Final = _env.number(
    "WAREHOUSE_LEASE_SECONDS", "900", "How long a lease for small puts is good.", least=1, most=DAY_SECONDS
)
WAREHOUSE_UPLOAD_SECONDS: Final = _env.number(
    "WAREHOUSE_UPLOAD_SECONDS",
    str(7 * DAY_SECONDS),
    "How long an upload can be resumed.",
    least=1,
    most=90 * DAY_SECONDS,
)
WAREHOUSE_COMMIT_ROWS: Final = _env.number(
    "WAREHOUSE_COMMIT_ROWS",
    "25000",
    "Objects that one commit renames, or chunks that it copies, overwrites and deletes. Other writers wait meanwhile.",
    least=10_000,  # the chunks of the largest object, so that it can always be deleted
    most=1_000_000,
)
WAREHOUSE_CHUNK_URL_SECONDS: Final = _env.number(
    "WAREHOUSE_CHUNK_URL_SECONDS", "3600", "How long the signed URL of one chunk is good.", least=1, most=DAY_SECONDS
)
WAREHOUSE_GET_SECONDS: Final = _env.number(
    "WAREHOUSE_GET_SECONDS", "900", "How long a signed GET is good; 15 minutes at most.", least=1, most=900
)
WAREHOUSE_CONFIRM_GRACE_SECONDS: Final = _env.number(
    "WAREHOUSE_CONFIRM_GRACE_SECONDS",
    "600",
    "How long after a lease's end its needles may still be confirmed.",
    least=0,
    most=DAY_SECONDS,
)
WAREHOUSE_ACCESS_SECONDS: Final = _env.number(
    "WAREHOUSE_ACCESS_SECONDS", "300", "How long an access token is good.", least=1, most=3600
)
WAREHOUSE_REFRESH_SECONDS: Final = _env.number(
    "WAREHOUSE_REFRESH_SECONDS",
    str(7 * DAY_SECONDS),
    "How long a refresh token is good; each use gives a new one.",
    least=1,
    most=90 * DAY_SECONDS,
)
WAREHOUSE_REFRESH_LEEWAY_SECONDS: Final = _env.number(
    "WAREHOUSE_REFRESH_LEEWAY_SECONDS",
    "10",
    "How long after its use a refresh token that comes again is refused only; later, all that descend from its sign-in "
    "are revoked. 0: at once.",
    least=0,
    most=300,
)
WAREHOUSE_FAILED_LOGINS: Final = _env.number(
    "WAREHOUSE_FAILED_LOGINS",
    "30",
    "Failed log-ins of one client address in a minute, after which it gets 429 instead of 401.",
    least=1,
    most=1_000_000,
)
WAREHOUSE_AUDIT_DAYS: Final = _env.number(
    "WAREHOUSE_AUDIT_DAYS", "90", "How long the audit trail is kept.", least=1, most=36_500
)
WAREHOUSE_JOURNAL_SECONDS: Final = _env.number(
    "WAREHOUSE_JOURNAL_SECONDS",
    "3",
    "How often the worker writes a journal of the database into the volumes, so that these alone can rebuild it. "
    "0: never; then needles of deleted objects do not wait for it.",
    least=0,
    most=3600,
)

WAREHOUSE_COMPACT_GARBAGE: Final = _env.number(
    "WAREHOUSE_COMPACT_GARBAGE",
    "30",
    "Percent of a volume that must be garbage for the worker to compact it; 0: never by itself.",
    least=0,
    most=100,
)
WAREHOUSE_COMPACT_HOURS: Final = _env.hours(
    "WAREHOUSE_COMPACT_HOURS",
    "",
    "Hours of the day (UTC) in which the worker begins compactions, such as `22-6`; empty: all.",
)
WAREHOUSE_COMPACT_RATE: Final = _env.size(
    "WAREHOUSE_COMPACT_RATE",
    "32MiB",
    "What a compaction that the worker began copies in a second at the most; 0: as fast as it goes.",
    least=0,
    most=TIB,
)
WAREHOUSE_SCRUB_DAYS: Final = _env.number(
    "WAREHOUSE_SCRUB_DAYS",
    "7",
    "Within how many days servers scrub each volume (their `--scrub-days`); what is a day late, the worker asks for. "
    "0: it does not look.",
    least=0,
    most=3650,
)
WAREHOUSE_SHARE_DAYS: Final = _env.number(
    "WAREHOUSE_SHARE_DAYS", "30", "How long ended shares are kept and shown.", least=0, most=36_500
)
WAREHOUSE_SWEEP: Final = _env.choice(
    "WAREHOUSE_SWEEP",
    "delete",
    "What the worker does with needles that no row names: `delete` them, or `report` them only.",
    of=("delete", "report"),
)
WAREHOUSE_SWEEP_SECONDS: Final = _env.number(
    "WAREHOUSE_SWEEP_SECONDS",
    str(DAY_SECONDS),
    "How much longer than any lease such a needle lives, and how far apart two listings must be that have seen it.",
    least=1,
    most=90 * DAY_SECONDS,
)

# --- What the store leans on --------------------------------------------------------------------------------------

DATABASE_URL: Final = _env.text(
    "DATABASE_URL", "", "postgres://user:password@host/name for PostgreSQL; empty: SQLite in the data folder."
)
REDIS_URL: Final = _env.text(
    "REDIS_URL", "", "redis://host/0 for cache and broker; empty: a cache in memory and a broker in the data folder."
)

if REDIS_URL and not (REDIS_URL.startswith(("redis://", "rediss://")) and urlsplit(REDIS_URL).hostname):
    raise ImproperlyConfigured("REDIS_URL cannot be used: redis://host/0 is expected. (warehouse.E005)")

# Secrets are read by keys.secrets; they stand here so that one list names every variable.
for _name, _meaning in (
    ("WAREHOUSE_SECRET_KEY", "Signs sessions and forms; empty: `secrets/django.key`, made at first start."),
    ("WAREHOUSE_JWT_KEY", "RSA private key (PEM) that signs tokens; empty: `secrets/jwt.pem`, made at first start."),
    ("WAREHOUSE_SIGNING_KEY", "64 hex digits that sign leases and URLs; empty: `secrets/signing.key`."),
    ("WAREHOUSE_JOIN_TOKEN", "Admits new volume servers; empty: `secrets/join.token`, made at first start."),
):
    _env.text(_name, "", _meaning)


class LazySecretKey(SimpleLazyObject[str]):
    """Django's SECRET_KEY, read when something is first signed with it.

    It counts as set without a look at it, so that the settings can be read where no secrets exist yet.
    """

    def __bool__(self) -> bool:
        return True


SECRET_KEY: Any = LazySecretKey(lambda: secret("django.key").decode())

DEBUG = WAREHOUSE_DEBUG
ROOT_URLCONF = "warehouse_site.urls"
WSGI_APPLICATION = "warehouse_site.wsgi.application"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = "warehouse_site.formats"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * MIB  # a batch of 1,000 keys of 1 KiB, six-fold escaped in JSON, fits with room
DATA_UPLOAD_MAX_NUMBER_FIELDS = 16_000  # the form of a key with a thousand grants; 10,000 rows of a list, chosen

INSTALLED_APPS = [
    "warehouse_site.apps.WarehouseSiteConfig",
    "warehouse_site.apps.WarehouseAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "template_partials.apps.SimpleAppConfig",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "keys",
    "volumes",
    "buckets",
]

MIDDLEWARE = [
    "warehouse_site.middleware.RequestIdMiddleware",
    "warehouse_site.middleware.ActingMiddleware",
    "warehouse_site.middleware.HeadMiddleware",
    "warehouse_site.middleware.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "warehouse_site.middleware.BodyLimitMiddleware",
    "warehouse_site.middleware.InternalMiddleware",
    "warehouse_site.middleware.Utf8Middleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "warehouse_site.middleware.KeyRingMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

_LOADERS = ["django.template.loaders.filesystem.Loader", "django.template.loaders.app_directories.Loader"]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "loaders": [("template_partials.loader.Loader", [("django.template.loaders.cached.Loader", _LOADERS)])],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "warehouse_site.navigation.navigation",
            ],
        },
    },
]

# --- Database -----------------------------------------------------------------------------------------------------

SQLITE_JOURNAL_MODE: Final = "WAL" if sqlite.wal_is_safe(sqlite.choose()) else "PERSIST"
SQLITE_JOURNAL_BYTES: Final = 32 * MIB
"""What a journal may keep after a commit. Most need less; written over in place, it costs the file system no commit."""
SQLITE_CHECKPOINT_PAGES: Final = 4000
"""Of the WAL, 16 MB, before they are written back: of pages that many commits change only the last state is."""
SQLITE_CACHE_KIB: Final = 32 << 10
"""Pages that a connection keeps, one a thread. Commits among a million objects change some 300 pages each, most of them
the same ones again; with SQLite's own 2 MB they cost half as much again."""
SQLITE_BUSY_SECONDS: Final = 20
SQLITE_STATEMENTS: Final = 1024
"""Kept prepared by each connection. Those of a batch differ with its size, so that they are many."""


def _database() -> dict[str, Any]:
    """Raises ImproperlyConfigured, where another setting would fall back: nobody wants an empty store instead."""
    if DATABASE_URL:
        try:
            config = dict(dj_database_url.parse(DATABASE_URL, conn_max_age=60, conn_health_checks=True))
        except ValueError:
            config = {"ENGINE": "unknown"}
        if config["ENGINE"] not in ("django.db.backends.sqlite3", "django.db.backends.postgresql"):
            raise ImproperlyConfigured(
                "DATABASE_URL cannot be used: postgres://user:password@host/name or sqlite:///path is expected. "
                "(warehouse.E004)"
            )
    else:
        config = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(WAREHOUSE_DATA / "db.sqlite3")}
    if config["ENGINE"] == "django.db.backends.postgresql":
        config["ENGINE"] = "warehouse_site.postgresql"
    else:
        config["ENGINE"] = "warehouse_site.sqlite"
        config["CONN_MAX_AGE"] = None  # a thread keeps its connection, and with it SQLite's page cache
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",  # writers queue at BEGIN: none of them fails half-way to the lock
            "timeout": SQLITE_BUSY_SECONDS,
            "cached_statements": SQLITE_STATEMENTS,
            "init_command": (
                f"PRAGMA journal_mode={SQLITE_JOURNAL_MODE}; PRAGMA journal_size_limit={SQLITE_JOURNAL_BYTES}; "
                f"PRAGMA synchronous=FULL; PRAGMA cache_size=-{SQLITE_CACHE_KIB}; "
                f"PRAGMA wal_autocheckpoint={SQLITE_CHECKPOINT_PAGES};"
            ),
        }
    return config


DATABASES = {"default": _database()}

# --- Cache, sessions, accounts ------------------------------------------------------------------------------------

CACHES: dict[str, dict[str, Any]] = {
    "default": (
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL, "KEY_PREFIX": "warehouse"}
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}}
    )
}

AUTH_USER_MODEL = "keys.ApiKey"
AUTHENTICATION_BACKENDS = ["keys.backends.KeyBackend"]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "dashboard"
LOGOUT_REDIRECT_URL = "sign-in"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "warehouse_site.problems.csrf_refused"
CSRF_COOKIE_HTTPONLY = False  # HTMX and the browsable API send it back in a header

# --- Static files -------------------------------------------------------------------------------------------------

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # served from where the packages keep them: no collectstatic, nothing from a CDN
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 300

# --- Security -----------------------------------------------------------------------------------------------------

_public = urlsplit(WAREHOUSE_PUBLIC_URL)
HTTPS: Final = _public.scheme == "https"
ALLOWED_HOSTS = sorted({_public.hostname or "localhost", "localhost", "127.0.0.1", "[::1]", *WAREHOUSE_HOSTS})
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"]
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SILENCED_SYSTEM_CHECKS: list[str] = []
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Volume servers and health probes reach the master inside the house, where no proxy adds TLS.
    SECURE_REDIRECT_EXEMPT = [r"^api/v1/internal/", r"^api/v1/health$"]
    SECURE_HSTS_SECONDS = 365 * DAY_SECONDS
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
else:
    # HSTS, redirect to https, secure session cookie, secure CSRF cookie: none of them can be over http.
    SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008", "security.W012", "security.W016"]

# --- API ----------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "keys.api.authentication.TokenAuthentication",  # first: its challenge makes a missing sign-in a 401
        "keys.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["warehouse_site.json_body.BodyParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "warehouse_site.browsable.ExampleRenderer",
    ],
    "DEFAULT_SCHEMA_CLASS": "warehouse_site.openapi.HouseSchema",
    "EXCEPTION_HANDLER": "warehouse_site.problems.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "URL_FORMAT_OVERRIDE": None,  # `?format=` is nobody's
}

SIMPLE_JWT = {
    "ALGORITHM": "RS256",
    "ACCESS_TOKEN_LIFETIME": timedelta(seconds=WAREHOUSE_ACCESS_SECONDS),
    "REFRESH_TOKEN_LIFETIME": timedelta(seconds=WAREHOUSE_REFRESH_SECONDS),
    "SIGNING_KEY": None,  # the tokens of keys.tokens bring their own key, issuer and audience
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Warehouse",
    "DESCRIPTION": (
        "A self-hosted object store. Bytes move between clients and volume servers by signed URLs; "
        "this API hands them out and keeps buckets, objects and keys."
    ),
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "warehouse_site.openapi.finish"],
    "ENUM_NAME_OVERRIDES": {  # several things have a `state`
        "JobStateEnum": "volumes.models.JobState",
        "ServerStatusEnum": ["online", "offline", "draining", "maintenance"],
        "ShareStateEnum": "buckets.models.Share.State",
        "TaskStatusEnum": ["waiting", "running", "done", "failed", "lost"],
    },
}

# --- Logging ------------------------------------------------------------------------------------------------------

LOGGING = logs.configuration(WAREHOUSE_LOG)

# --- Worker -------------------------------------------------------------------------------------------------------

BROKER_FOLDER: Final = WAREHOUSE_DATA / "broker"
CELERY_TASK_SOFT_TIME_LIMIT = 300
CELERY_TASK_TIME_LIMIT = 360
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED = False
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_TIMER_PRECISION = 0.2  # seconds; a worker that stops waits for its timer to wake up
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
if REDIS_URL:
    CELERY_BROKER_URL = REDIS_URL
else:
    CELERY_BROKER_URL = "filesystem://localhost//"  # it has no host, but kombu warns without one
    CELERY_BROKER_TRANSPORT = "warehouse_site.filesystem_broker:Transport"  # before the URL's own scheme
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(BROKER_FOLDER / "queue"),
        "data_folder_out": str(BROKER_FOLDER / "queue"),  # one folder: what a producer writes a worker reads
        "control_folder": str(BROKER_FOLDER / "control"),
        "store_processed": False,
        "polling_interval": 0.2,
    }
# A message only wakes a task up; its work stands in the database. One that waited past its period is dropped.
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "check-servers": {"task": "volumes.tasks.check_servers", "schedule": 5.0, "options": {"expires": 5}},
    "apply-replication": {"task": "buckets.tasks.apply_replication", "schedule": 5.0, "options": {"expires": 5}},
    "mend-volumes": {"task": "volumes.tasks.mend_volumes", "schedule": 2.0, "options": {"expires": 2}},
    "prune-audit": {"task": "keys.tasks.prune_audit", "schedule": 3600.0, "options": {"expires": 3600}},
    "collect-outbox": {"task": "buckets.tasks.collect_outbox", "schedule": 10.0, "options": {"expires": 10}},
    "compact-garbage": {"task": "volumes.tasks.compact_garbage", "schedule": 60.0, "options": {"expires": 60}},
    "watch-scrubs": {"task": "volumes.tasks.watch_scrubs", "schedule": 600.0, "options": {"expires": 600}},
    "sample-usage": {"task": "buckets.tasks.sample_usage", "schedule": 60.0, "options": {"expires": 60}},
    "thin-usage": {"task": "buckets.tasks.thin_usage", "schedule": 3600.0, "options": {"expires": 3600}},
    "forget-shares": {"task": "buckets.tasks.forget_shares", "schedule": 3600.0, "options": {"expires": 3600}},
    "prove": {"task": "buckets.tasks.prove", "schedule": 60.0, "options": {"expires": 60, "priority": 9}},
    "sweep": {"task": "buckets.tasks.sweep", "schedule": 600.0, "options": {"expires": 600, "priority": 9}},
    **(
        {
            "write-journal": {
                "task": "buckets.tasks.write_journal",
                "schedule": float(WAREHOUSE_JOURNAL_SECONDS),
                "options": {"expires": WAREHOUSE_JOURNAL_SECONDS},
            }
        }
        if WAREHOUSE_JOURNAL_SECONDS
        else {}
    ),
    "delete-buckets": {"task": "buckets.tasks.delete_buckets", "schedule": 10.0, "options": {"expires": 10}},
}
