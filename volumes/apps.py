from django.apps import AppConfig


class VolumesConfig(AppConfig):
    name = "volumes"
    verbose_name = "Servers and volumes"

    def ready(self) -> None:
        from keys.services.keys import add_guard  # models can be imported from here on
        from volumes.services.store import require_not_behind

        add_guard(require_not_behind)
