"""The objects of a bucket: folder by folder, newest first, or those that a search finds; and one of them alone.

A page costs what it shows, however many objects there are: the listing steps from folder to folder (`list_objects`),
the counts of a bucket are kept, and nothing is counted but what is about to be deleted, as far as a limit.
"""

from functools import cached_property
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.http import urlencode

from buckets.errors import KeyInvalid, ObjectChanged, ObjectUnknown
from buckets.filters import Filters
from buckets.models import Object
from buckets.names import MAX_KEY_BYTES, key_error
from buckets.selectors.buckets import get_bucket
from buckets.selectors.listing import list_newest, list_objects, search_objects
from buckets.selectors.objects import TO_SHARE, Found, chunks_of, find_objects, get_object
from buckets.selectors.pages import MAX_PAGE
from buckets.services.objects import update_object
from buckets.web.bucket_pages import BucketRow, too_few_nodes
from buckets.web.entries import SLASH, Crumb, crumbs, entries_of, folder_of, object_url, objects_url
from buckets.web.object_forms import DetailsForm
from buckets.web.selection import checked, field_of, text_of
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.web.forms import UiForm, number_of
from keys.web.pages import FormPage, Page
from volumes.web.policy import CONNECT, IMAGES, MEDIA, policy_with_servers

PAGE_ROWS = 100
CHUNKS_SHOWN = 100
BY_NAME, NEWEST = "name", "newest"


def find_readable(rights: KeyRights, *, bucket: str, key: str) -> Found:
    """An object and its chunks. Raises KeyInvalid, PermissionDenied, BucketUnknown, ObjectUnknown."""
    if (problem := key_error(key)) is not None:
        raise KeyInvalid(errors={"key": [problem]})
    rights.require(Permission.OBJECTS_READ, bucket=bucket, key=key)
    found = find_objects(bucket_id=get_bucket(bucket).pk, keys=[key]).get(key)
    if found is None:
        raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
    return found


class Objects(Page):
    """A bucket's list of objects."""

    template_name = "objects/list.html"
    section = "buckets"
    parts = ("object-list", "object-more")

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        prefix = checked("prefix", text_of(request.GET, "prefix"))
        if "folder" in request.GET:  # of the form that opens a folder, be there one or not
            folder = prefix + request.GET["folder"]
            if folder and not folder.endswith(SLASH):
                folder += SLASH
            if len(folder.encode(errors="replace")) == MAX_KEY_BYTES:
                raise KeyInvalid("The folder's name is too long: no object could lie in it.")
            return self.done_at(objects_url(kwargs["bucket"], prefix=checked("folder", folder)))
        return self.page(self.show(prefix=prefix, **kwargs))

    def show(self, **kwargs: Any) -> dict[str, object]:
        name, prefix = kwargs["bucket"], kwargs["prefix"]
        may = self.rights.allows
        may_read = may(Permission.OBJECTS_READ, bucket=name)
        if not may_read and not may(Permission.OBJECTS_WRITE, bucket=name):
            self.rights.require(Permission.OBJECTS_READ, bucket=name)
        bucket = get_bucket(name)
        may_write = may(Permission.OBJECTS_WRITE, bucket=name, key=prefix, prefix=True)
        if may_write:
            self.policy = policy_with_servers(CONNECT)
        order = NEWEST if self.request.GET.get("order") == NEWEST else BY_NAME
        search = self.request.GET.get("q", "").replace("\0", "")
        start = "" if search else prefix  # a search is for the whole bucket
        may_delete = may(Permission.OBJECTS_DELETE, bucket=name, key=start, prefix=True)
        shown: dict[str, object] = {
            "bucket": bucket,
            "row": BucketRow.of(bucket, self.rights),
            "too_few_nodes": too_few_nodes(bucket),
            "prefix": prefix,
            "crumbs": crumbs(name, prefix, order=order if order == NEWEST else ""),
            "folder_fields": [field_of("prefix", prefix)] if prefix else [],
            "folder_query": urlencode({"prefix": prefix}),
            "from_field": field_of("from", start),
            "order": order,
            "search": search,
            "may_read": may_read,
            "may_write": may_write,
            "writes_in": [] if may_write else self._writes_in(name, prefix),
            "may_delete": may_delete,
            "may_move": may_read and may_delete and may(Permission.OBJECTS_WRITE, bucket=name),
        }
        return shown | self._list(bucket.pk, name, start, order, search) if may_read else shown

    def _writes_in(self, bucket: str, prefix: str) -> list[Crumb]:
        """Where below, by its grants, the key may put objects."""
        allowed = self.rights.prefixes(Permission.OBJECTS_WRITE, bucket=bucket) or ()
        return [Crumb(one, objects_url(bucket, prefix=one)) for one in allowed if one.startswith(prefix)]

    def _list(self, bucket_id: int, name: str, prefix: str, order: str, search: str) -> dict[str, object]:
        after = checked("after", self.request.GET.get("after", ""))
        given: dict[str, Any] = {
            "bucket_id": bucket_id,
            "within": self.rights.prefixes(Permission.OBJECTS_READ, bucket=name),
            "prefix": prefix,
            "after": after,
            "limit": self._limit(),
        }
        if order == NEWEST:
            page = list_newest(**given, filters=Filters(search=search))
        elif search:
            page = search_objects(**given, filters=Filters(search=search))
        else:
            page = list_objects(**given, delimiter=SLASH)
        is_all = not after and page.next_after is None
        return {
            "entries": entries_of(page, bucket=name, prefix=prefix, order=self._kept(order), folders_first=is_all),
            "folder_count": len(page.prefixes),
            "object_count": len(page.objects),
            "after": after,
            "next_after": page.next_after,
        }

    def _limit(self) -> int:
        """As many as are shown already, where the list is asked for anew."""
        asked = number_of(self.request.GET.get("limit", "")) or 0
        return max(PAGE_ROWS, min(asked, MAX_PAGE))

    @staticmethod
    def _kept(order: str) -> str:
        return "" if order == BY_NAME else order


class ObjectPage(Page):
    """One object: what it is, where its bytes are, and what can be done with it."""

    template_name = "objects/object.html"
    section = "buckets"

    def show(self, **kwargs: Any) -> dict[str, object]:
        name = kwargs["bucket"]
        key = text_of(self.request.GET, "key")
        found = _object_of(self.rights, Permission.OBJECTS_READ, bucket=name, key=key)
        self.policy = policy_with_servers(IMAGES, MEDIA)  # pictures, sound and films come from there
        may = self.rights.allows
        sees_chunks = may(Permission.VOLUMES_READ)
        chunks = chunks_of(found.pk, limit=CHUNKS_SHOWN + 1) if sees_chunks else []
        may_delete = may(Permission.OBJECTS_DELETE, bucket=name, key=key)
        folder = folder_of(key)
        return {
            "bucket": found.bucket,
            "row": BucketRow.of(found.bucket, self.rights),
            "object": found,
            "crumbs": crumbs(name, folder),
            "folder_url": objects_url(name, prefix=folder),
            "name": key[len(folder) :],
            "key_field": field_of("key", key),
            "key_query": urlencode({"key": key}),
            "metadata": sorted(found.metadata.items()),
            "sees_chunks": sees_chunks,
            "chunks": [(chunk, f"{chunk.crc32:08x}") for chunk in chunks[:CHUNKS_SHOWN]],
            "has_more_chunks": len(chunks) > CHUNKS_SHOWN,
            "may_delete": may_delete,
            "may_edit": may(Permission.OBJECTS_WRITE, bucket=name, key=key),
            "may_move": may_delete and may(Permission.OBJECTS_WRITE, bucket=name),
            "may_share": may(TO_SHARE, bucket=name, key=key),
        }


class ObjectDetails(FormPage):
    """The type and the metadata of an object. To change them makes a new version of the same bytes."""

    template_name = "objects/details.html"
    section = "buckets"
    form_class = DetailsForm

    @cached_property
    def found(self) -> Object:
        return _object_of(
            self.rights,
            Permission.OBJECTS_READ | Permission.OBJECTS_WRITE,
            bucket=self.kwargs["bucket"],
            key=text_of(self.request.GET, "key"),
        )

    def show(self, **kwargs: Any) -> dict[str, object]:
        found = self.found
        folder = folder_of(found.key)
        return {
            "bucket": found.bucket,
            "name": found.key[len(folder) :],
            "object_url": object_url(found.bucket.name, found.key),
            "crumbs": crumbs(found.bucket.name, folder),
            "object": found,
            "metadata": sorted(found.metadata.items()),
        }

    def initial(self, **kwargs: Any) -> dict[str, Any]:
        return {name: getattr(self.found, name) for name in DetailsForm.base_fields}

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponseBase:
        bucket, key = self.found.bucket.name, self.found.key
        given = form.cleaned_data
        try:
            update_object(
                bucket=bucket,
                key=key,
                content_type=given["content_type"],
                metadata=given["metadata"],
                if_match=given["etag"],
            )
        except ObjectChanged:
            del self.found  # it may have been read before the change that overtook it
            return self.show_again(
                over={"etag": self.found.etag}, say="The object has changed since this page was loaded."
            )
        return self.done_at(object_url(bucket, key), say="The details are saved.")

    def back(self) -> str:
        return objects_url(self.kwargs["bucket"], prefix=folder_of(text_of(self.request.GET, "key")))


def _object_of(rights: KeyRights, needed: Permission, *, bucket: str, key: str) -> Object:
    """An object. Raises PermissionDenied, KeyInvalid, BucketUnknown, ObjectUnknown."""
    rights.require(needed, bucket=bucket, key=key)
    if (problem := key_error(key)) is not None:
        raise KeyInvalid(errors={"key": [problem]})
    return get_object(bucket=bucket, key=key)
