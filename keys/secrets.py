"""The store's secrets: made at first start, kept under `WAREHOUSE_DATA/secrets`, mode 0600.

| name        | environment            | value                                                             |
|-------------|------------------------|-------------------------------------------------------------------|
| django.key  | WAREHOUSE_SECRET_KEY   | text; signs sessions and forms                                    |
| jwt.pem     | WAREHOUSE_JWT_KEY      | RSA private key (PEM); signs access and refresh tokens            |
| signing.key | WAREHOUSE_SIGNING_KEY  | 64 hex digits; secrets of servers and intents are derived from it |
| join.token  | WAREHOUSE_JOIN_TOKEN   | text; admits new volume servers                                   |

A variable that is set comes before the file. No default secret exists anywhere.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

RSA_BITS = 2048
SIGNING_KEY_BYTES = 32
MIN_TEXT_CHARS = 16


def _make_text() -> bytes:
    return secrets.token_urlsafe(64).encode()


def _make_rsa() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_hex() -> bytes:
    return secrets.token_hex(SIGNING_KEY_BYTES).encode()


def _read_text(raw: bytes) -> bytes:
    text = raw.strip()
    if len(text) < MIN_TEXT_CHARS:
        raise ValueError(f"it has fewer than {MIN_TEXT_CHARS} characters")
    return text


def _read_pem(raw: bytes) -> bytes:
    try:
        key = serialization.load_pem_private_key(raw.strip() + b"\n", password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it wants a password
        raise ValueError("it is not a private key in PEM that can be read without a password") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("it is not an RSA key")  # noqa: TRY004 - the value is wrong, not the caller
    return raw.strip() + b"\n"


def _read_hex(raw: bytes) -> bytes:
    value = bytes.fromhex(raw.strip().decode("ascii"))
    if len(value) < SIGNING_KEY_BYTES:
        raise ValueError(f"it has fewer than {SIGNING_KEY_BYTES * 2} hex digits")
    return value


@dataclass(frozen=True, slots=True)
class _Kind:
    variable: str
    make: Callable[[], bytes]
    read: Callable[[bytes], bytes]


_KINDS = {
    "django.key": _Kind("WAREHOUSE_SECRET_KEY", _make_text, _read_text),
    "jwt.pem": _Kind("WAREHOUSE_JWT_KEY", _make_rsa, _read_pem),
    "signing.key": _Kind("WAREHOUSE_SIGNING_KEY", _make_hex, _read_hex),
    "join.token": _Kind("WAREHOUSE_JOIN_TOKEN", _make_text, _read_text),
}

_cache: dict[tuple[object, ...], bytes] = {}
"""One value for each state of a source: a replaced file is another state, so it is seen by the next read."""


def secret(name: str) -> bytes:
    """The value of one secret. Raises ImproperlyConfigured when it is missing or unusable."""
    kind = _KINDS[name]
    given = os.environ.get(kind.variable, "")
    path = os.path.join(settings.WAREHOUSE_DATA, "secrets", name)  # noqa: PTH118 - asked for by every request
    state: tuple[object, ...]
    if given:
        state = (name, given)
    else:
        try:
            stat = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            raise ImproperlyConfigured(
                f"The secret {path} is missing. Run `manage.py up --init`, which makes it, or set {kind.variable}."
            ) from None
        state = (name, path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    value = _cache.get(state)
    if value is None:
        source = kind.variable if given else path
        try:
            value = kind.read(given.encode() if given else Path(path).read_bytes())
        except ValueError as error:
            raise ImproperlyConfigured(f"The secret in {source} cannot be used: {error}.") from error
        for stale in [known for known in _cache if known[0] == name]:
            _cache.pop(stale, None)
        _cache[state] = value
    return value


def missing_secrets() -> list[str]:
    """The names of secrets that neither a variable nor a file gives."""
    return [
        name
        for name, kind in _KINDS.items()
        if not os.environ.get(kind.variable) and not (secrets_folder() / name).exists()
    ]


def unusable_secrets() -> list[str]:
    """What is wrong with the secrets that are given, a sentence for each; those that are missing are not meant."""
    missing, findings = missing_secrets(), []
    for name in _KINDS:
        if name in missing:
            continue
        try:
            secret(name)
        except (ImproperlyConfigured, OSError) as error:
            findings.append(str(error))
    return findings


def ensure_secrets() -> None:
    """Make the secrets that are missing, in a data folder of ours alone. Two processes at once end with the same."""
    own_folder(Path(settings.WAREHOUSE_DATA))
    for name in missing_secrets():
        write_secret(name, _KINDS[name].make(), replace=False)


def replace_token_key() -> bool:
    """Put a new token-signing key in place; False where it comes from the environment and cannot be replaced."""
    kind = _KINDS["jwt.pem"]
    if os.environ.get(kind.variable):
        return False
    write_secret("jwt.pem", kind.make(), replace=True)
    return True


def secrets_folder() -> Path:
    return Path(settings.WAREHOUSE_DATA) / "secrets"


def own_folder(folder: Path) -> None:
    """Make a folder that only our user may enter; one of ours that is there already is closed to the others.

    The database, its journal and the logs in it have whatever mode their writers give them. A mount that belongs to
    somebody else and lets us write stays as its owner wants it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        folder.chmod(0o700)


def write_secret(name: str, raw: bytes, *, replace: bool) -> None:
    """Write a file of the secrets folder whole or not at all, durably, mode 0600.

    Without `replace` a file that is there already stays as it is: who comes first wins.
    """
    folder = secrets_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(folder / name, raw, replace=replace)


def write_file(path: Path, raw: bytes, *, replace: bool) -> None:
    """As `write_secret`, in a folder that is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
