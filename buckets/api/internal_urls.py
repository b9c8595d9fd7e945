from django.urls import path

from buckets.api import internal_views

urlpatterns = [path("confirm", internal_views.confirm, name="internal-confirm")]
