"""Buckets: all that a key may see, a new one, the settings of one, and its end."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse

from buckets.errors import BucketTaken
from buckets.models import Bucket
from buckets.names import bucket_name_error
from buckets.selectors.buckets import get_bucket, list_buckets
from buckets.selectors.objects import TO_ANYBODY
from buckets.services.buckets import create_bucket, delete_bucket, update_bucket
from buckets.services.deletion import close_bucket
from buckets.tasks import wake_deletion
from buckets.web.bucket_forms import BucketChangeForm, BucketDeletionForm, BucketForm, NewBucketForm
from buckets.web.entries import objects_url
from keys.errors import Invalid, PermissionDenied
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.web.forms import UiForm
from keys.web.pages import FormPage, Page
from volumes.selectors import count_nodes

PAGE_ROWS = 100
TO_GO_IN = (Permission.OBJECTS_READ, Permission.OBJECTS_WRITE)
"""Either of them opens a bucket's page."""


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket, and what the key that looks may do with it."""

    bucket: Bucket
    may_see: bool
    """Its counts and settings; else only its name, which the key's own grants tell."""
    may_open: bool
    may_change: bool
    may_delete: bool

    @classmethod
    def of(cls, bucket: Bucket, rights: KeyRights) -> "BucketRow":
        name = bucket.name
        may_change = rights.allows(Permission.BUCKETS_WRITE, bucket=name, prefix=True)
        return cls(
            bucket=bucket,
            may_see=may_change or rights.allows(Permission.BUCKETS_READ, bucket=name),
            may_open=not bucket.is_deleting and any(rights.allows(one, bucket=name) for one in TO_GO_IN),
            may_change=may_change and not bucket.is_deleting,
            may_delete=not bucket.is_deleting and may_delete(rights, bucket),
        )

    @property
    def used_bytes(self) -> int:
        """With what uploads in progress will add: this is what the quota is asked about."""
        return self.bucket.total_bytes + self.bucket.reserved_bytes

    @property
    def used_objects(self) -> int:
        return self.bucket.object_count + self.bucket.reserved_objects


def may_delete(rights: KeyRights, bucket: Bucket) -> bool:
    """Whether the key may delete it as it is: with objects in it, that asks for more."""
    needed = Permission.BUCKETS_DELETE
    if bucket.object_count:
        needed |= Permission.OBJECTS_DELETE
    return rights.allows(needed, bucket=bucket.name, prefix=True)


def too_few_nodes(bucket: Bucket) -> int | None:
    """How many nodes there are where nothing can be written because the bucket wants more; else None."""
    nodes = count_nodes() if bucket.replication > 1 else 1
    return nodes if nodes < bucket.replication else None


def visible_buckets(rights: KeyRights) -> frozenset[str] | None:
    """The names of the buckets that a page may name: those that the key may see, and those of its own grants.

    None: all. Raises PermissionDenied where there is none at all.
    """
    names: frozenset[str] = frozenset()
    for permission in (Permission.BUCKETS_READ, *TO_GO_IN):
        of_permission = rights.buckets(permission)
        if of_permission is None and permission == Permission.BUCKETS_READ:
            return None
        names |= of_permission or frozenset()
    if not names and not any(rights.allows(permission) for permission in TO_GO_IN):
        rights.require(Permission.BUCKETS_READ)
    return names


def may_create_some(rights: KeyRights) -> bool:
    names = rights.buckets(Permission.BUCKETS_WRITE)
    return names is None or bool(names)


class Buckets(Page):
    """The buckets that the key may see, by name. Those that are being deleted tell how far that is."""

    template_name = "buckets/list.html"
    section = "buckets"
    parts = ("bucket-list", "bucket-more")

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if name := request.GET.get("open", "").strip():  # the form of who may not see which buckets there are
            if (problem := bucket_name_error(name)) is not None:
                return self.refuse(Invalid(problem))
            return self.done_at(objects_url(name))
        return super().get(request, **kwargs)

    def show(self, **kwargs: Any) -> dict[str, object]:
        names = visible_buckets(self.rights)
        search, after = (self.request.GET.get(name, "").strip().replace("\0", "") for name in ("q", "after"))
        search = search.lower()
        found = list(list_buckets(names=names, search=search, after=after, limit=PAGE_ROWS + 1))
        rows = [BucketRow.of(bucket, self.rights) for bucket in found[:PAGE_ROWS]]
        return {
            "rows": rows,
            "search": search,
            "after": after,
            "next_after": rows[-1].bucket.name if len(found) > PAGE_ROWS else None,
            "is_deleting": any(row.bucket.is_deleting for row in rows),
            "may_create": may_create_some(self.rights),
            "names_unseen": names is not None and any(self.rights.allows(one) for one in TO_GO_IN),
        }


class NewBucket(FormPage):
    template_name = "buckets/new.html"
    section = "buckets"
    form_class = NewBucketForm

    def show(self, **kwargs: Any) -> dict[str, object]:
        if not may_create_some(self.rights):
            self.rights.require(Permission.BUCKETS_WRITE)
        return {}

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponseBase:
        assert isinstance(form, NewBucketForm)
        name = form.cleaned_data["name"]
        settings = form.settings()
        is_public = settings.visibility == Bucket.Visibility.PUBLIC_READ
        needed = Permission.BUCKETS_WRITE | (TO_ANYBODY if is_public else Permission(0))
        self.rights.require(needed, bucket=name, prefix=True)
        try:
            create_bucket(name=name, settings=settings)
        except BucketTaken as error:
            raise Invalid(errors={"name": [error.detail]}) from None
        opens = any(self.rights.allows(one, bucket=name) for one in TO_GO_IN)
        return self.done_at(objects_url(name) if opens else reverse("buckets"), say=f"Bucket {name} is made.")


class BucketPage(FormPage):
    """A page about one bucket that has a form."""

    section = "buckets"

    def bucket(self, name: str) -> Bucket:
        """The bucket, read once. Raises PermissionDenied, BucketUnknown, BucketDeleting."""
        if not hasattr(self, "_bucket"):
            self.require(name)
            self._bucket = get_bucket(name)
        return self._bucket

    @abstractmethod
    def require(self, name: str) -> None:
        """Raises PermissionDenied."""

    def show(self, **kwargs: Any) -> dict[str, object]:
        bucket = self.bucket(kwargs["bucket"])
        return {
            "bucket": bucket,
            "row": BucketRow.of(bucket, self.rights),
            "too_few_nodes": too_few_nodes(bucket),
        }


class BucketSettingsPage(BucketPage):
    """What a bucket is, and its settings for those who may change them."""

    template_name = "buckets/settings.html"
    form_class = BucketChangeForm

    def require(self, name: str) -> None:
        if not self.rights.allows(Permission.BUCKETS_WRITE, bucket=name, prefix=True):
            self.rights.require(Permission.BUCKETS_READ, bucket=name)

    def initial(self, **kwargs: Any) -> dict[str, Any]:
        bucket = self.bucket(kwargs["bucket"])
        return {name: getattr(bucket, name) for name in BucketForm.base_fields}

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponseBase:
        assert isinstance(form, BucketChangeForm)
        before = self.bucket(kwargs["bucket"])
        self.rights.require(Permission.BUCKETS_WRITE, bucket=before.name, prefix=True)
        settings = form.changes()
        if settings.visibility == Bucket.Visibility.PUBLIC_READ:
            self.rights.require(TO_ANYBODY, bucket=before.name, prefix=True)
        if form.changed_data:
            update_bucket(name=before.name, settings=settings)
        return self.done("bucket-settings", before.name, say="The settings are saved.")

    def back(self) -> str:
        return self.request.path


class BucketDeletion(BucketPage):
    """Whoever types its name deletes the bucket; with objects in it, in the background."""

    template_name = "buckets/delete.html"
    form_class = BucketDeletionForm

    def require(self, name: str) -> None:
        self.rights.require(Permission.BUCKETS_DELETE, bucket=name, prefix=True)

    def bucket(self, name: str) -> Bucket:
        bucket = super().bucket(name)
        if not may_delete(self.rights, bucket):
            raise PermissionDenied(f"Bucket {name!r} holds objects, and this key does not have OBJECTS_DELETE on it.")
        return bucket

    def make_form(self, data: Any = None, **kwargs: Any) -> UiForm:
        bucket = self.bucket(kwargs["bucket"])
        force = bool(bucket.object_count)
        return BucketDeletionForm(data, asked=bucket.name, label="Name of the bucket", initial={"force": force})

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponseBase:
        name = self.bucket(kwargs["bucket"]).name
        if not form.cleaned_data["force"]:
            delete_bucket(name=name)  # what came in since the page was shown keeps it
            return self.done("buckets", say=f"Bucket {name} is deleted.")
        self.rights.require(Permission.OBJECTS_DELETE, bucket=name, prefix=True)
        closed = close_bucket(name=name)
        if closed is None:
            return self.done("buckets", say=f"Bucket {name} is deleted.")
        wake_deletion()
        say = f"Bucket {name} is closed. Its {closed.object_count:,} objects are being deleted."
        return self.done("buckets", say=say)

    def back(self) -> str:
        return self.request.path
