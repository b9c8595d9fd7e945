"""The product's addresses, and views that do nothing: what a call costs before it does anything."""

from django.urls import path
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from warehouse_site import urls


class Empty(APIView):
    """Behind the middleware, the authenticators and the permission that every view of the API has."""

    def post(self, request: Request) -> Response:
        return Response({})


class Open(Empty):
    """As `Empty`, for anybody: no token is looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


urlpatterns = [
    path("api/v1/bench/empty", Empty.as_view()),
    path("api/v1/bench/open", Open.as_view()),
    *urls.urlpatterns,
]

handler400, handler403 = urls.handler400, urls.handler403
handler404, handler500 = urls.handler404, urls.handler500
