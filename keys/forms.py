"""Signing in to the admin site and the browsable API: one field, the key."""

from typing import Any

from django import forms
from django.contrib.auth import authenticate
from django.http import HttpRequest

from keys.actions import Action
from keys.models import ApiKey
from keys.services.denials import note_denied


class KeySignInForm(forms.Form):
    """Takes the place of Django's AuthenticationForm."""

    key = forms.CharField(
        label="API key",
        max_length=200,
        widget=forms.PasswordInput(
            attrs={"autofocus": True, "autocomplete": "current-password", "spellcheck": "false"}
        ),
        help_text="It begins with whk_.",
    )

    def __init__(self, request: HttpRequest | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        self.user: ApiKey | None = None

    def clean(self) -> dict[str, Any]:
        text = self.cleaned_data.get("key")
        if text:
            user = authenticate(self.request, key=text)
            if not isinstance(user, ApiKey):
                raise forms.ValidationError("This key is not valid. It may have expired or been deleted.")
            self.require_allowed(user)
            self.user = user
        return self.cleaned_data

    def require_allowed(self, user: ApiKey) -> None:
        """Raise ValidationError where this key may not sign in here; any live key may sign in to the API."""

    def get_user(self) -> ApiKey | None:
        return self.user


class AdminSignInForm(KeySignInForm):
    """The admin site is for keys with the ADMIN bit."""

    def require_allowed(self, user: ApiKey) -> None:
        if not user.is_staff:
            note_denied(Action.KEY_SIGN_IN, target=str(user.pk), code="not_admin")
            raise forms.ValidationError("This key is good, but it does not have ADMIN.")
