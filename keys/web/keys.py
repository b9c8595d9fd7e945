"""The pages of keys: who may do what.

/keys                     all keys, newest first
/new-key                  the form; the answer to it is the one page that ever shows the secret
/keys/{id}                one key: its form for keys that cover it, else what it may do
/keys/{id}/end-sessions   all that was signed for it is worthless from now on
/keys/{id}/delete         asks for its name first
"""

from abc import abstractmethod
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import render

from keys.errors import Invalid, KeyChanged, KeyTooStrong, KeyUnknown, LastAdmin
from keys.models import ApiKey
from keys.permissions import Permission
from keys.printable import shown
from keys.rights import KeyRights
from keys.selectors import edition_of, find_keys, get_key, is_last_admin, rights_of_row
from keys.services.keys import MAX_GRANTS, create_key, delete_key, end_sessions, update_key
from keys.web.forms import TypedName, UiForm, number_of
from keys.web.key_forms import GROUPS, PRESETS, KeyForm, rearranged
from keys.web.pages import FormPage, Page
from warehouse_site.problems import note_refusal

PAGE_ROWS: Final = 50
MAX_SEARCH_CHARS: Final = 200
_WRITES: Final = Permission.ADMIN | Permission.OBJECTS_WRITE


def badges(permissions: int) -> list[str]:
    """The rights of a bit field in a few words: ``objects: read, write``."""
    if permissions & Permission.ADMIN:
        return ["everything"]
    found = []
    for title, group in GROUPS:
        verbs = [bit.name.rpartition("_")[2].lower() for bit in Permission if bit & group & permissions and bit.name]
        if verbs:
            found.append(title.lower() if group == Permission.SHARE else f"{title.lower()}: {', '.join(verbs)}")
    return found


class Keys(Page):
    """Also of keys that may make others without seeing them: for these there is the button alone."""

    template_name = "keys/list.html"
    section = "keys"
    parts = ("key-list",)

    def show(self, **kwargs: Any) -> dict[str, object]:
        may_make = self.rights.allows(Permission.KEYS_MANAGE)
        may_see = self.rights.allows(Permission.KEYS_READ)
        context: dict[str, object] = {"may_make": may_make, "may_see": may_see}
        if not may_see:
            if not may_make:
                self.rights.require(Permission.KEYS_READ)
            return context
        query = self.request.GET
        text, state = query.get("q", "").strip()[:MAX_SEARCH_CHARS], query.get("state", "")
        found = find_keys(text=text, state=state, before=number_of(query.get("before", "")), limit=PAGE_ROWS + 1)
        lines = [
            {"key": line.key, "grant_count": line.grant_count, "badges": badges(line.key.permissions)}
            for line in found[:PAGE_ROWS]
        ]
        more = found[PAGE_ROWS - 1].key.pk if len(found) > PAGE_ROWS else None
        return {**context, "lines": lines, "q": text, "state": state, "more": more, "mine": self.key.pk}


class KeyFormPage(FormPage):
    """What making a key and changing one have in common: a form, some of whose buttons only rearrange it."""

    template_name = "keys/form.html"
    section = "keys"
    parts = ("key-rights",)

    def make_form(self, data: QueryDict | None = None, *, is_judged: bool = True, **kwargs: Any) -> KeyForm:
        return KeyForm(data, actor=self.rights, is_judged=is_judged)

    def show(self, **kwargs: Any) -> dict[str, object]:
        presets = [preset for preset in PRESETS if not preset.permissions & ~self.rights.everywhere]
        may_list_buckets = self.rights.buckets(Permission.BUCKETS_READ) != frozenset()
        return {"presets": presets, "max_grants": MAX_GRANTS, "may_list_buckets": may_list_buckets}

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        changed = rearranged(request.POST)
        if changed is None or self.other_key is not None:
            return super().post(request, **kwargs)
        form = self.make_form(changed, is_judged=False, **kwargs)
        focus = {
            "new_row": len(form.grants) if "more" in request.POST else None,
            "has_removed": "remove" in request.POST,
        }
        return self.page({**self.show(**kwargs), **focus, "form": form})

    def save(self, form: UiForm, **kwargs: Any) -> HttpResponseBase:
        assert isinstance(form, KeyForm)
        try:
            return self.carry_out(form, **kwargs)
        except (KeyTooStrong, LastAdmin) as error:
            note_refusal(error, self.request)
            raise Invalid(error.detail) from error

    @abstractmethod
    def carry_out(self, form: KeyForm, **kwargs: Any) -> HttpResponseBase:
        """Saves a valid form."""


class NewKeyPage(KeyFormPage):
    """The answer shows the secret: it goes through no address, no session and no second request."""

    needs = Permission.KEYS_MANAGE

    def carry_out(self, form: KeyForm, **kwargs: Any) -> HttpResponse:
        with form.making_once(said="This form has made its key already. The secret was shown then and is nowhere now."):
            new = create_key(actor=self.rights, **form.values())
        rights = rights_of_row(new.key)
        allowed = (rights.permissions, *(row.permissions for row in rights.grants))
        context = {
            "section": self.section,
            "key": new.key,
            "text": new.text,
            "badges": badges(new.key.permissions),
            "url": self.request.build_absolute_uri("/").rstrip("/"),
            "may_write": any(bits & _WRITES for bits in allowed),
            "may_read": any(bits & Permission.OBJECTS_READ for bits in allowed),
            "may_do": any(allowed),
            "may_see": self.rights.allows(Permission.KEYS_READ),
        }
        return render(self.request, "keys/made.html", context)


class KeyPage(KeyFormPage):
    """One key; to be changed by those that cover it."""

    needs = Permission.KEYS_READ

    def make_form(
        self, data: QueryDict | None = None, *, is_judged: bool = True, key_id: int = 0, **kwargs: Any
    ) -> KeyForm:
        return KeyForm(data, actor=self.rights, key=_found(key_id), is_judged=is_judged)

    def show(self, *, key_id: int = 0, **kwargs: Any) -> dict[str, object]:
        key = _found(key_id)
        rights = rights_of_row(key)
        may_change = may_change_key(self.rights, rights)
        return {
            **super().show(),
            "key": key,
            "badges": badges(key.permissions),
            "grants": [(row, badges(row.permissions)) for row in rights.grants],
            "is_mine": key.pk == self.key.pk,
            "may_change": may_change,
            "may_manage": self.rights.allows(Permission.KEYS_MANAGE),
            "may_audit": self.rights.allows(Permission.ADMIN),
        }

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        self.rights.require(Permission.KEYS_MANAGE)
        return super().post(request, **kwargs)

    def carry_out(self, form: KeyForm, *, key_id: int = 0, **kwargs: Any) -> HttpResponseBase:
        values = form.values()
        try:
            update_key(actor=self.rights, key_id=key_id, edition=form.cleaned_data["edition"], **values)
        except KeyChanged as error:
            return self.show_again(over={"edition": edition_of(_found(key_id))}, say=error.detail, key_id=key_id)
        return self.done("key", key_id, say=f"The key {shown(values['name'])} is saved.")

    def back(self) -> str:
        return self.request.path


class EndSessions(Page):
    """Signs a key out everywhere."""

    section = "keys"
    needs = Permission.KEYS_MANAGE
    http_method_names = ("post",)

    def act(self, *, key_id: int = 0, **kwargs: Any) -> HttpResponse:
        end_sessions(actor=self.rights, key_id=key_id)
        return self.done_at(self.back(), say="All that was signed for this key has ended.")


class DeleteKey(FormPage):
    """For good: what a deleted key signed is refused as well."""

    template_name = "keys/delete.html"
    section = "keys"
    needs = Permission.KEYS_READ | Permission.KEYS_MANAGE

    def make_form(self, data: QueryDict | None = None, *, key_id: int = 0, **kwargs: Any) -> UiForm:
        return TypedName(data, asked=_found(key_id).name, label="Type the key’s name")

    def show(self, *, key_id: int = 0, **kwargs: Any) -> dict[str, object]:
        key = _found(key_id)
        if not may_change_key(self.rights, rights_of_row(key)):
            raise KeyTooStrong("This key is stronger than the one you are signed in with.")
        return {"key": key, "is_mine": key.pk == self.key.pk, "is_last_admin": is_last_admin(key)}

    def save(self, form: UiForm, *, key_id: int = 0, **kwargs: Any) -> HttpResponse:
        delete_key(actor=self.rights, key_id=key_id)
        return self.done("keys", say=f"The key {shown(form.cleaned_data['name'])} is deleted.")

    def back(self) -> str:
        return self.request.path


def may_change_key(actor: KeyRights, key: KeyRights) -> bool:
    """Whether this key manages keys and that one is not stronger."""
    return actor.allows(Permission.KEYS_MANAGE) and actor.covers(permissions=key.permissions, grants=key.grants)


def _found(key_id: int) -> ApiKey:
    """Raises KeyUnknown."""
    key = get_key(key_id)
    if key is None:
        raise KeyUnknown(f"There is no key {key_id}.")
    return key
