import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from keys.errors import TokenRefused
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow
from keys.selectors import key_works, rights_now
from keys.services.keys import NewKey
from keys.services.sign_in import issue_tokens
from keys.tokens import read_access

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "bits"),
    [
        ((), 0),
        (("--permissions", "3"), 3),
        (("--permissions", "OBJECTS_READ,share"), 1 | 1024),
        (("--admin",), 2048),
        (("--admin", "--permissions", "1"), 2049),
    ],
)
def test_createkey_json(arguments: tuple[str, ...], bits: int) -> None:
    made = json.loads(run("createkey", "--json", "--name", "ci", *arguments).splitlines()[-1])
    assert set(made) == {"id", "key"}
    key = ApiKey.objects.get(pk=made["id"])
    assert (key.name, key.permissions) == ("ci", bits)
    assert key_works(key_text=made["key"])


def test_createkey_with_grants_an_end_and_a_description() -> None:
    grants_given = ("--grant", "photos=OBJECTS_READ,share", "--grant", "logs/a=b/=3")
    made = json.loads(run("createkey", "--json", "--expires", "30d", "--description", "nightly", *grants_given))
    key = ApiKey.objects.get(pk=made["id"])
    grants = rights_now([key.pk])[key.pk].grants
    assert grants == (GrantRow("logs", "a=b/", 3), GrantRow("photos", "", 1025))
    assert key.description == "nightly"
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    made = json.loads(run("createkey", "--json", "--expires", "2999-01-31"))
    assert ApiKey.objects.get(pk=made["id"]).expires_at == datetime(2999, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "life"), [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("7d", timedelta(days=7))]
)
def test_createkey_with_a_length_of_life(text: str, life: timedelta) -> None:
    made = json.loads(run("createkey", "--json", "--permissions", "1", "--expires", text))
    expires_at = ApiKey.objects.get(pk=made["id"]).expires_at
    assert expires_at is not None
    assert life - timedelta(minutes=1) < expires_at - timezone.now() <= life


def test_createkey_says_that_a_key_may_do_nothing() -> None:
    told = StringIO()
    made = StringIO()
    call_command("createkey", "--json", stdout=made, stderr=told)
    assert "may do nothing" in told.getvalue()
    assert set(json.loads(made.getvalue())) == {"id", "key"}
    for arguments in (("--permissions", "1"), ("--grant", "photos=1"), ("--admin",)):
        told = StringIO()
        call_command("createkey", *arguments, stdout=made, stderr=told)
        assert told.getvalue() == ""


def test_createkey_for_people() -> None:
    out = run("createkey", "--admin", "--grant", "photos/x=3")
    assert "ADMIN (2048)" in out
    assert "photos/x: OBJECTS_READ, OBJECTS_WRITE (3)" in out
    assert key_works(key_text=out.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--permissions", "FLY"),
        ("--permissions", "9999"),
        ("--permissions", "-1"),
        ("--name", ""),
        ("--grant", "photos"),
        ("--grant", "=1"),
        ("--grant", "photos=ADMIN"),
        ("--grant", "photos=0"),
        ("--expires", "soon"),
        ("--expires", "0h"),
        ("--expires", "1y"),
        ("--expires", "-1d"),
        ("--expires", "2001-01-01"),
    ],
)
def test_createkey_refuses(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run("createkey", *arguments)
    assert not ApiKey.objects.exists()


def test_rotatekeys(new_key: Callable[..., NewKey], monkeypatch: pytest.MonkeyPatch) -> None:
    access = issue_tokens(key=new_key(Permission.ADMIN).key).access
    assert "invalid" in run("rotatekeys")
    with pytest.raises(TokenRefused):
        read_access(access)


def test_rotatekeys_says_when_it_cannot_replace_the_key(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    from keys.secrets import secret

    monkeypatch.setenv("WAREHOUSE_JWT_KEY", secret("jwt.pem").decode())
    assert "WAREHOUSE_JWT_KEY" in run("rotatekeys")
