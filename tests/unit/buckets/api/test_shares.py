"""Shares through the API: who may make, see, change and end them."""

import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.test import APIClient

from buckets.models import Share
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, make_key
from tests.unit.buckets.sharing import ENDINGS, SHARING, end, make_maker

PATH = "/api/v1/shares"
BODY = {"bucket": "photos", "key": "dir/b"}


@pytest.fixture
def maker(db: None) -> ApiKey:
    return make_maker()


@pytest.fixture
def mine(maker: ApiKey) -> APIClient:
    return client_of(maker)


def test_a_share_is_made_and_its_link_shown_once(mine: APIClient, maker: ApiKey, filled: Lab, settings: Any) -> None:
    made = mine.post(PATH, BODY | {"password": "p", "description": "for Ana", "inline": True})
    assert made.status_code == 201, made.content
    assert made.headers["Cache-Control"] == "no-store"
    body = made.json()
    url = urlsplit(body.pop("url"))
    assert f"{url.scheme}://{url.netloc}" == settings.WAREHOUSE_PUBLIC_URL
    assert url.path.startswith("/s/")
    shown = mine.get(f"{PATH}/{body['id']}")
    assert shown.json() == body
    for name, value in {
        "bucket": "photos",
        "key": "dir/b",
        "state": "live",
        "has_password": True,
        "inline": True,
        "description": "for Ana",
        "expires_at": None,
        "max_downloads": None,
        "downloads_left": None,
        "download_count": 0,
        "api_key": maker.pk,
        "api_key_name": "test",
    }.items():
        assert body[name] == value, name
    assert not {"url", "password", "password_hash", "token_hash"} & body.keys()
    assert mine.get(PATH).json() == {"results": [body], "next_after": None}


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"bucket": "no such name!" * 9}, "bucket"),
        ({"bucket": 5}, "bucket"),
        ({"bucket": "\ud800"}, "bucket"),
        ({"key": "\udfff"}, "key"),
        ({"password": "\ud800"}, "password"),
        ({"description": "\ud800"}, "description"),
        ({"key": ""}, "key"),
        ({"key": "x" * 1025}, "key"),
        ({"key": "a\0"}, "key"),
        ({"key": None}, "key"),
        ({"expires_at": "yesterday"}, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
        ({"expires_at": None, "expires_in_seconds": 5}, "expires_in_seconds"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
        ({"expires_in_seconds": 10**18}, "expires_in_seconds"),
        ({"expires_in_seconds": None}, "expires_in_seconds"),
        ({"max_downloads": 0}, "max_downloads"),
        ({"max_downloads": 10**30}, "max_downloads"),
        ({"max_downloads": "many"}, "max_downloads"),
        ({"one_time": True, "max_downloads": 2}, "one_time"),
        ({"one_time": True, "max_downloads": None}, "one_time"),
        ({"one_time": "perhaps"}, "one_time"),
        ({"password": ""}, "password"),
        ({"password": "x" * 257}, "password"),
        ({"password": 5}, "password"),
        ({"description": "x" * 501}, "description"),
        ({"description": None}, "description"),
        ({"inline": "perhaps"}, "inline"),
        ({"expires": 5}, "expires"),
    ],
)
def test_bad_terms_are_named(mine: APIClient, filled: Lab, terms: dict[str, Any], field: str) -> None:
    answer = mine.post(PATH, json.dumps(BODY | terms), content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert list(answer.json()["errors"]) == [field]
    assert not Share.objects.exists()


@pytest.mark.parametrize("body", [{}, [], "x", None, {"bucket": "photos"}])
def test_what_is_no_share(mine: APIClient, filled: Lab, body: Any) -> None:
    assert mine.post(PATH, body).status_code == 400


def test_terms_have_short_forms(mine: APIClient, filled: Lab) -> None:
    before = timezone.now()
    made = mine.post(PATH, BODY | {"expires_in_seconds": 3600, "one_time": True}).json()
    expires_at = parse_datetime(made["expires_at"])
    assert expires_at is not None
    assert timedelta(0) <= expires_at - before - timedelta(hours=1) < timedelta(minutes=5)
    assert (made["max_downloads"], made["downloads_left"]) == (1, 1)
    assert mine.post(PATH, BODY | {"one_time": False}).json()["max_downloads"] is None


def test_who_may_make_one(filled: Lab) -> None:
    dir_only = (GrantRow("photos", "dir/", SHARING),)
    apart = (GrantRow("photos", "dir/", int(Permission.SHARE)), GrantRow("photos", "", int(Permission.OBJECTS_READ)))
    for permissions, grants, status in (
        (int(Permission.SHARE), (), 403),
        (int(Permission.OBJECTS_READ), (), 403),
        (SHARING, (), 201),
        (int(Permission.ADMIN), (), 201),
        (0, dir_only, 201),
        (0, apart, 201),
        (0, (GrantRow("photos", "dir/c", SHARING),), 403),
        (0, (GrantRow("other", "", SHARING),), 403),
    ):
        client = client_of(make_key(permissions=permissions, grants=grants))
        assert client.post(PATH, BODY).status_code == status, (permissions, grants)
    # Who may not is not told what there is.
    for key in ("a", "none"):
        answer = client_of(make_key(grants=dir_only)).post(PATH, BODY | {"key": key})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert APIClient().post(PATH, BODY).status_code == 401


def test_what_is_not_there_is_not_shared(mine: APIClient, filled: Lab) -> None:
    assert mine.post(PATH, BODY | {"key": "none"}).json()["code"] == "object_unknown"
    assert mine.post(PATH, BODY | {"bucket": "none"}).json()["code"] == "bucket_unknown"


def test_each_sees_its_own_and_admin_sees_all(mine: APIClient, api: APIClient, filled: Lab) -> None:
    first = mine.post(PATH, BODY).json()["id"]
    second = api.post(PATH, BODY).json()["id"]
    other = client_of(make_maker())
    third = other.post(PATH, BODY).json()["id"]

    def ids(client: APIClient, query: str = "") -> list[int]:
        return [share["id"] for share in client.get(PATH + query).json()["results"]]

    assert ids(mine) == [first]
    assert ids(other) == [third]
    assert ids(api) == [first, second, third]
    assert ids(api, "?bucket=photos") == [first, second, third]
    assert ids(api, "?bucket=none") == []
    page = api.get(PATH + "?limit=2").json()
    assert [share["id"] for share in page["results"]] == [first, second]
    assert ids(api, f"?limit=2&after={page['next_after']}") == [third]
    for query in ("?bucket=a%00", "?limit=0", "?limit=1001", "?after=-1", "?after=x", "?after=99999999999999999999"):
        assert api.get(PATH + query).status_code == 400, query
    nobody = client_of(make_key(permissions=int(~Permission.ADMIN & ~Permission.SHARE & 4095)))
    assert nobody.get(PATH).status_code == 403
    for method in ("get", "patch", "delete"):
        for client in (mine, nobody):
            refused = [getattr(client, method)(f"{PATH}/{number}", {}) for number in (999999, third)]
            assert [answer.status_code for answer in refused] == [403, 403]
            assert {answer.json()["code"] for answer in refused} == {"permission_denied"}
        assert getattr(APIClient(), method)(f"{PATH}/{third}").status_code == 401
        for number in (999999, 10**30):
            unknown = getattr(api, method)(f"{PATH}/{number}", {})
            assert (unknown.status_code, unknown.json()["code"]) == (404, "share_unknown")
    assert api.patch(f"{PATH}/{third}", {"description": "seen"}).status_code == 200
    assert api.delete(f"{PATH}/{third}").status_code == 204


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_has_ended_is_not_shown_as_live(
    mine: APIClient, api: APIClient, filled: Lab, ending: str, django_assert_num_queries: Any
) -> None:
    made = [mine.post(PATH, BODY).json() for _ in range(3)]
    living = client_of(make_maker()).post(PATH, BODY).json()["id"]
    for one in made:
        end(Share.objects.get(pk=one["id"]), ending, at=timezone.now())
    state = ending.replace(" ", "_") if ending in ("revoked", "expired", "used up") else "denied"
    with django_assert_num_queries(4):  # who asks, and its grants; the shares; their makers
        shown = api.get(PATH).json()["results"]
    assert {one["id"]: one["state"] for one in shown} == {**{one["id"]: state for one in made}, living: "live"}
    assert api.get(f"{PATH}/{made[0]['id']}").json()["state"] == state
    if state == "denied":
        assert api.patch(f"{PATH}/{made[0]['id']}", {"description": "d"}).json()["state"] == state


def test_changing(mine: APIClient, maker: ApiKey, filled: Lab) -> None:
    made = mine.post(PATH, BODY).json()
    path = f"{PATH}/{made['id']}"
    changed = mine.patch(path, {"max_downloads": 5, "password": "p", "description": "d"}).json()
    assert (changed["max_downloads"], changed["has_password"], changed["description"]) == (5, True, "d")
    again = mine.patch(path, changed | {"password": None}).json()  # what was got can be sent back
    assert again == changed | {"has_password": False}
    for wrong in ({"bucket": "other"}, {"key": "a"}, {"inline": True}, {"id": 0}, {"api_key": 7}):
        refused = mine.patch(path, {"description": "e", **wrong})
        assert (refused.status_code, list(refused.json()["errors"])) == (400, list(wrong)), wrong
    assert mine.get(path).json() == again
    assert mine.patch(path, {"expires_at": "2001-01-01T00:00:00Z"}).status_code == 400
    assert mine.patch(path, {"nonsense": 1}).status_code == 400
    Share.objects.update(download_count=4)
    assert mine.patch(path, again).json()["download_count"] == 4  # a count that was got before is no wish
    refused = mine.patch(path, {"one_time": True})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["max_downloads"])
    ApiKey.objects.filter(pk=maker.pk).update(permissions=int(Permission.SHARE))
    from keys.selectors import forget_rights

    forget_rights()
    assert mine.patch(path, {"max_downloads": None}).status_code == 403


def test_revoking(mine: APIClient, filled: Lab) -> None:
    made = mine.post(PATH, BODY).json()
    path = f"{PATH}/{made['id']}"
    assert mine.delete(path).status_code == 204
    assert mine.delete(path).status_code == 204
    shown = mine.get(path).json()
    assert shown["state"] == "revoked"
    assert shown["revoked_at"]
    refused = mine.patch(path, {"expires_at": None})
    assert (refused.status_code, refused.json()["code"]) == (409, "share_revoked")
