from typing import Any
from uuid import UUID, uuid4

import pytest

from keys.errors import Invalid
from tests.unit.volumes.factories import figures, heartbeat_body, job, register_body
from volumes.reports import (
    MAX_BYTES,
    MAX_MS,
    parse_damage,
    parse_deregistration,
    parse_figures,
    parse_heartbeat,
    parse_registration,
    parse_usage,
)

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
        ("disk", 5),
        ("disk", "x" * 65),
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


def test_jobs_are_read_whole_and_written_back() -> None:
    compaction = job(state="done", ended_ms=MAX_MS, reclaimed_bytes=MAX_BYTES, total_bytes=MAX_BYTES)
    read = parse_figures(figures(1, compaction=compaction, scrub=job(detail="räum auf"), scrubbed_ms=0))
    assert read.compaction is not None
    assert read.scrub is not None
    assert (read.compaction.as_json(), read.scrub.as_json()) == (compaction, job(detail="räum auf"))
    assert read.scrubbed_ms == 0


def test_an_older_server_tells_of_no_jobs() -> None:
    body = figures(1)
    for name in ("compaction", "scrub", "scrubbed_ms"):
        del body[name]
    read = parse_figures(body)
    assert (read.compaction, read.scrub, read.scrubbed_ms) == (None, None, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"scrub": []},
        {"scrub": "running"},
        {"scrub": {}},
        {"scrub": job(state="waiting")},
        {"scrub": job(state=None)},
        {"scrub": job(done_bytes=1.0)},
        {"scrub": job(done_bytes=-1)},
        {"scrub": job(total_bytes=1 << 53)},
        {"scrub": job(total_bytes=True)},
        {"scrub": job(detail=5)},
        {"scrub": job(started_ms=None)},
        {"scrub": job(ended_ms="now")},
        {"scrub": job(ended_ms=MAX_MS + 1)},
        {"compaction": job()},  # does not say what it gave back
        {"compaction": job(reclaimed_bytes="1")},
        {"scrubbed_ms": -1},
        {"scrubbed_ms": MAX_MS + 1},
        {"scrubbed_ms": "yesterday"},
    ],
)
def test_a_bad_job_names_the_field(bad: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        parse_figures(figures(1) | bad)
    assert list(caught.value.extra["errors"]) == list(bad)  # type: ignore[call-overload]


def test_the_wording_of_an_error_refuses_no_heartbeat() -> None:
    read = parse_figures(figures(1, scrub=job(detail="two\nlines\0\ud800" + "x" * 9999)))
    assert read.scrub is not None
    assert read.scrub.detail.startswith("two lines  x")
    assert len(read.scrub.detail) == 500


DAMAGE = {"needle": "00000000000a0001", "offset": 8192, "bytes": 96, "reason": "bad CRC"}


def test_damage_is_read() -> None:
    report = parse_damage({"volume": 3, "count": 1001, "damaged": [DAMAGE, DAMAGE | {"needle": None}]})
    first, second = report.records
    assert (report.volume, report.count) == (3, 1001)
    assert (first.needle, first.offset, first.size_bytes, first.reason) == (0xA0001, 8192, 96, "bad CRC")
    assert second.needle is None


@pytest.mark.parametrize(
    "bad",
    [
        {"volume": None},
        {"count": 0},
        {"count": None},
        {"damaged": None},
        {"damaged": {}},
        {"damaged": [1]},
        {"damaged": [DAMAGE] * 1001, "count": 1001},
        {"damaged": [DAMAGE | {"needle": "A" * 16}]},
        {"damaged": [DAMAGE | {"needle": "1"}]},
        {"damaged": [DAMAGE | {"needle": 5}]},
        {"damaged": [DAMAGE | {"offset": -1}]},
        {"damaged": [DAMAGE | {"bytes": None}]},
        {"damaged": [DAMAGE | {"reason": None}]},
    ],
)
def test_bad_damage(bad: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        parse_damage({"volume": 3, "count": 1, "damaged": [DAMAGE]} | bad)


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
