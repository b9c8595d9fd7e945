import hmac
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server import signing
from volume_server.signing import GET_LABEL, PUT_LABEL, Signer

SECRET = bytes(range(32))
TARGET = "/api/v1/internal/confirm?x=1"


@given(st.binary(max_size=200), st.sampled_from([GET_LABEL, PUT_LABEL]), st.binary(max_size=300))
def test_signer_is_hmac(secret: bytes, label: bytes, text: bytes) -> None:
    """RFC 2104 by hand, for any length of key: shorter than, equal to and longer than a block."""
    signer = Signer(secret)
    assert signer.signature(label, text).decode() == hmac.digest(secret, label + text, "sha256").hex()
    assert signer.signature(label, text).decode() == signing.text_signature(secret, label, text)


def test_signature_of_one_purpose_is_none_of_another() -> None:
    assert signing.text_signature(SECRET, GET_LABEL, b"/1/2?") != signing.text_signature(SECRET, PUT_LABEL, b"/1/2?")


def test_presigned_get_is_signed_as_its_own_text() -> None:
    url = signing.presign_get(
        SECRET, kid=3, volume=7, needle=0x1_0000, expires_at=99, etag='a"b', api_key=5, generation=6,
        content_type="text/plain; charset=utf-8", inline=True, filename="ä b.txt",
    )  # fmt: skip
    text, _, signature = url.partition("&sig=")
    assert text == (
        "/7/0000000000010000?ct=text%2Fplain%3B%20charset%3Dutf-8&cd=inline&fn=%C3%A4%20b.txt&etag=a%22b"
        "&exp=99&key=5.6&kid=3"
    )
    assert signature == hmac.digest(SECRET, b"warehouse get 1\n" + text.encode(), "sha256").hex()


def test_presigned_put_is_signed_with_the_placeholder() -> None:
    url = signing.presign_put(SECRET, kid=3, volume=7, expires_at=99, intent="AQID")
    text, _, signature = url.partition("&sig=")
    assert text == "/7/{needle}?exp=99&intent=AQID&kid=3"
    assert signature == hmac.digest(SECRET, b"warehouse put 1\n" + text.encode(), "sha256").hex()


def test_signed_request_binds_everything() -> None:
    request = {
        "direction": signing.TO_MASTER, "method": "POST", "target": TARGET, "body": b"{}", "server": "id", "time_ms": 5,
    }  # fmt: skip
    headers = signing.signed_headers(SECRET, kid=2, **request)
    assert headers.keys() == {"Warehouse-Server", "Warehouse-Kid", "Warehouse-Time", "Warehouse-Signature"}
    signature = headers["Warehouse-Signature"]
    assert re.fullmatch("[0-9a-f]{64}", signature)
    assert signing.request_is_signed(SECRET, signature, **request)
    assert not signing.request_is_signed(b"x" * 32, signature, **request)
    others = {
        "direction": signing.TO_SERVER, "method": "GET", "target": TARGET + "2", "body": b"{ }", "server": "ie",
        "time_ms": 6,
    }  # fmt: skip
    for name, value in others.items():
        assert not signing.request_is_signed(SECRET, signature, **(request | {name: value})), name


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\udcff"])
def test_what_is_no_signature_is_refused_without_an_error(signature: str) -> None:
    assert not signing.request_is_signed(
        SECRET, signature, direction=signing.TO_SERVER, method="GET", target="/", body=b"", server="", time_ms=0
    )


def test_a_replicas_ticket_is_of_one_volume_epoch_and_primary() -> None:
    of: dict[str, Any] = {"volume": 7, "epoch": 3, "primary": "6f1d"}
    ticket = signing.replica_ticket(SECRET, **of)
    assert ticket == hmac.digest(SECRET, b"replica\n7\n3\n6f1d", "sha256").hex()
    others = [of | {"volume": 8}, of | {"epoch": 4}, of | {"primary": "6f1e"}]
    assert ticket not in {signing.replica_ticket(SECRET, **other) for other in others}
