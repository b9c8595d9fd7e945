"""The app of buckets, objects and what commits them."""

from django.apps import AppConfig


class BucketsConfig(AppConfig):
    name = "buckets"
    verbose_name = "Buckets and objects"
    default_auto_field = "django.db.models.BigAutoField"
