"""Calls of the master's API: tokens, repeats, problem documents."""

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import requests
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar

from warehouse._retry import Backoff, retry_after_s
from warehouse.errors import ConnectionFailed, OutcomeUnknown, ProtocolError, Unauthorized, Unavailable, api_error
from warehouse.transfer import TransferConfig

_FIRST_TRIES = 3
"""A master that never answered yet is more likely a wrong URL than one that is being restarted."""
_MARGIN_S = 30.0
"""A token is renewed this long before it ends, or after four fifths of its life where that is shorter."""

NO_CONTENT = 204


class _Bearer(AuthBase):
    """Sets the token itself, so that requests does not put a password from ~/.netrc in its place."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Master:
    """The API of one master under one key. Any number of threads may call it at the same time."""

    def __init__(self, url: str, key: str, config: TransferConfig, *, user_agent: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the store's URL must start with http:// or https://, not {url!r}")
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("the key is empty or is no key")
        self._base = url.rstrip("/") + "/api/v1/"
        self._key = key
        self._config = config
        self._user_agent = user_agent
        self._idle: deque[requests.Session] = deque()
        self._reached = False
        self._token = ""
        self._token_lock = threading.Lock()
        self._renew_at = 0.0

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Any:
        """The decoded answer (None for an empty one).

        Repeats while the master cannot be reached or says 503. Where a second time would not be the same as once
        (``repeatable=False``) a lost answer raises OutcomeUnknown. Raises ApiError for a refusal.
        """
        token = self._current_token()
        try:
            return self._repeat(method, path, token, body, params=params, headers=headers, repeatable=repeatable)
        except Unauthorized:
            token = self._renewed_token(token)
            return self._repeat(method, path, token, body, params=params, headers=headers, repeatable=repeatable)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def renew_token(self) -> None:
        """Take a new token now: what was signed under the old one is refused."""
        self._renewed_token(self._token)

    def _current_token(self) -> str:
        if time.monotonic() < self._renew_at:
            return self._token
        return self._renewed_token(self._token)

    def _renewed_token(self, stale: str) -> str:
        """A token other than ``stale``: of all threads that found it stale, one asks for a new one."""
        with self._token_lock:
            if self._token != stale and time.monotonic() < self._renew_at:
                return self._token
            answer = self._repeat(
                "POST", "tokens", None, {"key": self._key}, params=None, headers=None, repeatable=True
            )
            try:
                token, life_s = str(answer["access"]), float(answer["expires_in"])
            except (TypeError, KeyError, ValueError) as error:
                raise ProtocolError(f"{self._base}tokens does not answer like a Warehouse master") from error
            self._renew_at = time.monotonic() + max(life_s - _MARGIN_S, life_s * 0.8)
            self._token = token
            return token

    def _repeat(
        self,
        method: str,
        path: str,
        token: str | None,
        body: Mapping[str, Any] | None,
        *,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        repeatable: bool,
    ) -> Any:
        backoff = Backoff(self._config)
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(method, path, token, body, params, headers)
            except Unavailable as error:
                if not backoff.pause(at_least_s=retry_after_s(str(error.problem.get("retry_after", "")))):
                    raise
            except requests.ConnectionError as error:
                sent = not _never_connected(error)
                if sent and not repeatable:
                    raise OutcomeUnknown(f"{self._base}{path}: the answer was lost") from error
                if (not self._reached and tries >= _FIRST_TRIES) or not backoff.pause():
                    raise ConnectionFailed(f"nobody answers at {self._base} ({_reason(error)})") from error
            except requests.Timeout as error:
                if not repeatable:
                    raise OutcomeUnknown(f"{self._base}{path}: no answer in time") from error
                if not backoff.pause():
                    raise ConnectionFailed(f"{self._base}{path}: no answer in time") from error
            except requests.RequestException as error:
                raise ConnectionFailed(f"{self._base}{path}: {error}") from error

    def _once(
        self,
        method: str,
        path: str,
        token: str | None,
        body: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> Any:
        request_id = uuid4().hex
        sent_headers = {"X-Request-Id": request_id, "Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            sent_headers["Content-Type"] = "application/json"
        session = self._session()
        try:
            response = session.request(
                method,
                self._base + path,
                data=data,
                params=params,
                headers=sent_headers,
                auth=_Bearer(token),
                timeout=(self._config.connect_timeout_s, self._config.io_timeout_s),
                allow_redirects=False,
            )
        except BaseException:
            session.close()
            raise
        self._idle.append(session)
        self._reached = True
        if response.ok and not response.content and response.status_code != NO_CONTENT:
            # A connection that ends within the head of an answer takes its length along: requests sees an empty body.
            raise requests.ConnectionError("the answer broke off")
        try:
            answer = response.json() if response.content else None
        except requests.JSONDecodeError:
            answer = None
            if response.ok:
                raise ProtocolError(f"{self._base}{path} does not answer like a Warehouse master") from None
        if 300 <= response.status_code < 400:
            where = response.headers.get("Location", "elsewhere")
            raise ProtocolError(f"{self._base}{path} points to {where}: use that as the store's URL")
        if response.ok:
            return answer
        problem = dict(answer) if isinstance(answer, dict) else {}
        if "Retry-After" in response.headers:
            problem.setdefault("retry_after", response.headers["Retry-After"])
        raise api_error(
            response.status_code,
            problem,
            request_id=response.headers.get("X-Request-Id", request_id),
            default=f"{method} {self._base}{path}: {response.reason}",
        )

    def _session(self) -> requests.Session:
        """A session that no other thread is using."""
        try:
            return self._idle.pop()
        except IndexError:
            session = requests.Session()
            session.headers["User-Agent"] = self._user_agent
            session.cookies = _NoCookies()
            return session


class _NoCookies(RequestsCookieJar):
    """A session cookie would be a second way to be someone."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        return None


def bucket_path(bucket: str, *rest: str) -> str:
    """Path below /api/v1/ of a bucket and of what belongs to it. Raises Invalid."""
    return "/".join(("buckets", percent_encoded(bucket, field="bucket"), *rest))


def key_path(key: str) -> str | None:
    """A key as the end of a path, or None for keys that no path can spell: those with `.` or `..` segments.

    Raises Invalid.
    """
    if any(segment in (".", "..") for segment in key.split("/")):
        return None
    return percent_encoded(key, field="key", safe="/")


def percent_encoded(text: str, *, field: str, safe: str = "") -> str:
    """As it stands in a URL or a header. Raises Invalid, as the store would if it could be told."""
    return quote(require_utf8(text, field=field), safe=safe)


def require_utf8(text: str, *, field: str) -> str:
    """The text itself. Raises Invalid for lone surrogates, which no URL or header can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = "This is no text that UTF-8 can hold."
        raise api_error(400, {"code": "invalid", "detail": wrong, "errors": {field: [wrong]}}) from error
    return text


def _never_connected(error: requests.ConnectionError) -> bool:
    cause: Any = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    return isinstance(error, requests.exceptions.ConnectTimeout) or type(reason).__name__ in (
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
    )


def _reason(error: requests.ConnectionError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "the connection was lost"
