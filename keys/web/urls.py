from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from keys.forms import KeySignInForm
from keys.web import keys

sign_in = LoginView.as_view(
    authentication_form=KeySignInForm, template_name="sign_in.html", redirect_authenticated_user=True
)

urlpatterns = [
    path("sign-in", sign_in, name="sign-in"),
    path("sign-out", LogoutView.as_view(), name="sign-out"),
    # keys
    path("keys", keys.Keys.as_view(), name="keys"),
    path("new-key", keys.NewKeyPage.as_view(), name="key-new"),
    path("keys/<int:key_id>", keys.KeyPage.as_view(), name="key"),
    path("keys/<int:key_id>/end-sessions", keys.EndSessions.as_view(), name="key-end-sessions"),
    path("keys/<int:key_id>/delete", keys.DeleteKey.as_view(), name="key-delete"),
]
