import time
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keys.errors import Invalid
from tests.unit.volumes.factories import make_server, make_volume
from volume_server.intent import Intent, from_text, is_genuine, unpack
from volume_server.signing import GET_LABEL, PUT_LABEL, SIGNATURE_PARAM, text_signature
from volumes.derived_secrets import server_secret
from volumes.models import Replica, Server, Volume
from volumes.services.placement import Target, pick
from volumes.services.presign import GetItem, forget_places, intent_secret, put_url, sign_gets

pytestmark = pytest.mark.django_db


def make_intent(target: Target, **fields: object) -> Intent:
    known: dict[str, object] = {
        "volume": target.volume_id,
        "first": 7 << 16,
        "count": 16,
        "epoch": target.epoch,
        "max_bytes": 1000,
        "bucket_id": 3,
        "bucket": "photos",
        "api_key": 5,
        "generation": 2,
        "expires_at": int(time.time()) + 60,
        "secret_id": 1,
    }
    return Intent(**(known | fields))  # type: ignore[arg-type]


def signed_text(url: str) -> tuple[str, str]:
    """Path and query without the signature, and the signature."""
    parts = urlsplit(url)
    text, _, signature = f"{parts.path}?{parts.query}".rpartition(SIGNATURE_PARAM)
    return text, signature


def test_a_lease_is_what_the_volume_server_expects() -> None:
    server = make_server()
    make_volume(server)
    [target] = pick(needed_bytes=1)
    intent = make_intent(target)
    url = put_url(target=target, intent=intent)
    assert url.startswith(f"{server.public_url}/{target.volume_id}/{{needle}}?exp={intent.expires_at}&intent=")
    text, signature = signed_text(url)
    assert signature == text_signature(server_secret(server.pk, server.kid), PUT_LABEL, text.encode())
    raw = from_text(text.split("intent=")[1].split("&")[0])
    assert unpack(raw) == intent
    assert is_genuine(raw, intent_secret(1))


def test_what_does_not_fit_into_a_url_is_refused() -> None:
    make_volume(make_server())
    [target] = pick(needed_bytes=1)
    with pytest.raises(Invalid):
        put_url(target=target, intent=make_intent(target, key="k" * 1024, metadata={"a": "b" * 4000}))


def test_secrets_differ_by_server_kid_and_purpose() -> None:
    one, other = UUID(int=1), UUID(int=2)
    secrets = {
        server_secret(one, 1),
        server_secret(one, 2),
        server_secret(other, 1),
        intent_secret(1),
        intent_secret(2),
    }
    assert len(secrets) == 5
    assert server_secret(one, 1) == server_secret(str(one), 1)
    assert all(len(secret) == 32 for secret in secrets)


def test_a_get_is_signed_for_one_needle_and_its_headers() -> None:
    server = make_server()
    volume = make_volume(server)
    item = GetItem(
        volume_id=volume.pk, needle=0xAB0001, etag="e-1", content_type="text/plain; charset=utf-8", inline=True,
        filename="ü b.txt",
    )  # fmt: skip
    [[url]] = sign_gets([item], api_key=5, generation=2, expires_at=1_900_000_000)
    text, signature = signed_text(url)
    assert url.startswith(server.public_url + "/")
    assert text == (
        f"/{volume.pk}/0000000000ab0001?ct=text%2Fplain%3B%20charset%3Dutf-8&cd=inline&fn=%C3%BC%20b.txt"
        f"&etag=e-1&exp=1900000000&key=5.2&kid=1"
    )
    assert signature == text_signature(server_secret(server.pk, 1), GET_LABEL, text.encode())


def test_many_are_signed_with_one_query_then_none(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    server = make_server()
    volumes = [make_volume(server) for _ in range(3)]
    items = [GetItem(volume_id=volumes[n % 3].pk, needle=n + 1, etag="e") for n in range(30)]
    with django_assert_num_queries(1):
        urls = sign_gets(items, api_key=0, generation=0, expires_at=1)
    assert [f"/{item.volume_id}/{item.needle:016x}?" in url for item, [url] in zip(items, urls, strict=True)] == [
        True
    ] * 30
    with django_assert_num_queries(0):
        sign_gets(items, api_key=0, generation=0, expires_at=1)


def test_an_unknown_volume_has_no_urls() -> None:
    assert sign_gets([GetItem(volume_id=1, needle=1, etag="e")], api_key=0, generation=0, expires_at=1) == [[]]


def test_all_replicas_are_given_and_those_offline_last() -> None:
    online = make_server()
    volume = make_volume(online)
    others: dict[str, Server] = {
        "online": make_server(),
        "stopped": make_server(stopped_at=timezone.now()),
        "silent": make_server(last_seen_at=timezone.now() - timedelta(seconds=11)),
        "missing": make_server(),
        "expected": make_server(),
    }
    for name, server in others.items():
        state = name if name in {"missing", "expected"} else "open"
        Replica.objects.create(
            volume=volume, server=server, role="secondary", state=state, epoch=1, whole_epoch=1,
            reported_at=timezone.now(),
        )  # fmt: skip
    first = set()
    for needle in range(1, 30):
        [urls] = sign_gets(
            [GetItem(volume_id=volume.pk, needle=needle, etag="e")], api_key=0, generation=0, expires_at=1
        )
        origins = [f"http://{urlsplit(url).netloc}" for url in urls]
        good = {online.public_url, others["online"].public_url}
        assert set(origins[:2]) == good
        assert set(origins[2:]) == {others[name].public_url for name in ("stopped", "silent", "missing")}
        first.add(origins[0])
    assert first == {online.public_url, others["online"].public_url}  # replicas share the reads


def urls_of(volume: Volume) -> list[str]:
    forget_places()
    [urls] = sign_gets([GetItem(volume_id=volume.pk, needle=7, etag="e")], api_key=0, generation=0, expires_at=1)
    return [f"http://{urlsplit(url).netloc}" for url in urls]


def test_a_copy_that_may_lack_something_comes_after_those_that_have_everything() -> None:
    whole, late, away = make_server(), make_server(), make_server(last_seen_at=None)
    volume = make_volume(whole, epoch=4)
    for server, whole_epoch in ((late, 3), (away, 4)):
        Replica.objects.create(
            volume=volume, server=server, role="secondary", state="open", epoch=whole_epoch, whole_epoch=whole_epoch,
            reported_at=timezone.now(),
        )  # fmt: skip
    assert urls_of(volume) == [whole.public_url, late.public_url, away.public_url]


def test_a_copy_of_before_a_compaction_is_asked_only_while_no_other_is_there() -> None:
    compacted, old = make_server(), make_server()
    volume = make_volume(compacted, replica={"revision": 2})
    Replica.objects.create(
        volume=volume, server=old, role="secondary", state="open", epoch=1, whole_epoch=1, revision=1,
        reported_at=timezone.now(),
    )  # fmt: skip
    assert urls_of(volume) == [compacted.public_url]
    Server.objects.filter(pk=compacted.pk).update(last_seen_at=None)
    assert set(urls_of(volume)) == {compacted.public_url, old.public_url}
