"""Every address of the master. None ends with a slash but the admin site's own, and the API's root if one likes."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from keys.api.views import Jwks
from keys.web.session import SignIn
from warehouse_site import views

browsable_api = (
    [path("sign-in", SignIn.as_view(), name="login"), path("sign-out", LogoutView.as_view(), name="logout")],
    "rest_framework",  # the namespace in which the browsable API looks for its sign-in
)

api = (
    [
        path("", include("keys.api.urls")),
        path("", include("volumes.api.urls")),
        path("", include("buckets.api.urls")),
    ],
    "api",  # the names without it are those of the pages: `buckets` is one for people, `api:buckets` one for programs
)

api_root = views.ApiRoot.as_view()

urlpatterns = [
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("favicon.ico", RedirectView.as_view(url=static("warehouse/mark.svg"))),  # asked for by what is no page of ours
    path(".well-known/jwks.json", Jwks.as_view(), name="jwks"),
    path("api/schema", views.Schema.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("api/auth/", include(browsable_api)),
    path("api/v1", api_root, name="api-root"),
    path("api/v1/", api_root, name="api-root-slash"),
    path("api/v1/health", views.Health.as_view(), name="health"),
    path("api/v1/internal/", include("volumes.api.internal_urls")),
    path("api/v1/internal/", include("buckets.api.internal_urls")),
    path("api/v1/", include(api)),
    path("", include("keys.web.urls")),
    path("", include("volumes.web.urls")),
    path("", include("buckets.web.urls")),
]

handler400 = "warehouse_site.problems.bad_request"
handler403 = "warehouse_site.problems.forbidden"
handler404 = "warehouse_site.problems.not_found"
handler500 = "warehouse_site.problems.server_error"
