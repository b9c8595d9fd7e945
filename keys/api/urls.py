from django.urls import path

from keys.api import audit, views

urlpatterns = [
    path("tokens", views.Tokens.as_view(), name="tokens"),
    path("tokens/refresh", views.TokensRefresh.as_view(), name="tokens-refresh"),
    path("tokens/revoke", views.TokensRevoke.as_view(), name="tokens-revoke"),
    path("keys", views.Keys.as_view(), name="keys"),
    path("keys/<int:key_id>", views.KeyDetail.as_view(), name="key"),
    path("audit", audit.Audit.as_view(), name="audit"),
]
