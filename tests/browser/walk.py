"""Every page of the web UI, with what its address needs: for the test of all pages, and for their pictures.

A page that is in no walk fails `tests/unit/warehouse_site/test_walk.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from django.urls import reverse
from playwright.sync_api import Page, Response, expect

from tests.support.showcase import HOSTILE_KEY, Showcase

Values = Callable[[Showcase], Mapping[str, object]]


_SEND: Final = """
([url, fields]) => {
  const form = document.createElement("form");
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  for (const [name, value] of Object.entries({ csrfmiddlewaretoken: token, ...fields })) {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name, value });
    form.append(field);
  }
  Object.assign(form, { method: "post", action: url });
  document.body.append(form);
  form.submit();
}
"""


def _nothing(_: Showcase) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True, slots=True)
class Stop:
    """One page. ``kwargs`` and ``query``: of its address; ``what`` tells two stops of one page apart.

    ``form``: the fields of a page that a POST is answered with.
    """

    name: str
    kwargs: Values = _nothing
    query: Values = _nothing
    what: str = ""
    anonymous: bool = False
    form: Values | None = None

    @property
    def slug(self) -> str:
        return f"{self.name}-{self.what}" if self.what else self.name

    def url(self, shown: Showcase) -> str:
        query = urlencode(self.query(shown))
        return reverse(self.name, kwargs=self.kwargs(shown)) + (f"?{query}" if query else "")

    def open(self, page: Page, shown: Showcase) -> Response:
        """Goes there, and waits until all of the page is loaded, the parts that come later included."""
        if self.form is None:
            answer = page.goto(self.url(shown))
        else:
            page.goto(reverse("sign-in"))
            with page.expect_navigation() as going:
                page.evaluate(_SEND, [self.url(shown), self.form(shown)])
            answer = going.value
        assert answer is not None
        expect(page.locator(".htmx-request")).to_have_count(0)
        return answer


def _bucket(shown: Showcase) -> Mapping[str, object]:
    return {"bucket": shown.bucket}


def _documents(_: Showcase) -> Mapping[str, object]:
    return {"bucket": "documents"}


def _key(shown: Showcase) -> Mapping[str, object]:
    return {"key": shown.key}


def _volume(shown: Showcase) -> Mapping[str, object]:
    return {"volume_id": shown.volume_id}


def _server(shown: Showcase) -> Mapping[str, object]:
    return {"server_id": shown.server_id}


def _share(shown: Showcase) -> Mapping[str, object]:
    return {"share_id": shown.share_id}


def _api_key(shown: Showcase) -> Mapping[str, object]:
    return {"key_id": shown.key_id}


WALK: Final = (
    Stop("sign-in", anonymous=True),
    Stop("sign-in", what="another"),
    Stop("dashboard"),
    Stop("buckets"),
    Stop("bucket-new"),
    Stop("objects", _bucket),
    Stop("objects", _bucket, lambda s: {"prefix": s.folder, "order": "name"}, "folder"),
    Stop("objects", _bucket, lambda _: {"q": "ridge"}, "search"),
    Stop("objects", lambda _: {"bucket": "archive-2027"}, what="empty"),
    Stop("object", _bucket, _key),
    Stop("object", _bucket, lambda _: {"key": HOSTILE_KEY}, "hostile"),
    Stop("object", _documents, lambda _: {"key": "README.md"}, "markdown"),
    Stop("object-details", lambda _: {"bucket": "backups"}, lambda _: {"key": "database/2026-11-22.dump"}),
    Stop("preview", _documents, lambda _: {"key": "README.md"}),
    Stop("preview", _documents, lambda _: {"key": "accounts/2026-10.csv"}, "table"),
    Stop("preview", _documents, lambda _: {"key": "settings.json"}, "tree"),
    Stop("bucket-settings", _documents),
    Stop("bucket-delete", _documents),
    Stop("objects-delete", _bucket, form=lambda s: {"key": s.key, "prefix": "2025/"}),
    Stop("objects-move", _bucket, form=lambda s: {"key": s.key, "prefix": "2025/"}),
    Stop("servers"),
    Stop("server", _server),
    Stop("server-forget", lambda s: {"server_id": s.offline_server_id}),
    Stop("volumes"),
    Stop("volume", _volume),
    Stop("volume-compact", _volume),
    Stop("volume-seal", _volume),
    Stop("shares"),
    Stop("share-new", query=lambda s: {"bucket": s.bucket, "key": s.key}),
    Stop("share-new", what="which"),
    Stop(
        "share-new",
        query=lambda s: {"bucket": s.bucket, "key": s.key},
        what="made",
        form=lambda _: {"ends": "week", "downloads": "any"},
    ),
    Stop("share-edit", _share),
    Stop("share-revoke", _share),
    Stop("object-shares", _bucket, _key),
    Stop("share", lambda s: {"token": s.share_path.removeprefix("/s/")}, anonymous=True),
    Stop("keys"),
    Stop("key-new"),
    Stop("key", _api_key),
    Stop("key-delete", _api_key),
    Stop("activity"),
)

NO_PAGES: Final = frozenset({"archive", "download", "share-content", "share-download"})
"""What answers a GET with bytes, or with a part of another page."""
