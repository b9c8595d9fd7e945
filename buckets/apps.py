"""The app of buckets, objects and what commits them."""

from django.apps import AppConfig

from volumes.owners import add_finder, add_keeper


class BucketsConfig(AppConfig):
    name = "buckets"
    verbose_name = "Buckets and objects"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from buckets.selectors.objects import find_owners  # models can be imported from here on
        from buckets.services import lost_volumes

        add_finder(find_owners)
        add_keeper(lost_volumes)
