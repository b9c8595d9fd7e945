"""Downloads: an object as it is, and what was chosen of a bucket as one ZIP file. Uploads are `transfers.js`.

What is downloaded goes to the disk as it comes, by means that any browser has: a link, and a form.
"""

from collections.abc import Sequence

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from buckets.api.serving import HARMLESS, NO_STORE, redirect_to, whole_or_range
from buckets.selectors.buckets import get_bucket
from buckets.services.archives import ArchiveStream, Choice
from buckets.services.downloads import file_name, sign_online, url_expiry
from buckets.web.objects import find_readable
from buckets.web.selection import Selection, checked, text_of
from keys.errors import Unavailable, WarehouseError
from keys.permissions import Permission
from keys.web.pages import Page
from warehouse_site.problems import RETRY_AFTER_S


class Bytes(Page):
    """No page of its own; what it refuses is told as any page's refusal."""

    section = "buckets"

    def refuse(self, error: WarehouseError) -> HttpResponseBase:
        response = super().refuse(error)
        if isinstance(error, Unavailable) and response.status_code == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


class Download(Bytes):
    """An object: of one chunk from its volume server; of several through the master, whole or by ranges."""

    def get(self, request: HttpRequest, bucket: str) -> HttpResponseBase:
        expires_at = url_expiry()
        found = find_readable(self.rights, bucket=bucket, key=text_of(request.GET, "key"))
        if len(found.chunks) == 1:
            [[url, *_]] = sign_online([found], reader=self.rights, expires_at=expires_at)
            return redirect_to(url, found)
        return whole_or_range(request, found, self.rights)


class Archive(Bytes):
    """A ZIP file: of a folder, or the whole bucket, by a link (`prefix`); of what was chosen by a form (`key`,
    `prefix`, and `from`, the folder that is open: names inside are relative to it)."""

    http_method_names: Sequence[str] = ("get", "post", "options")

    def get(self, request: HttpRequest, bucket: str) -> HttpResponseBase:
        folder = checked("prefix", text_of(request.GET, "prefix"))
        return self._archive(bucket, Choice(prefixes=(folder,)), base=_parent(folder))

    def act(self, bucket: str) -> HttpResponseBase:
        chosen = Selection.of(self.request.POST)
        choice = Choice(keys=tuple(chosen.keys), prefixes=tuple(chosen.folders))
        return self._archive(bucket, choice, base=text_of(self.request.POST, "from"))

    def _archive(self, bucket: str, choice: Choice, *, base: str) -> HttpResponseBase:
        self.rights.require(Permission.OBJECTS_READ, bucket=bucket)
        for key in choice.keys:
            self.rights.require(Permission.OBJECTS_READ, bucket=bucket, key=key)
        row = get_bucket(bucket)
        stream = ArchiveStream(bucket_id=row.pk, bucket=bucket, reader=self.rights, choice=choice, base=base)
        # One folder's archive is called as the folder is.
        only = choice.prefixes[0] if len(choice.prefixes) == 1 and not choice.keys else base
        name = (file_name(only.rstrip("/")) or bucket).rstrip("\n")
        headers = {
            **HARMLESS,
            **NO_STORE,
            "Content-Disposition": content_disposition_header(True, f"{name}.zip") or "attachment",  # noqa: FBT003
        }
        return StreamingHttpResponse(stream, content_type="application/zip", headers=headers)


def _parent(folder: str) -> str:
    """``a/b/`` is in ``a/``."""
    return folder.rstrip("/").rpartition("/")[0] + "/" if "/" in folder.rstrip("/") else ""
