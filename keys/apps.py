from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keys"
    verbose_name = "Keys and sign-ins"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from keys.api import schema  # noqa: F401 - registers the OpenAPI extension
