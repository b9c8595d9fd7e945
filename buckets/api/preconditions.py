"""Preconditions of a change, as the headers of its request say them (RFC 9110, section 13)."""

from typing import Final

from rest_framework.request import Request

from keys.errors import Invalid

UNHEEDED: Final = ("If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


def if_match_of(request: Request) -> str:
    """`If-Match` of a PATCH or a DELETE; empty: there is none.

    Whoever sends a condition wants nothing to happen unless it holds, so none is passed over: raises Invalid for an
    `If-Match` that says nothing (a variable that was empty), and for conditions that these calls don't judge.
    """
    for name in UNHEEDED:
        if name in request.headers:
            raise Invalid(f"{name} is not judged here; only If-Match is.", errors={name: ["Not judged here."]})
    if_match: str | None = request.headers.get("If-Match")
    if if_match is not None and not if_match.strip():
        raise Invalid(errors={"If-Match": ["It is empty: give * or a list of ETags, or leave it out."]})
    return if_match or ""
