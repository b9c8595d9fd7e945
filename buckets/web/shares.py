"""What a share's link answers: a page to people, the bytes to programs.

/s/{token}                    a browser: the page, or the password's form; a program: as `download`
/s/{token}/download           counted: 307 to a signed URL (one chunk), or to the next (several chunks)
/s/{token}/content/{ticket}   the bytes through the master, whole or by ranges
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers

from buckets.api.serving import redirect_to, whole_or_range
from buckets.errors import SharePasswordRefused
from buckets.models import Share
from buckets.services.downloads import file_name
from buckets.services.share_access import (
    PASS_SECONDS,
    check_share_password,
    find_shared,
    hand_out,
    issue_pass,
    open_share,
    pass_is_good,
    redeem_ticket,
)
from buckets.web.entries import icon_of
from keys.errors import WarehouseError
from keys.web.pages import WebView
from warehouse_site import logs
from warehouse_site.problems import problem_response

_PAGE, _BYTES = "text/html", "application/octet-stream"
_COOKIE = "share"
_CHALLENGE = 'Basic realm="share", charset="UTF-8"'
_QUIET = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address is the secret
    "X-Robots-Tag": "noindex, nofollow",
}


class ShareView(WebView):
    """What the service refuses is told as a page or as a problem document, as the client likes."""

    http_method_names: Sequence[str] = ("get", "head", "options")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = super().dispatch(request, *args, **kwargs)
        except WarehouseError as error:
            response = _refusal(request, error)
        for name, value in _QUIET.items():
            response.headers.setdefault(name, value)
        patch_vary_headers(response, ("Accept",))
        return response


class SharePage(ShareView):
    """The link itself."""

    http_method_names = ("get", "head", "post", "options")

    def get(self, request: HttpRequest, token: str) -> HttpResponseBase:
        if not _wants_page(request):
            return _download(request, token)
        opened = open_share(token=token)
        if not _is_admitted(request, opened.share):
            return _password_page(request)
        found = find_shared(opened=opened)
        name = file_name(found.key) or ""
        context = {
            "token": token,
            "share": opened.share,
            "object": found,
            "name": name,
            "icon": icon_of(found.content_type, name),
        }
        return render(request, "share.html", context)

    def post(self, request: HttpRequest, token: str) -> HttpResponseBase:
        """The password, from its form."""
        share = open_share(token=token).share
        here = reverse("share", args=[token])
        response = HttpResponseRedirect(here, status=303)
        if not share.has_password:
            return response
        try:
            check_share_password(share=share, password=request.POST.get("password", ""), address=_address(request))
        except SharePasswordRefused as error:
            return _password_page(request, error=error)
        response.set_cookie(
            _COOKIE,
            issue_pass(share=share),
            max_age=PASS_SECONDS,
            path=here,
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
        return response


class ShareDownload(ShareView):
    """The bytes, counted."""

    def get(self, request: HttpRequest, token: str) -> HttpResponseBase:
        return _download(request, token)


class ShareContent(ShareView):
    """The bytes of a counted download through the master: of that version, as often as its ticket is good."""

    def get(self, request: HttpRequest, token: str, ticket: str) -> HttpResponseBase:
        opened, found = redeem_ticket(token=token, ticket=ticket)
        return whole_or_range(request, found, opened.reader, inline=opened.share.inline)


def _download(request: HttpRequest, token: str) -> HttpResponseBase:
    opened = open_share(token=token)
    if not _is_admitted(request, opened.share):
        if _wants_page(request):
            return HttpResponseRedirect(reverse("share", args=[token]))
        raise SharePasswordRefused("Send the password by HTTP Basic authentication; any user name will do.")
    found = find_shared(opened=opened)
    if request.method == "HEAD":  # a signed URL would be good for a GET too, so nothing is handed out
        return whole_or_range(request, found, opened.reader, inline=opened.share.inline)
    handout = hand_out(opened=opened, found=found)
    return redirect_to(handout.url or reverse("share-content", args=[token, handout.ticket]), found)


def _wants_page(request: HttpRequest) -> bool:
    """Browsers name HTML before all else; curl and its like take anything, and so does who writes nonsense."""
    try:
        return request.get_preferred_type([_BYTES, _PAGE]) == _PAGE
    except ValueError:  # Django's parser of media types; a parameter such as a*=b''c
        return False


def _is_admitted(request: HttpRequest, share: Share) -> bool:
    """Whether no password is needed (any more). Raises SharePasswordRefused and TooManyFailures for a wrong one."""
    if not share.has_password or pass_is_good(share=share, text=request.COOKIES.get(_COOKIE, "")):
        return True
    password = _basic_password(request)
    if password is None:
        return False
    check_share_password(share=share, password=password, address=_address(request))
    return True


def _basic_password(request: HttpRequest) -> str | None:
    """RFC 7617; None where the header says nothing that we know."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    _, colon, password = text.partition(":")
    return password if colon else None


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


def _password_page(request: HttpRequest, *, error: WarehouseError | None = None) -> HttpResponse:
    """It tells nothing of the object: whoever has the link alone may not know."""
    response = render(request, "share_password.html", {"error": error})
    # Without a referrer the form's Origin would be `null`, which is nobody's. Other origins are told nothing.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _refusal(request: HttpRequest, error: WarehouseError) -> HttpResponse:
    response = problem_response(error, request)
    if _wants_page(request):
        context = {"status": response.status_code, "title": error.title, "request_id": logs.request_id.get()}
        page = render(request, "share_refused.html", context, status=response.status_code)
        if "Retry-After" in response.headers:
            page.headers["Retry-After"] = response.headers["Retry-After"]
        response = page
    if isinstance(error, SharePasswordRefused):
        response.headers["WWW-Authenticate"] = _CHALLENGE
    return response
