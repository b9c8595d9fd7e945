"""Deleting and moving what was chosen in a list of objects, or one object by its page.

    the list's form ── POST ──> what is about to happen, and the same choice in a form ── POST ──> done, 303

A choice can be a thousand keys of a kilobyte, which no address holds: so a page answers the first POST.
"""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from buckets.errors import ObjectExists, TooManyRows
from buckets.selectors.buckets import get_bucket
from buckets.selectors.objects import TO_LEAVE, count_below
from buckets.services.folders import last_name, move_into
from buckets.services.groups import Rename, commit_group
from buckets.services.objects import delete_objects, empty_bucket
from buckets.services.prefixes import rename_prefix
from buckets.web.entries import folder_of, objects_url
from buckets.web.object_forms import MoveForm
from buckets.web.selection import Selection
from keys.errors import Invalid
from keys.permissions import Permission
from keys.web.forms import number_of
from keys.web.pages import UNPROCESSABLE, Page, local_path

NAMES_SHOWN = 20
COUNTED = 10_000
"""Objects that are counted before their folders are deleted; beyond, it is said to be more."""
FOLDERS_COUNTED = 100
"""Folders that are looked into for that, one query each."""
DELETED_AT_ONCE = 5_000
"""Objects of folders that one request deletes: some seconds. The page goes on with the rest."""


class ChangePage(Page):
    """A page that a choice is sent to. Opened without one, as after a reload, it leads back to the list."""

    section = "buckets"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return self.done_at(objects_url(kwargs["bucket"]))

    def back(self) -> str:
        """The page that the choice was made on."""
        return local_path(self.request, self.request.POST.get("back", "")) or objects_url(self.kwargs["bucket"])

    def then(self) -> str:
        """Where one is when it is done, if that page is gone with what was on it; else empty."""
        return local_path(self.request, self.request.POST.get("then", "")) or ""


class DeleteObjects(ChangePage):
    """Asks first, then deletes: objects in one commit, folders by and by."""

    template_name = "objects/delete.html"
    parts = ("deletion",)

    def act(self, **kwargs: Any) -> HttpResponseBase:
        bucket = kwargs["bucket"]
        chosen = Selection.of(self.request.POST)
        chosen.require(self.rights, Permission.OBJECTS_DELETE, bucket=bucket)
        if "confirmed" not in self.request.POST:
            return self.page(self._question(bucket, chosen))
        deleted = number_of(self.request.POST.get("deleted", "")) or 0
        if chosen.keys:
            deleted += len(delete_objects(bucket=bucket, keys=chosen.keys).deleted)
        left, folders = DELETED_AT_ONCE, list(chosen.folders)
        while folders and left > 0:
            done = empty_bucket(bucket=bucket, prefix=folders[0], limit=left)
            deleted, left = deleted + done.deleted, left - done.deleted
            if done.is_empty:
                del folders[0]
        if not folders and "deleted" not in self.request.POST:
            return self.done_at(self.then() or self.back(), say=_told(deleted))
        rest = Selection(keys=[], folders=folders)
        return self.page(
            {
                "stage": "going" if folders else "done",
                "bucket": bucket,
                "fields": rest.fields,
                "deleted": deleted,
                "back": self.back(),
                "then": self.then(),
            }
        )

    def _question(self, bucket: str, chosen: Selection) -> dict[str, object]:
        bucket_id = get_bucket(bucket).pk
        may_count = all(
            self.rights.allows(Permission.OBJECTS_READ, bucket=bucket, key=one, prefix=True) for one in chosen.folders
        )
        looked_into = chosen.folders[:FOLDERS_COUNTED] if may_count else []
        below = count_below(bucket_id=bucket_id, prefixes=looked_into, limit=COUNTED)
        names = list(chosen)
        return {
            "stage": "question",
            "bucket": bucket,
            "names": names[:NAMES_SHOWN],
            "names_left": len(names) - NAMES_SHOWN,
            "key_count": len(chosen.keys),
            "folder_count": len(chosen.folders),
            "may_count": may_count,
            "below_count": below.objects,
            "is_all_counted": below.is_all and len(looked_into) == len(chosen.folders),
            "fields": chosen.fields,
            "back": self.back(),
            "then": self.then(),
        }


class MoveObjects(ChangePage):
    """Asks where to, and moves: what was chosen, all of it or none."""

    template_name = "objects/move.html"

    def act(self, **kwargs: Any) -> HttpResponseBase:
        bucket = kwargs["bucket"]
        chosen = Selection.of(self.request.POST)
        chosen.require(self.rights, TO_LEAVE, bucket=bucket)
        self.rights.require(Permission.OBJECTS_WRITE, bucket=bucket)
        [first, *others] = chosen
        initial = {"folder": folder_of(first), "name": last_name(first).removesuffix("/")}
        data = self.request.POST if "confirmed" in self.request.POST else None
        form = MoveForm(data, initial=initial, with_name=not others)
        if form.is_valid():
            try:
                return self._move(bucket, chosen, form)
            except Invalid as error:
                form.add_refusal(error)
            except ObjectExists as error:
                form.add_error("overwrite", error.detail)
            except TooManyRows as error:
                form.add_error(None, error.detail)
        context = {
            "bucket": bucket,
            "chosen": chosen,
            "first": first,
            "is_one": not others,
            "names": list(chosen)[:NAMES_SHOWN],
            "names_left": len(chosen) - NAMES_SHOWN,
            "fields": chosen.fields,
            "form": form,
            "back": self.back(),
            "then": self.then(),
        }
        return self.page(context, status=UNPROCESSABLE if form.errors else 200)

    def _move(self, bucket: str, chosen: Selection, form: MoveForm) -> HttpResponseBase:
        folder, overwrite = form.cleaned_data["folder"], form.cleaned_data["overwrite"]
        name = form.cleaned_data.get("name")
        # Of a key that is too long, the service tells.
        for key in chosen.keys:
            self.rights.require(Permission.OBJECTS_WRITE, bucket=bucket, key=folder + (name or last_name(key)))
        for one in chosen.folders:
            target = folder + (f"{name}/" if name else last_name(one))
            self.rights.require(Permission.OBJECTS_WRITE, bucket=bucket, key=target, prefix=True)
        if name is None:
            moved = move_into(
                bucket=bucket, keys=chosen.keys, folders=chosen.folders, to_folder=folder, overwrite=overwrite
            ).renamed
        elif chosen.folders:
            [before] = chosen.folders
            moved = rename_prefix(
                bucket=bucket, prefix=before, to_prefix=f"{folder}{name}/", overwrite=overwrite
            ).renamed
        else:
            [before] = chosen.keys
            commit_group(bucket=bucket, operations=[Rename(before, folder + name, overwrite=overwrite)])
            moved = 1
        say = "1 object is moved." if moved == 1 else f"{moved:,} objects are moved."
        return self.done_at(objects_url(bucket, prefix=folder), say=say)


def _told(deleted: int) -> str:
    if not deleted:
        return "Nothing of it was there any more."
    return "1 object is deleted." if deleted == 1 else f"{deleted:,} objects are deleted."
