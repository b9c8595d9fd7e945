"""The Content-Security-Policy of pages that reach volume servers: for uploads, pictures, films.

Every other page keeps the house's own, which lets nothing in or out but the master.
"""

import re
from urllib.parse import urlsplit

from volumes.selectors import public_urls
from warehouse_site.middleware import CONTENT_SECURITY_POLICY

CONNECT, MEDIA, IMAGES = "connect-src", "media-src", "img-src"

_ORIGIN = re.compile(r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE)
"""Nothing that a policy would take for the end of a source or of a directive."""


def policy_with_servers(*directives: str) -> str:
    """The house's policy, in which each of the directives names the volume servers' origins, too. One query.

    Those that are away as well: a page that was opened while one restarted is to reach it when it is back.
    """
    policy = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    servers = server_origins()
    for directive in directives:
        policy[directive] = " ".join([policy.get(directive, "'self'"), *servers])
    return "; ".join(f"{directive} {sources}" for directive, sources in policy.items())


def server_origins() -> list[str]:
    """Scheme, host and port of every volume server's public address, each once."""
    parts = map(urlsplit, public_urls())
    origins = {f"{part.scheme}://{part.netloc}" for part in parts}
    return sorted(origin for origin in origins if _ORIGIN.fullmatch(origin))
