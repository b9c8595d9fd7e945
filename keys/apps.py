from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keys"
    verbose_name = "Keys and sign-ins"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from keys import backends  # noqa: F401  # registers the receivers of sign-ins
