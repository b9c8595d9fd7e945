from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from keys.forms import KeySignInForm

sign_in = LoginView.as_view(
    authentication_form=KeySignInForm, template_name="sign_in.html", redirect_authenticated_user=True
)

urlpatterns = [
    path("sign-in", sign_in, name="sign-in"),
    path("sign-out", LogoutView.as_view(), name="sign-out"),
]
