from django.urls import path

from volumes.api import internal_views

urlpatterns = [
    path("register", internal_views.register, name="internal-register"),
    path("heartbeat", internal_views.heartbeat, name="internal-heartbeat"),
    path("deregister", internal_views.deregister, name="internal-deregister"),
]
