"""Making, changing and ending the links that others get. What they then see is `buckets.web.shares`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse

from buckets.models import Share
from buckets.names import bucket_name_error
from buckets.selectors.buckets import list_buckets
from buckets.selectors.objects import TO_SHARE, get_object
from buckets.selectors.shares import STATES_BY_TERMS, newest_shares, require_share, require_sharer
from buckets.services.shares import create_share, revoke_share, update_share
from buckets.web.selection import checked
from buckets.web.share_forms import ShareForm, ShareTermsForm
from keys.errors import Invalid
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.web.forms import UiForm
from keys.web.pages import FormPage, Page, local_path

PAGE_SIZE = 50
OFFERED_BUCKETS = 200
MADE_ALREADY = (
    "This form has made its link already. It was shown then and is nowhere now; revoke it, or make another one."
)
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A share, and what the key that looks at it may do with it."""

    share: Share
    may_change: bool
    may_revoke: bool


def shown(shares: Iterable[Share], *, rights: KeyRights) -> list[Shown]:
    return [
        Shown(
            share,
            may_change=share.revoked_at is None and rights.allows(TO_SHARE, bucket=share.bucket.name, key=share.key),
            may_revoke=share.revoked_at is None,
        )
        for share in shares
    ]


class Shares(Page):
    """The shares that the key has made, newest first; with ADMIN those of all keys."""

    template_name = "shares/list.html"
    section = "shares"
    parts = ("share-list",)

    def show(self) -> dict[str, object]:
        require_sharer(self.rights)
        query = self.request.GET
        state = query.get("state", "")
        wanted = {
            "bucket": query.get("bucket", "").replace("\0", ""),
            "key": query.get("key", "").replace("\0", ""),
            "state": state if state in STATES_BY_TERMS else "",
        }
        before = query.get("before", "")
        if before and not _NUMBER.fullmatch(before):
            raise Invalid("This is not the address of a page of this list.")
        sees_all = self.rights.allows(Permission.ADMIN)
        page = newest_shares(
            api_key=None if sees_all else self.rights.id,
            before=int(before) if before else None,
            limit=PAGE_SIZE,
            **wanted,
        )
        return {
            **wanted,
            "rows": shown(page.shares, rights=self.rights),
            "next_before": page.next_before,
            "before": before,
            "sees_all": sees_all,
            "states": [("", "All"), *((str(state), str(state.label).capitalize()) for state in STATES_BY_TERMS)],
            "is_filtered": any(wanted.values()),
            "back": self.request.get_full_path(),
        }


class ObjectShares(Page):
    """The key's shares of one object (with ADMIN all of it); a part of the object's page, and a page of its own."""

    template_name = "shares/object_shares.html"
    section = "buckets"
    parts = ("object-share-list",)

    def show(self, bucket: str) -> dict[str, object]:
        require_sharer(self.rights)
        key = _key_of(self.request.GET.get("key", ""))
        sees_all = self.rights.allows(Permission.ADMIN)
        page = newest_shares(api_key=None if sees_all else self.rights.id, bucket=bucket, key=key, limit=PAGE_SIZE)
        return {
            "bucket": bucket,
            "key": key,
            "rows": shown(page.shares, rights=self.rights),
            "is_cut": page.next_before is not None,
            "sees_all": sees_all,
            "may_share": self.rights.allows(TO_SHARE, bucket=bucket, key=key),
            # The object's page, where this is a part of it.
            "back": self.request.htmx.current_url_abs_path or self.request.get_full_path(),  # type: ignore[attr-defined]
        }


class NewShare(FormPage):
    """The terms of a new link; and once it is made, the link, which is shown in that answer alone."""

    template_name = "shares/new.html"
    section = "shares"
    form_class = ShareForm

    def show(self) -> dict[str, object]:
        bucket, key = self._named()
        if not (bucket and key):
            require_sharer(self.rights)
            return {"bucket": bucket, "buckets": list_buckets(names=self._offered(), limit=OFFERED_BUCKETS)}
        self.rights.require(TO_SHARE, bucket=bucket, key=key)
        return {"bucket": bucket, "key": key, "object": get_object(bucket=bucket, key=key)}

    def save(self, form: UiForm) -> HttpResponse:
        assert isinstance(form, ShareForm)
        bucket, key = self._named()
        self.rights.require(TO_SHARE, bucket=bucket, key=key)
        with form.making_once(said=MADE_ALREADY):
            new = create_share(maker=self.rights, maker_name=self.key.name, bucket=bucket, key=key, **form.terms)
        url = settings.WAREHOUSE_PUBLIC_URL + reverse("share", args=[new.token])
        context = {"section": self.section, "share": new.share, "url": url}
        return render(self.request, "shares/made.html", context)

    def back(self) -> str:
        return self.request.get_full_path()

    def _named(self) -> tuple[str, str]:
        query = self.request.GET
        return _bucket_of(query.get("bucket", "")), _key_of(query.get("key", ""))

    def _offered(self) -> frozenset[str] | None:
        """The buckets that it may share of and that it may be told of; its own grants tell of theirs. None: all."""
        sharing, seen = self.rights.buckets(Permission.SHARE), self.rights.buckets(Permission.BUCKETS_READ)
        if sharing is not None or seen is None:
            return sharing
        return seen | {grant.bucket for grant in self.rights.grants}


class ShareDetails(FormPage):
    """One share: what it allows, how it was used, and its terms, to be changed."""

    template_name = "shares/details.html"
    section = "shares"
    form_class = ShareTermsForm

    def make_form(self, data: Any = None, **kwargs: Any) -> ShareTermsForm:
        return ShareTermsForm(self._share(**kwargs), data)

    def show(self, share_id: int) -> dict[str, object]:
        [row] = shown([self._share(share_id)], rights=self.rights)
        return {"row": row, "share": row.share, "sees_all": self.rights.allows(Permission.ADMIN)}

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponse:
        assert isinstance(form, ShareTermsForm)
        share = form.share
        self.rights.require(TO_SHARE, bucket=share.bucket.name, key=share.key)
        if not form.changes:
            return self.done("share-edit", share.pk, say="Nothing was changed.")
        update_share(share_id=share.pk, **form.changes)
        return self.done("share-edit", share.pk, say="The link's terms are changed.")

    def back(self) -> str:
        return reverse("share-edit", kwargs=self.kwargs)

    def _share(self, share_id: int) -> Share:
        return require_share(share_id, actor=self.rights)


class RevokeShare(Page):
    """Asks whether a link is to end for good, and ends it."""

    template_name = "shares/revoke.html"
    section = "shares"

    def show(self, share_id: int) -> dict[str, object]:
        back = local_path(self.request, self.request.GET.get("back", "")) or reverse("shares")
        return {"share": require_share(share_id, actor=self.rights), "back": back}

    def act(self, share_id: int) -> HttpResponse:
        share = require_share(share_id, actor=self.rights)
        revoke_share(share_id=share.pk)
        return self.done_at(self.back(), say="The link has ended.")


def _key_of(text: str) -> str:
    """No database is asked for what no key holds, a NUL for one. Raises KeyInvalid."""
    return checked("key", text)


def _bucket_of(text: str) -> str:
    if text and (problem := bucket_name_error(text)) is not None:
        raise Invalid(problem)
    return text
