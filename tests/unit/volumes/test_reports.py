from typing import Any
from uuid import UUID, uuid4

import pytest

from keys.errors import Invalid
from tests.unit.volumes.factories import figures, heartbeat_body, register_body
from volumes.reports import parse_deregistration, parse_heartbeat, parse_registration, parse_usage

SERVER = uuid4()


def test_heartbeat_is_read_whole() -> None:
    store = uuid4()
    body = heartbeat_body(SERVER, "i", store=str(store), sequence=7, volumes=[figures(3, state="sealed", live_count=9)])
    report = parse_heartbeat(body)
    assert (report.server, report.instance, report.store, report.sequence) == (SERVER, "i", store, 7)
    [volume] = report.volumes
    assert (volume.volume, volume.is_sealed, volume.live_count) == (3, True, 9)


@pytest.mark.parametrize("missing", ["", None])
def test_a_server_that_knows_no_store_says_so(missing: str | None) -> None:
    report = parse_heartbeat(heartbeat_body(SERVER, "i", store=missing, sequence=None))
    assert (report.store, report.sequence) == (None, 0)


def test_unknown_fields_are_passed_over() -> None:
    parse_heartbeat(heartbeat_body(SERVER, "i", mood="good", volumes=[figures(1, colour="red")]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server", "no-uuid"),
        ("server", str(SERVER).upper()),
        ("server", 5),
        ("instance", ""),
        ("instance", "x" * 65),
        ("instance", None),
        ("instance", "two\nlines"),
        ("capacity_bytes", -1),
        ("capacity_bytes", "1"),
        ("capacity_bytes", 1.5),
        ("capacity_bytes", True),
        ("free_bytes", 1 << 53),
        ("store", "none"),
        ("sequence", -1),
        ("volumes", {}),
        ("volumes", None),
        ("volumes", [1]),
        ("volumes", [{}]),
        ("volumes", [figures(0)]),
        ("volumes", [figures(1 << 32)]),
        ("volumes", [figures(1, state="half")]),
        ("volumes", [figures(1, state=[])]),
        ("volumes", [figures(1, garbage_bytes=8193)]),
        ("volumes", [figures(1, live_count=-1)]),
        ("volumes", [figures(1), figures(1)]),
    ],
)
def test_a_bad_heartbeat_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        parse_heartbeat(heartbeat_body(SERVER, "i") | {field: value})
    assert list(caught.value.extra["errors"]) == [field]  # type: ignore[call-overload]


def test_more_free_than_there_is() -> None:
    with pytest.raises(Invalid) as caught:
        parse_heartbeat(heartbeat_body(SERVER, "i", capacity_bytes=10, free_bytes=11))
    assert "free_bytes" in caught.value.extra["errors"]  # type: ignore[operator]


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_no_object(body: object) -> None:
    with pytest.raises(Invalid):
        parse_heartbeat(body)


@pytest.mark.parametrize("url", ["http://h:1", "https://volume.example.org", "http://[::1]:8081", "http://h:1/"])
def test_good_urls(url: str) -> None:
    assert parse_registration(register_body(SERVER, "i", public_url=url)).public_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "h:1",
        "ftp://h",
        "http://",
        "http://h/path",
        "http://h?x",
        "http://h#x",
        "http://u@h",
        "http://h:99999",
        "http://h:0",
        "http://ü",
        "http://a b",
        "file:///etc/passwd",
        "",
        7,
    ],
)
def test_bad_urls(url: object) -> None:
    for field in ("public_url", "internal_url"):
        with pytest.raises(Invalid) as caught:
            parse_registration(register_body(SERVER, "i") | {field: url})
        assert list(caught.value.extra["errors"]) == [field]  # type: ignore[call-overload]


def test_registration_is_read_whole() -> None:
    registration = parse_registration(register_body(SERVER, "i", token="t", node="rack 1"))
    assert (registration.token, registration.node, registration.version) == ("t", "rack 1", "1")
    assert parse_registration(register_body(SERVER, "i")).token is None


def test_deregistration_and_usage() -> None:
    assert parse_deregistration({"server": str(SERVER), "instance": "i"}) == (SERVER, "i")
    with pytest.raises(Invalid):
        parse_deregistration({"server": str(SERVER)})
    usage = parse_usage(heartbeat_body(SERVER, "i", volumes=[figures(1)]))
    assert isinstance(usage.server, UUID)
    assert len(usage.volumes) == 1
