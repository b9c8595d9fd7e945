"""Documents that drift from the code fail here."""

import re
from pathlib import Path

import pytest

from keys.actions import Action
from keys.permissions import Permission
from tests.support.programs import ROOT
from warehouse_site.settings import CELERY_BEAT_SCHEDULE, ENVIRONMENT

MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])


def settings_table() -> str:
    """The table of `docs/operations.md` as the code would have it."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for variable in ENVIRONMENT.variables:
        default = f"`{variable.default}`" if variable.default else ""
        rows.append(f"| `{variable.name}` | {default} | {variable.meaning} |")
    return "\n".join(rows)


def test_settings_table_is_what_the_code_reads() -> None:
    written = (ROOT / "docs" / "operations.md").read_text()
    [table] = re.findall(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", written, re.DOTALL)
    assert table.splitlines() == settings_table().splitlines()


def test_permission_table_is_what_the_code_knows() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    written = {name: int(bit) for bit, name in re.findall(r"\| (\d+) \| ([A-Z_]+) (?=\|)", design)}
    assert written == {permission.name: int(permission) for permission in Permission}


def test_every_action_of_the_audit_trail_is_in_the_protocol() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    assert [action.value for action in Action if f"`{action.value}`" not in protocol] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_command_in_a_document_is_in_the_makefile(document: Path) -> None:
    code = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", document.read_text(), re.DOTALL)
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = {target for parts in code for text in parts for target in re.findall(r"(?:^|\n)make ([a-z-]+)", text)}
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


def test_every_management_command_in_the_operations_is_there() -> None:
    from django.core.management import get_commands

    named = set(re.findall(r"manage\.py ([a-z]+)", (ROOT / "docs" / "operations.md").read_text()))
    assert named <= get_commands().keys()


def test_every_task_of_the_schedule_is_in_the_operations() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    named = {entry["task"] for entry in CELERY_BEAT_SCHEDULE.values()}
    assert [name for name in sorted(named) if f"| `{name}` |" not in operations] == []


def test_options_of_up_are_documented() -> None:
    from django.core.management import load_command_class
    from django.core.management.base import BaseCommand

    def options(command: BaseCommand) -> set[str]:
        parser = command.create_parser("manage.py", "up")
        return {option for action in parser._actions for option in action.option_strings}

    own = options(load_command_class("warehouse_site", "up")) - options(BaseCommand())
    documented = set(re.findall(r"^\| `(--[a-z-]+)", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert documented == own


def test_every_target_of_the_makefile_is_phony_and_explained() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    explained = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert explained == set(phony.split())
