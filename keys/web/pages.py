"""What every page of the web UI is: somebody signed in, the rights of their key, and parts that htmx asks for.

    GET              the whole page, or under htmx the part whose id is the request's target
    POST             does something, then 303 to a page that shows it
    a WarehouseError is a page of its status, a notice on the page that is open, or an error beside a form's field

A part is a ``{% partialdef id inline %}`` of the page's own template, around the element with that id. Under htmx a
browser follows the 303 of a POST by itself with the headers of the first request, so the GET behind it answers with
that part, and with what there is to say out of band: no view that does something knows of htmx.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import render, resolve_url
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views import View
from django_htmx.http import HttpResponseClientRedirect, HttpResponseStopPolling

from keys.errors import Invalid, OtherKeyActs, Unauthenticated, WarehouseError
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.ring import KEY_FIELD, KEY_HEADER, require_same_key
from keys.selectors import rights_of
from keys.web.forms import UiForm
from warehouse_site.problems import error_page, note_refusal

CONFLICT = 409
UNPROCESSABLE = 422
_GZIP: Final = GZipMiddleware(lambda _request: HttpResponse())
"""Pages are a fifth as long. What else is answered is small, or is bytes that go as they are. Its random padding keeps
the length of a page from telling what is secret in it."""
_POLL_HEADER = "Warehouse-Live"
"""Sent by the page's script with what it asks for by itself: nobody waits for the answer."""


def rights_of_request(request: HttpRequest) -> KeyRights | None:
    """The rights of the key that is signed in, read once a request. None: nobody is, or the key has ended."""
    if not hasattr(request, "_key_rights"):
        user = request.user
        found = rights_of(user.pk) if isinstance(user, ApiKey) else None
        request._key_rights = found if found is not None and found.is_active else None  # type: ignore[attr-defined]
    return cast("KeyRights | None", request._key_rights)  # type: ignore[attr-defined]


def local_path(request: HttpRequest, text: str) -> str | None:
    """The text if it is an address of this store, which one may be sent to; else None."""
    is_ours = url_has_allowed_host_and_scheme(
        text, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return text if is_ours else None


class WebView(View):
    """What people open in a browser: also a method that is not for its address is told by a page."""

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        refused = super().http_method_not_allowed(request, *args, **kwargs)
        is_opened = request.method in ("GET", "HEAD")
        page = error_page(
            request,
            refused.status_code,
            title="There is no page here" if is_opened else "This cannot be done here",
            detail="Buttons of other pages send here what they do." if is_opened else f"No {request.method} is taken.",
        )
        page.headers["Allow"] = refused.headers["Allow"]
        return page


class Page(WebView):
    """One page; see the module."""

    http_method_names: Sequence[str] = ("get", "head", "options")
    template_name: ClassVar[str]
    section: ClassVar[str] = ""
    """Which entry of the menu is where one is."""
    needs: ClassVar[Permission | None] = None
    """What the key has to be allowed everywhere."""
    parts: ClassVar[tuple[str, ...]] = ()
    policy: str = ""
    """A Content-Security-Policy of the page's own, where the house's would not let it do its work."""

    key: ApiKey
    rights: KeyRights

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.http_method_names is Page.http_method_names and cls.act is not Page.act:
            cls.http_method_names = ("get", "head", "post", "options")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        rights = rights_of_request(request)
        try:
            if rights is None or not isinstance(request.user, ApiKey):
                raise Unauthenticated
            self.key, self.rights = request.user, rights
            self.require_same_key()
            if self.needs is not None:
                rights.require(self.needs)
            response = super().dispatch(request, *args, **kwargs)
        except WarehouseError as error:
            response = self.refuse(error)
        if self.policy:
            response.headers.setdefault("Content-Security-Policy", self.policy)
        response.headers.setdefault("Cache-Control", "no-store")  # of a shared machine's next user, too
        patch_vary_headers(response, ("HX-Request", "HX-Target"))
        return response

    def require_same_key(self, **kwargs: Any) -> None:
        """Raises OtherKeyActs where the page that asks was made for another of the session's keys."""
        said = self.request.headers.get(KEY_HEADER) or self.request.POST.get(KEY_FIELD)
        require_same_key(self.request, said=said, **kwargs)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return self.page(self.show(**kwargs))

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return self.act(**kwargs)

    def show(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        """What the template is given."""
        return {}

    def act(self, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """What a POST does; ends with `done`."""
        return self.http_method_not_allowed(self.request)

    def page(self, context: dict[str, object], *, status: int = 200) -> HttpResponse:
        """The page, or the part of it that htmx asks for, and then what there is to say beside it."""
        part = self.wanted_part
        context = {"section": self.section, **context}
        if part is None:
            answer = render(self.request, self.template_name, context, status=status)
        else:
            text = render_to_string(f"{self.template_name}#{part}", context, self.request)
            answer = HttpResponse(text + self._notices(), status=status)
        _GZIP.process_response(self.request, answer)
        return answer

    @property
    def wanted_part(self) -> str | None:
        htmx = self.request.htmx  # type: ignore[attr-defined]
        return htmx.target if htmx and htmx.target in self.parts else None

    def done(self, to: str, *args: Any, say: str = "", **kwargs: Any) -> HttpResponseRedirect:
        """303 to the page of that name, where `say` is told."""
        return self.done_at(reverse(to, args=args, kwargs=kwargs), say=say)

    def done_at(self, url: str, *, say: str = "") -> HttpResponseRedirect:
        if say:
            messages.success(self.request, say)
        return HttpResponseRedirect(url, status=303)

    def back(self) -> str:
        """Where one is after something was refused: where the form says that it stands, or the section's list."""
        stands_at = local_path(self.request, self.request.POST.get("back", ""))
        return stands_at or resolve_url(self.section or "dashboard")

    @property
    def can_be_shown(self) -> bool:
        """Whether a GET of this address is a page that one wants to come back to."""
        return self.request.method in ("GET", "HEAD")

    def refuse(self, error: WarehouseError) -> HttpResponseBase:
        request = self.request
        htmx = request.htmx  # type: ignore[attr-defined]
        if isinstance(error, Unauthenticated):
            here = request.get_full_path() if self.can_be_shown else self.back()
            if htmx and (shown := htmx.current_url_abs_path):
                here = shown
            if request.method == "POST":
                messages.error(request, "You were signed out meanwhile, so nothing was done. Sign in and do it again.")
            url = f"{reverse('sign-in')}?{urlencode({'next': here})}"
            return HttpResponseClientRedirect(url) if htmx else HttpResponseRedirect(url, status=303)
        status = note_refusal(error, request)
        if request.method == "POST" and not htmx:
            messages.error(request, error.detail)
            return HttpResponseRedirect(self.back(), status=303)
        if not htmx:
            return error_page(
                request, status, title=error.title, detail=error.detail, section=self.section, extra=error.extra
            )
        if _POLL_HEADER in request.headers:  # it would be told again every few seconds
            messages.error(request, f"{error.detail} Load the page again to see what is left.")
            answer: HttpResponse = HttpResponseStopPolling()
        else:
            messages.error(request, error.detail)
            answer = HttpResponse(status=status)
        answer.content = self._notices().encode()
        answer.headers["HX-Reswap"] = "none"
        return answer

    def _notices(self) -> str:
        return render_to_string("ui/toasts_beside.html", {}, self.request)


class FormPage(Page, ABC):
    """A page with a form. What is wrong stands beside the fields, and nothing that was typed is lost."""

    http_method_names = ("get", "head", "post", "options")
    form_class: ClassVar[type[UiForm]]
    other_key: OtherKeyActs | None = None
    """Why a form is not carried out, only shown again."""

    @property
    def can_be_shown(self) -> bool:
        return True

    def require_same_key(self, **kwargs: Any) -> None:
        if self.request.method != "POST" or self.request.htmx:  # type: ignore[attr-defined]
            super().require_same_key(**kwargs)
            return
        try:
            super().require_same_key(advice="send the form again if this key is to do it")
        except OtherKeyActs as error:
            note_refusal(error, self.request)
            self.other_key = error

    def initial(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def make_form(self, data: Any = None, *args: Any, **kwargs: Any) -> UiForm:
        return self.form_class(data, initial=self.initial(**kwargs))

    @abstractmethod
    def save(self, form: UiForm, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Does what a valid form says; ends with `done`. An `Invalid` out of it is told beside the fields."""

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        form = self.make_form(**kwargs)
        return self.page({**self.show(**kwargs), "form": form})

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        form = self.make_form(request.POST, **kwargs)
        is_valid = form.is_valid()
        if self.other_key is not None:
            form.add_error(None, self.other_key.detail)
            return self.page({**self.show(**kwargs), "form": form}, status=CONFLICT)
        if is_valid:
            try:
                return self.save(form, **kwargs)
            except Invalid as error:
                form.add_refusal(error)
        return self.page({**self.show(**kwargs), "form": form}, status=UNPROCESSABLE)

    def show_again(self, *, over: Mapping[str, str], say: str, **kwargs: Any) -> HttpResponseBase:
        """The form as it was typed, beside what has come meanwhile: who sends it again means to replace that.

        ``over``: the hidden fields by which the form says over which state it is sent, as they are now. The template
        shows that state where ``is_conflict`` is set.
        """
        data = self.request.POST.copy()
        for name, value in over.items():
            data[name] = value
        form = self.make_form(data, **kwargs)
        form.add_error(None, f"{say} What it is now stands below; save again to replace it with yours.")
        return self.page({**self.show(**kwargs), "form": form, "is_conflict": True}, status=CONFLICT)
