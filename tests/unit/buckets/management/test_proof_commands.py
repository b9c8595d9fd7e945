"""`manage.py fsck` and `manage.py sweep`: what they print, what they keep, and their exit codes."""

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from buckets.models import Bucket, Orphan, Proof
from buckets.services import fsck
from tests.unit.buckets.house import DAY_MS, House, running_house
from volumes.models import Server

pytestmark = pytest.mark.django_db


@pytest.fixture
def house(tmp_path: Path, db: None) -> Iterator[House]:
    with running_house(tmp_path) as built:
        yield built


def run(*args: Any) -> tuple[int, list[str]]:
    """Exit code and the lines of standard output."""
    out, code = io.StringIO(), 0
    try:
        call_command(*map(str, args), stdout=out)
    except SystemExit as error:
        code = int(error.code or 0)
    except CommandError as error:
        code = error.returncode
    return code, out.getvalue().splitlines()


def test_a_sound_store_is_said_to_be(house: House) -> None:
    house.put("k")
    house.heard()
    code, lines = run("fsck")
    assert (code, lines[-1]) == (0, "0 missing, 0 orphaned, 0 divergent")
    assert lines[-2] == "1 volumes, 1 needles, 1 chunks"
    proof = Proof.objects.get()
    assert (proof.is_sound, proof.needle_count, proof.volume) == (True, 1, None)


def test_everything_that_is_wrong_is_told_with_what_mends_it(house: House) -> None:
    missing, orphan, flipped = house.put("gone", stored=False), house.orphan(age_ms=DAY_MS), house.put("bad")
    house.flip(flipped, 3)
    Bucket.objects.update(object_count=9)
    house.heard()
    code, lines = run("fsck")
    text = "\n".join(lines)
    assert (code, lines[-1]) == (1, "1 missing, 1 orphaned, 1 divergent, 1 miscounted")
    for needle in (missing, orphan, flipped):
        assert f"needle {needle:016x}" in text
    assert f"missing, volume {house.volume.pk} on {house.rows[0]}" in text
    assert "object 'gone' in bucket 'photos', chunk 0" in text
    for command in ("manage.py sweep --delete", "manage.py scrub", "manage.py fsck --mend-counts"):
        assert command in text
    assert "Remove nothing where it names several" in text, "one of two damaged copies may have what the other lost"
    assert Proof.objects.get().counts == {"missing": 1, "orphaned": 1, "divergent": 1, "unknown": 0, "miscounted": 1}
    assert run("fsck", "--mend-counts")[1][-1] == "1 buckets kept wrong counts"
    assert run("fsck")[1][-1] == "1 missing, 1 orphaned, 1 divergent"


def test_one_volume_deep_as_json_and_nothing_kept(house: House) -> None:
    needle = house.put("k")
    house.flip(needle, -1)
    house.heard()
    assert run("fsck", "--volume", house.volume.pk, "--dry-run")[0] == 0
    code, [line] = run("fsck", "--volume", house.volume.pk, "--deep", "--json", "--dry-run")
    found = json.loads(line)
    assert (code, found["verdict"], found["divergent"]) == (1, "0 missing, 0 orphaned, 1 divergent", 1)
    assert found["findings"][0]["needle"] == f"{needle:016x}"
    assert not Proof.objects.exists()


def test_unknown_is_no_success(house: House) -> None:
    house.put("k")
    Server.objects.update(last_seen_at=None)
    code, lines = run("fsck")
    assert (code, lines[-1]) == (1, "0 missing, 0 orphaned, 0 divergent, 2 unknown")


def test_findings_beyond_those_listed_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck, "MAX_FINDINGS", 1)
    for number in range(3):
        house.put(f"k{number}", stored=False)
    house.heard()
    lines = run("fsck")[1]
    assert f"volume {house.volume.pk}: and 2 more" in lines
    assert lines[-1] == "3 missing, 0 orphaned, 0 divergent"


@pytest.mark.parametrize("command", ["fsck", "sweep"])
def test_a_volume_that_there_is_not(house: House, command: str) -> None:
    assert run(command, "--volume", 4000)[0] == 2


def test_sweep_shows_and_deletes_only_when_told_to(house: House) -> None:
    orphan = house.orphan(age_ms=4 * DAY_MS)
    house.heard()
    for arguments in ([], ["--delete"]):
        code, lines = run("sweep", *arguments)
        assert (code, lines[0].split(";")[0]) == (0, f"volume {house.volume.pk}: 1 orphans, {len(str(orphan))} bytes")
    Orphan.objects.update(first_seen_at=timezone.now() - timedelta(days=2))
    assert run("sweep", "--dry-run")[1][-1] == "1 volumes, 1 orphans, 1 may be deleted now (--delete)"
    assert house.lives(orphan)
    assert run("sweep", "--delete")[1][-1] == "1 volumes, 1 orphans, 1 deleted"
    assert not house.lives(orphan)
    assert run("sweep")[1] == ["1 volumes, 0 orphans, 0 may be deleted now (--delete)"]


def test_sweep_says_of_which_volumes_nothing_is_known(house: House) -> None:
    Server.objects.update(last_seen_at=None)
    code, lines = run("sweep")
    assert code == 1
    assert "not swept" in lines[0]
    assert run("sweep", "--delete", "--dry-run")[0] == 2
