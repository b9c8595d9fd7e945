"""Signing in and out, and the several keys that one session may hold (`keys.ring`).

/sign-in          a key's text; whoever is signed in adds another key by it
/sign-out         all keys of the session
/session/switch   another of them acts from here on
/session/leave    one of them is signed out
/session/theme    light, dark, or as the system has it: a cookie
"""

from collections.abc import Sequence

from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.views import LoginView
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from keys.errors import WarehouseError
from keys.forms import KeySignInForm
from keys.printable import printable
from keys.rights import ANYBODY
from keys.ring import held_keys, leave, switch_to
from keys.web.forms import number_of
from keys.web.pages import WebView, local_path
from warehouse_site.navigation import THEME_COOKIE, THEMES

SEE_OTHER = 303
_THEME_SECONDS = 365 * 24 * 3600


class SignIn(LoginView):
    """Of the web UI and the browsable API. After it one is where one wanted to go, if that is here."""

    authentication_form = KeySignInForm  # type: ignore[assignment]
    template_name = "sign_in.html"

    def form_valid(self, form: Form) -> HttpResponse:
        assert isinstance(form, KeySignInForm)
        assert form.user is not None
        login(self.request, form.user)
        if len(held_keys(self.request)) > 1:
            messages.success(self.request, f"You act with the key “{printable(form.user.name)}” now.")
        return HttpResponseRedirect(self.get_success_url(), status=SEE_OTHER)


class SessionView(WebView):
    """What changes the session alone; a refusal is told where one comes to."""

    http_method_names: Sequence[str] = ("post", "options")

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        try:
            response = super().dispatch(request, *args, **kwargs)
        except WarehouseError as error:
            messages.error(request, error.detail)
            response = _to("dashboard")
        response.headers["Cache-Control"] = "no-store"
        return response


class SignOut(SessionView):
    def post(self, request: HttpRequest) -> HttpResponse:
        logout(request)
        messages.success(request, "You are signed out.")
        return _to("sign-in")


class Switch(SessionView):
    def post(self, request: HttpRequest) -> HttpResponse:
        key = switch_to(request, key_id=_chosen(request))
        messages.success(request, f"You act with the key “{printable(key.name)}” now.")
        return _to("dashboard")


class Leave(SessionView):
    def post(self, request: HttpRequest) -> HttpResponse:
        left = _chosen(request)
        names = {key.pk: printable(key.name) for key in held_keys(request)}
        acting = leave(request, key_id=left)
        if acting is None:
            messages.success(request, "You are signed out.")
            return _to("sign-in")
        messages.success(
            request, f"The key “{names[left]}” is signed out. You act with the key “{printable(acting.name)}”."
        )
        return _to("dashboard")


class Theme(SessionView):
    """The script of the page does the same without a way to the server."""

    def post(self, request: HttpRequest) -> HttpResponse:
        back = local_path(request, request.POST.get("back", "")) or reverse("dashboard")
        response = HttpResponseRedirect(back, status=SEE_OTHER)
        theme = request.POST.get("theme", "")
        if theme in THEMES:
            response.set_cookie(THEME_COOKIE, theme, max_age=_THEME_SECONDS, samesite="Lax", secure=request.is_secure())
        else:
            response.delete_cookie(THEME_COOKIE, samesite="Lax")
        return response


def _to(name: str) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse(name), status=SEE_OTHER)


def _chosen(request: HttpRequest) -> int:
    return number_of(request.POST.get("key", "")) or ANYBODY
