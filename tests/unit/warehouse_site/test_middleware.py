import logging

import pytest
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory
from pytest_django import Settings

from keys.permissions import Permission
from keys.services.keys import create_key
from warehouse_site import logs, middleware


@pytest.mark.parametrize("given", ["abc", "A-Z_0.9", "x" * 64])
def test_a_good_request_id_is_taken_over(client: Client, given: str) -> None:
    assert client.get("/", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "é", "a\nb", "<script>"])
def test_another_one_is_replaced(client: Client, given: str) -> None:
    made = client.get("/", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert made != given
    assert len(made) == 32


def test_log_lines_name_the_request(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(logs.RequestIdFilter())
    client.get("/api/v1/nowhere", headers={"X-Request-Id": "my-request"})
    [record] = [record for record in caplog.records if record.name == "django.request"]
    assert record.request_id == "my-request"  # type: ignore[attr-defined]
    assert logs.request_id.get() == logs.NO_REQUEST


def test_json_lines_hold_what_was_said() -> None:
    import json

    record = logging.LogRecord("some.logger", logging.WARNING, __file__, 1, "%s é", ("text",), None)
    record.volume = 7
    line = json.loads(logs.JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"], line["volume"]) == ("warning", "some.logger", "text é", 7)
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/", {}),
        ("/admin/login/", {}),
        ("/admin/", {}),
        ("/nowhere", {}),
        ("/api/v1", {}),
        ("/api/v1/buckets", {}),
        ("/api/v1/nowhere", {}),
        ("/api/schema", {}),
        ("/.well-known/jwks.json", {}),
        ("/static/warehouse/admin.css", {}),
        ("/static/nothing.css", {}),
        ("/", {"HTTP_HOST": "somebody.else"}),
        ("/api/v1/tokens", {"CONTENT_LENGTH": str(1 << 40)}),
    ],
)
@pytest.mark.django_db
def test_every_answer_has_the_security_headers(client: Client, path: str, options: dict[str, str]) -> None:
    headers = client.get(path, **options).headers  # type: ignore[arg-type]
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.django_db
def test_a_host_that_is_refused_before_the_redirect_to_https(client: Client, settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    refused = client.get("/", HTTP_HOST="somebody.else")
    assert (refused.status_code, refused.headers["X-Frame-Options"]) == (400, "DENY")


@pytest.mark.parametrize("path", ["/api/docs", "/api/v1"])
def test_pages_of_the_api_alone_may_have_styles_in_them(client: Client, path: str) -> None:
    policy = client.get(path, headers={"Accept": "text/html"}).headers["Content-Security-Policy"]
    assert "style-src 'self' 'unsafe-inline'" in policy
    assert "script-src" not in policy


@pytest.mark.django_db
class TestForms:
    """What another site could have a browser send for somebody who is signed in."""

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("post", "/admin/buckets/bucket/add/"),
            ("post", "/admin/keys/apikey/1/delete/"),
            ("post", "/admin/logout/"),
            ("post", "/admin/login/"),
            ("post", "/api/auth/sign-in"),
            ("post", "/api/auth/sign-out"),
            ("post", "/api/v1/buckets"),
            ("patch", "/api/v1/keys/1"),
            ("delete", "/api/v1/keys/1"),
        ],
    )
    def test_a_form_without_its_token_is_refused(self, method: str, path: str) -> None:
        client = Client(enforce_csrf_checks=True)
        key = create_key(actor=None, name="k", permissions=int(Permission.ADMIN)).key
        client.force_login(key)
        answer = getattr(client, method)(path)
        assert answer.status_code == 403
        key.refresh_from_db()
        if path.startswith("/api/v1/"):
            assert answer.json()["code"] == "permission_denied"
        else:
            assert "load the page again" in (answer.content.decode() + str(answer.headers)) or path.startswith("/api/")

    def test_cookies_are_kept_from_scripts_and_other_sites(self, client: Client) -> None:
        key = create_key(actor=None, name="k", permissions=int(Permission.ADMIN))
        client.get("/admin/login/")
        answer = client.post("/admin/login/", {"key": key.text, "next": "/admin/"})
        assert answer.status_code == 302
        session = answer.cookies["sessionid"]
        assert (session["httponly"], session["samesite"], session["secure"]) == (True, "Lax", "")
        assert answer.cookies["csrftoken"]["samesite"] == "Lax"


def test_a_views_own_policy_stands() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(headers={"Content-Security-Policy": "sandbox"})

    response = middleware.SecurityHeadersMiddleware(view)(RequestFactory().get("/"))
    assert response.headers["Content-Security-Policy"] == "sandbox"


def test_bodies_beyond_all_need_are_refused_unread(client: Client, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    response = client.post("/api/v1/tokens", {"key": "x" * 200}, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_head_has_no_body_and_the_length_of_a_get(client: Client) -> None:
    whole = client.get("/")
    response = middleware.HeadMiddleware(lambda _: HttpResponse(b"12345", headers={"Content-Length": "5"}))(
        RequestFactory().head("/")
    )
    assert isinstance(response, HttpResponse)
    assert (response.content, response.headers["Content-Length"]) == (b"", "5")
    assert client.head("/").headers["Content-Length"] == str(len(whole.content))


def test_head_closes_what_would_have_been_streamed(db: None) -> None:
    closed = []

    class Body:
        def __iter__(self) -> "Body":
            return self

        def __next__(self) -> bytes:
            raise AssertionError("nothing is to be read")

        def close(self) -> None:
            closed.append(True)

    response = middleware.HeadMiddleware(lambda _: StreamingHttpResponse(Body()))(RequestFactory().head("/"))
    assert isinstance(response, StreamingHttpResponse)
    assert b"".join(response.streaming_content) == b""  # type: ignore[arg-type]
    response.close()
    assert closed == [True]


class TestInternal:
    CONFIRM = "/api/v1/internal/confirm"

    def test_no_session_is_looked_for(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def process_request(*_: object) -> None:
            raise AssertionError("volume servers have no session")

        monkeypatch.setattr(SessionMiddleware, "process_request", process_request)
        response = client.post(self.CONFIRM, "{}", content_type="application/json")
        assert (response.status_code, response.json()["code"]) == (401, "signature_invalid")
        with pytest.raises(AssertionError):
            client.post("/api/v1/tokens")

    def test_answers_are_framed_and_guarded_like_all_others(self, client: Client) -> None:
        response = client.post(self.CONFIRM, "{}", content_type="application/json", headers={"X-Request-Id": "mine"})
        assert response.headers["Content-Length"] == str(len(response.content))
        assert response.headers["X-Request-Id"] == "mine"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "unsafe-inline" not in response.headers["Content-Security-Policy"]

    def test_large_bodies_are_refused_unread(self, client: Client, settings: Settings) -> None:
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
        response = client.post(self.CONFIRM, "x" * 200, content_type="application/json")
        assert (response.status_code, response.json()["code"]) == (413, "too_large")

    def test_an_unknown_call_is_a_404(self, client: Client) -> None:
        response = client.post("/api/v1/internal/nowhere")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    def test_what_fails_is_a_500_without_a_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("a secret detail")

        monkeypatch.setattr("buckets.api.internal_views.authenticate", fail)
        response = Client(raise_request_exception=False).post(self.CONFIRM, "{}", content_type="application/json")
        assert (response.status_code, response["Content-Type"]) == (500, "application/problem+json")
        assert b"secret detail" not in response.content


def test_nonsense_in_an_address_is_a_page_to_browsers_and_a_problem_to_programs(client: Client, db: None) -> None:
    page = client.get("/buckets?prefix=%ff", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.status_code == 400
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"The query is not UTF-8." in page.content
    for path, accept in (("/buckets?prefix=%ff", "*/*"), ("/api/v1/buckets?after=%ff", "text/html")):
        problem = client.get(path, headers={"Accept": accept})
        assert (problem.status_code, problem.headers["Content-Type"]) == (400, "application/problem+json")
