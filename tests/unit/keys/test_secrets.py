import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from keys import secrets

NAMES = ("django.key", "jwt.pem", "signing.key", "join.token")


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    settings.WAREHOUSE_DATA = tmp_path / "data"
    return tmp_path / "data" / "secrets"


def test_missing_secrets_are_made_once_for_us_alone(folder: Path) -> None:
    assert secrets.missing_secrets() == list(NAMES)
    secrets.ensure_secrets()
    first = {name: secrets.secret(name) for name in NAMES}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    secrets.ensure_secrets()
    assert {name: secrets.secret(name) for name in NAMES} == first
    assert len(first["signing.key"]) == 32
    assert len(set(first.values())) == len(NAMES)


def test_a_missing_secret_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"signing\.key is missing.*up --init.*WAREHOUSE_SIGNING_KEY"):
        secrets.secret("signing.key")


def test_the_environment_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.ensure_secrets()
    monkeypatch.setenv("WAREHOUSE_SIGNING_KEY", "ab" * 32)
    assert secrets.secret("signing.key") == b"\xab" * 32
    monkeypatch.delenv("WAREHOUSE_SIGNING_KEY")
    assert secrets.secret("signing.key") != b"\xab" * 32


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("signing.key", "WAREHOUSE_SIGNING_KEY", "ab" * 16),
        ("signing.key", "WAREHOUSE_SIGNING_KEY", "not hex"),
        ("django.key", "WAREHOUSE_SECRET_KEY", "short"),
        ("join.token", "WAREHOUSE_JOIN_TOKEN", "short"),
        ("jwt.pem", "WAREHOUSE_JWT_KEY", "no key at all, but long enough"),
    ],
)
def test_a_weak_or_broken_secret_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ImproperlyConfigured, match=variable):
        secrets.secret(name)


def test_a_replaced_file_is_seen_by_the_next_read(folder: Path) -> None:
    secrets.ensure_secrets()
    before = secrets.secret("jwt.pem")
    assert secrets.replace_token_key()
    assert secrets.secret("jwt.pem") != before


def test_a_given_token_key_is_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.ensure_secrets()
    monkeypatch.setenv("WAREHOUSE_JWT_KEY", secrets.secret("jwt.pem").decode())
    assert not secrets.replace_token_key()


def test_who_comes_first_wins(folder: Path) -> None:
    """Several processes may start at once on one folder; all must end with the same secrets."""
    start = threading.Barrier(4)
    seen: list[bytes] = []

    def make(number: int) -> None:
        start.wait()
        secrets.write_secret("join.token", f"token-number-{number:06}".encode(), replace=False)
        seen.append((folder / "join.token").read_bytes())

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert [path.name for path in folder.iterdir()] == ["join.token"]


def test_the_data_folder_is_closed_to_others(folder: Path) -> None:
    folder.parent.mkdir()
    folder.parent.chmod(0o755)
    secrets.ensure_secrets()
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_only_an_rsa_key_signs_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    broken = "-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n"
    assert secrets.unusable_secrets() == []
    for value, reason in ((curve.decode(), "not an RSA key"), (broken, "not a private key in PEM")):
        monkeypatch.setenv("WAREHOUSE_JWT_KEY", value)
        [finding] = secrets.unusable_secrets()
        assert "WAREHOUSE_JWT_KEY" in finding
        assert reason in finding
