"""What is in an object, shown without ever running any of it.

    ?key=                a page for a sandboxed frame: text, code, tables, trees, archives' entries, bytes
    ?key=&as=raw         its text or its bytes as they are
    ?key=&bytes=         a larger window of it
    ?key=&as=file        pictures, sound and films themselves, for the elements of the object's page; PDF, for a frame

The frame has no origin: its policy sandboxes it wherever it is opened, and so does the attribute of the element that
it stands in. It loads the store's style sheets and no more, and no script runs in it.
"""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from buckets.api.serving import redirect_to, whole_or_range
from buckets.previews.plans import MEDIA, Kind, Plan, plan
from buckets.previews.show import show
from buckets.selectors.objects import Found
from buckets.services.content import read_object
from buckets.services.downloads import sign_online, url_expiry
from buckets.web.objects import find_readable
from keys.errors import Unauthenticated, WarehouseError
from keys.web.pages import Page
from warehouse_site.problems import note_refusal

SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
"""Links may open tabs of their own, and do so as any other link of any other page."""
_NOTHING = "default-src 'none'"
_OURS_ALONE = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_FRAME_HEADERS = {
    "Content-Security-Policy": f"{_NOTHING}; img-src 'self'; style-src 'self'; {_OURS_ALONE}; sandbox {SANDBOX}",
    "X-Frame-Options": "SAMEORIGIN",
    # Browsers open no sandboxed page in a tab of its own that asks to be kept apart from others.
    "Cross-Origin-Opener-Policy": "unsafe-none",
    "Referrer-Policy": "no-referrer",
}
_PDF_HEADERS = {
    # A browser's viewer runs apart from every page. It would not start in a sandbox.
    "Content-Security-Policy": f"{_NOTHING}; object-src 'self'; style-src 'unsafe-inline'; {_OURS_ALONE}",
    "X-Frame-Options": "SAMEORIGIN",
}
_PDF_MARK, _PDF_MARK_WITHIN = b"%PDF-", 1024


class Preview(Page):
    """The frame's page, or the bytes that the object's page shows by itself."""

    template_name = "preview/frame.html"
    section = "buckets"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        found = find_readable(self.rights, bucket=kwargs["bucket"], key=request.GET.get("key", ""))
        way = request.GET.get("as", "")
        chosen = plan(
            key=found.key,
            content_type=found.content_type,
            size=found.size,
            way=way,
            window=request.GET.get("bytes", ""),
        )
        if way == "file" and chosen.kind in MEDIA:
            return self._media(found, chosen)
        if chosen.element == Kind.PDF and ("Range" in request.headers or self._is_pdf(found)):
            return self._pdf(found, chosen)
        shown = show(chosen, lambda first, last: self._read(found, first, last))
        return self._frame({"object": found, "shown": shown})

    def refuse(self, error: WarehouseError) -> HttpResponseBase:
        """In the frame, where it is seen; the page around would be refused there."""
        if isinstance(error, Unauthenticated) or self.request.GET.get("as") == "file":
            return super().refuse(error)
        return self._frame({"error": error}, status=note_refusal(error, self.request))

    def _read(self, found: Found, first: int, last: int) -> bytes:
        """A window at the most, so it takes none of the few places for those who stream whole objects."""
        return b"".join(read_object(found, reader=self.rights, first=first, last=last))

    def _frame(self, context: dict[str, object], *, status: int = 200) -> HttpResponseBase:
        return _with(_FRAME_HEADERS, self.page(context, status=status))

    def _media(self, found: Found, chosen: Plan) -> HttpResponseBase:
        """Of one chunk from its volume server, whatever type it was uploaded as."""
        typed = found._replace(content_type=chosen.media_type)
        if len(found.chunks) == 1:
            [[url, *_]] = sign_online([typed], reader=self.rights, expires_at=url_expiry(), inline=True)
            return redirect_to(url, typed)
        return whole_or_range(self.request, typed, self.rights, inline=True)

    def _is_pdf(self, found: Found) -> bool:
        return _PDF_MARK in self._read(found, 0, min(_PDF_MARK_WITHIN, found.size) - 1)

    def _pdf(self, found: Found, chosen: Plan) -> HttpResponseBase:
        """Through the master: what a volume server gives is in a sandbox."""
        typed = found._replace(content_type=chosen.media_type)
        return _with(_PDF_HEADERS, whole_or_range(self.request, typed, self.rights, inline=True))


def _with(headers: dict[str, str], response: HttpResponseBase) -> HttpResponseBase:
    for name, value in headers.items():
        response.headers[name] = value
    return response
