from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keys"
    verbose_name = "Keys and sign-ins"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # These register the receivers of sign-ins, and the OpenAPI extension.
        from keys import backends  # noqa: F401
        from keys.api import schema  # noqa: F401
