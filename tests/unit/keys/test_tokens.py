import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pytest_django import Settings

from keys import tokens
from keys.errors import TokenRefused
from keys.services.keys import NewKey
from keys.services.sign_in import issue_tokens
from keys.tokens import jwks, read_access, token_backend


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "token_type": "access",
        "sub": "1",
        "gen": 1,
        "jti": "x",
        "iat": now,
        "exp": now + 60,
        "iss": token_backend().issuer,
        "aud": tokens.AUDIENCE,
    } | changes


def signed(payload: dict[str, Any], **changes: Any) -> str:
    how: dict[str, Any] = {
        "key": token_backend().private_key,
        "algorithm": "RS256",
        "headers": {"kid": token_backend().kid},
    } | changes
    return jwt.encode(payload, **how)


@pytest.mark.django_db
def test_a_token_says_who_and_is_verified_with_the_published_key(new_key: Callable[..., NewKey]) -> None:
    key = new_key().key
    access = issue_tokens(key=key).access
    header = jwt.get_unverified_header(access)
    [published] = jwks()["keys"]
    assert header["alg"] == "RS256"
    assert header["kid"] == published["kid"]
    assert "d" not in published
    read = jwt.decode(access, jwt.PyJWK(published), algorithms=["RS256"], audience="warehouse")
    assert (read["sub"], read["gen"], read["iss"]) == (str(key.pk), 1, "http://127.0.0.1:8000")
    assert read["exp"] - read["iat"] == 300


def test_a_good_token_is_read() -> None:
    assert read_access(signed(claims())) == (1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"iss": "http://elsewhere"},
        {"iss": None},
        {"aud": "elsewhere"},
        {"aud": None},
        {"token_type": "refresh"},
        {"token_type": None},
        {"sub": "nobody"},
        {"sub": None},
        {"gen": None},
        {"jti": None},
    ],
    ids=str,
)
def test_claims_that_are_not_ours_are_refused(changes: dict[str, Any]) -> None:
    payload = {name: value for name, value in claims(**changes).items() if value is not None}
    with pytest.raises(TokenRefused):
        read_access(signed(payload))


def test_other_keys_and_algorithms_are_refused() -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = token_backend().kid
    public_n = jwks()["keys"][0]["n"]
    forgeries = [
        signed(claims(), key=stranger),
        signed(claims(), headers={"kid": "other"}),
        signed(claims(), headers={}),
        signed(claims(), key="", algorithm="none"),
        signed(claims(), key=public_n, algorithm="HS256", headers={"kid": kid}),
        signed(claims(), algorithm="RS512"),
    ]
    good = signed(claims())
    head, body, signature = good.split(".")
    forgeries += [f"{head}.{body}.", f"{head}.{body}", f"{head}.{body[:-2]}.{signature}", "", "..", "é", good[:-4]]
    for text in forgeries:
        with pytest.raises(TokenRefused):
            read_access(text)


def test_another_public_url_is_another_issuer(settings: Settings) -> None:
    mine = signed(claims())
    settings.WAREHOUSE_PUBLIC_URL = "https://store.example"
    with pytest.raises(TokenRefused):
        read_access(mine)
    assert read_access(signed(claims())) == (1, 1)
