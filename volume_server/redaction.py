"""Nothing that opens a door stands in a log, whoever wrote the line: the last look at it takes such things out.

What we log names no secret by itself. But a library's error may quote a URL with its signature, and a web server the
line of a request that it could not read.
"""

import re

_OUT = "***"
_PATTERNS = (
    # Parameters of signed URLs.
    (re.compile(r"\b(sig|intent|token|password|key)=(?![0-9]+\.[0-9]+\b)[^&\s\"'\\]+"), rf"\1={_OUT}"),
    # The text of an API key; its number may be read.
    (re.compile(r"\bwhk_([0-9]+)_[A-Za-z0-9_-]+"), rf"whk_\1_{_OUT}"),
    # JSON web tokens.
    (re.compile(r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){1,2}"), _OUT),
    # The links of shares, and what their passwords open.
    (re.compile(r"/s/[A-Za-z0-9]{20,}(?:/content/[^\s\"'\\]+)?"), f"/s/{_OUT}"),
    # Names and passwords in URLs.
    (re.compile(r"://[^/\s:@\"']*:[^/\s@\"']*@"), f"://{_OUT}@"),
    # Headers that bring a secret.
    (
        re.compile(r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|warehouse-signature|x-csrftoken)\b[^\r\n\"'\\]*"),
        rf"\1: {_OUT}",
    ),
    # Signatures, hashes and keys by themselves.
    (re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{64}(?![0-9A-Za-z])"), _OUT),
)


def redacted(line: str) -> str:
    """The line without keys, tokens, signatures and passwords; a line of JSON stays JSON."""
    for pattern, replacement in _PATTERNS:
        line = pattern.sub(replacement, line)
    return line
