"""In the place of Django's commands for users and passwords: keys are the only accounts."""

from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

_SAID = "There are no users and no passwords here: `manage.py createkey` makes keys, with --admin one that may do all."


class NoUsers(BaseCommand):
    help = _SAID
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Whatever Django's own would take is not looked at."""
        is_asked = {"-h", "--help", "--traceback"} & set(argv)
        super().run_from_argv([*argv[:2], *sorted(is_asked)])

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        raise CommandError(_SAID)
