"""What a client's request means: presigned PUT, GET and HEAD of needles, and CORS preflights."""

import logging
import re
import uuid
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from volume_server import meta as metas
from volume_server import responses
from volume_server.clock import Clock
from volume_server.commit import NO_ATTRIBUTES, Attributes, Committer, Put
from volume_server.errors import DiskFull, NeedleTaken, StoreError, VolumeSealed
from volume_server.http1 import HttpError, Request
from volume_server.leases import Gate, Lease
from volume_server.server import SMALL_BODY_BYTES, Body, Connection, Listener
from volume_server.store import Store
from volume_server.volume import OUT_OF_SPACE, Claim, Needle

log = logging.getLogger(__name__)

_NEEDLE_TARGET = re.compile(rb"/[0-9]|[^?]*\?.*sig=")
"""What was meant as a needle's URL: a volume, or a signature. Whatever is wrong with it, it is 403, not 404."""
_RANGE = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")
_CRC = re.compile(rb"[0-9a-f]{8}\Z")
_CONTENT_TYPE = re.compile(rb"[\x20-\x7e]{1,255}\Z")
_META_NAME = re.compile(r"[a-z0-9-]{1,64}\Z")
_READS = frozenset({b"GET", b"HEAD"})
_UNJUDGED = (b"if-modified-since", b"if-unmodified-since")
_META_PREFIX = b"warehouse-meta-"
_CORS_EXPOSED = b"Access-Control-Expose-Headers: ETag, Content-Range, X-Request-Id"


class NeedleConnection(Connection):
    """A connection that knows which origins may read its answers."""

    __slots__ = ("origins",)
    origins: "Origins"

    def extra_headers(self) -> tuple[bytes, ...]:
        origin = self.request.block.fields.get(b"origin") if self.request is not None else None
        if origin is None or not self.origins.allow(origin):
            return ()
        return (b"Access-Control-Allow-Origin: " + origin, b"Vary: Origin", _CORS_EXPOSED)


class Origins:
    """The web origins whose pages may talk to this server; the master's own is always among them."""

    def __init__(self, master_url: str) -> None:
        parts = urlsplit(master_url)
        self.master = f"{parts.scheme}://{parts.netloc}".encode()
        self.allowed: frozenset[bytes] = frozenset()

    def allow(self, origin: bytes) -> bool:
        return origin == self.master or origin in self.allowed or b"*" in self.allowed


class NeedleRoutes:
    """`PUT`, `GET`, `HEAD` and `OPTIONS` of `/{volume}/{needle}`."""

    def __init__(self, store: Store, gate: Gate, committer: Committer, clock: Clock, listener: Listener) -> None:
        self.store = store
        self.gate = gate
        self.committer = committer
        self.clock = clock
        self.listener = listener

    def handle(self, connection: Connection, request: Request) -> None:
        method = request.method
        if method == b"OPTIONS":
            self._preflight(connection, request)
        elif not _NEEDLE_TARGET.match(request.target):
            raise HttpError(404, "not_found", "nothing is here")
        elif method in _READS:
            self._get(connection, request)
        elif method == b"PUT":
            self._put(connection, request)
        else:
            raise HttpError(403, "signature_invalid", f"no URL is ever signed for {method.decode()}")

    # -- GET and HEAD --------------------------------------------------------------------------------------------

    def _get(self, connection: Connection, request: Request) -> None:
        block = request.block
        require_no_body(request)
        allowed = self.gate.admit_get(request.target)
        volume = self.store.volume(allowed.volume)
        data = volume.read(allowed.needle, SMALL_BODY_BYTES)
        if data is not None:
            size, data_offset = len(data), 0
        else:
            needle = volume.look(allowed.needle)
            size, data_offset = needle.header.data_bytes, needle.data_offset
        answer = Selection(200, 0, size, b"")
        if not block.plain:
            answer = select(request, allowed.etag, size, connection.extra_headers())
        head = responses.needle_head(
            answer.status,
            content_length=answer.length,
            content_type=allowed.content_type,
            etag=allowed.etag,
            disposition=allowed.disposition,
            extra=answer.extra,
            request_id=connection.request_id,
            close=connection.closes,
        )
        if request.method == b"HEAD" or answer.status == 304:
            connection.respond(head)
        elif data is not None:
            connection.respond(head + data[answer.start : answer.start + answer.length])
        else:
            connection.send_file(head, volume.fd, data_offset + answer.start, answer.length)

    def plain_get(self, target: bytes, request_id: bytes) -> bytes | None:
        try:
            allowed = self.gate.admit_get(target)
            data = self.store.volume(allowed.volume).read(allowed.needle, SMALL_BODY_BYTES)
        except (HttpError, StoreError):
            return None  # the long way finds it again, and answers it
        if data is None:
            return None
        head = responses.needle_head(
            200,
            content_length=len(data),
            content_type=allowed.content_type,
            etag=allowed.etag,
            disposition=allowed.disposition,
            extra=b"",
            request_id=request_id,
            close=False,
        )
        return head + data

    # -- PUT -----------------------------------------------------------------------------------------------------

    def _put(self, connection: Connection, request: Request) -> None:
        lease, number = self.gate.admit_put(request.target)
        put = self._plan(connection, request, lease, number)
        if put.size_bytes <= SMALL_BODY_BYTES:
            body = connection.whole_body()
            if body is not None:
                self._put_whole(connection, put, body)
            else:
                connection.expect_body(partial(self._put_whole, connection, put), limit=SMALL_BODY_BYTES)
        else:
            self._put_stream(connection, put)

    def _plan(self, connection: Connection, request: Request, lease: Lease, number: int) -> Put:
        """All that can be judged before the body. Raises HttpError, VolumeUnknown."""
        intent, own = lease.intent, request.own
        size = own.content_length
        if size is None:
            raise HttpError(411, "length_required", "send a Content-Length")
        if size > intent.max_bytes:
            raise HttpError(413, "payload_too_large", f"the lease allows {intent.max_bytes} bytes")
        if intent.exact and size != intent.max_bytes:
            raise HttpError(400, "size_mismatch", f"the lease demands {intent.max_bytes} bytes exactly")
        volume = self.store.volume(intent.volume)
        declared = own.crc
        if declared is not None and not _CRC.match(declared):
            raise HttpError(400, "bad_request", "Warehouse-CRC32 is 8 lower-case hex digits")
        attributes = request.block.attributes
        if attributes is None:
            attributes = request.block.attributes = _attributes(request.block.fields)
        assert isinstance(attributes, Attributes)
        key = None
        if intent.key_fixed:
            if own.key is not None:
                raise HttpError(400, "key_invalid", "this lease fixes the key; leave Warehouse-Key away")
            if intent.upload is not None:
                if attributes.if_match or attributes.if_none_match:
                    raise HttpError(400, "bad_request", "conditions of an upload are given when it is made")
                attributes = NO_ATTRIBUTES
        else:
            if own.key is None:
                raise HttpError(400, "key_invalid", "Warehouse-Key is missing")
            key = _key(own.key)
            if not key.startswith(intent.key):
                raise HttpError(403, "key_outside_lease", f"the lease allows keys that start with {intent.key!r}")
        return Put(
            volume,
            lease,
            number,
            size,
            _meta(lease.raw, key or "", attributes),
            self.clock.now_ms(),
            partial(self._answer_put, connection, connection.request_id),
            key,
            attributes,
            None if declared is None else int(declared, 16),
        )

    def _answer_put(self, connection: Connection, request_id: bytes, status: int, body: dict[str, object]) -> None:
        answers = self.listener.counters.answers
        answers[status] = answers.get(status, 0) + 1
        if status >= 400:
            body = {**body, "request_id": request_id.decode()}
        close = connection.closes
        raw = responses.document(
            status,
            body,
            request_id=request_id,
            headers=connection.extra_headers(),
            content_type=responses.JSON if status < 300 else responses.PROBLEM,
            close=close,
        )
        connection.respond(raw, close=close)

    def _put_whole(self, connection: Connection, put: Put, body: Body) -> None:
        put.data_crc = zlib.crc32(body)
        _check_crc(put)
        volume = put.volume
        if volume.cut is not None:
            volume.cut.append(self._later(connection, lambda: self._put_whole(connection, put, body)))
            return
        if not put.lease.has_room(put.size_bytes) and not volume.is_taken(put.needle):
            raise put.lease.exhausted()
        try:
            claim = volume.enqueue(
                put.needle, put.meta, body, data_crc=put.data_crc, appended_ms=put.appended_ms
            )  # fmt: skip
        except NeedleTaken:
            self._repeat_whole(connection, put, body)
            return
        put.lease.charge(put.size_bytes)
        self.committer.commit(put, claim)

    def _repeat_whole(self, connection: Connection, put: Put, body: Body) -> None:
        volume = put.volume
        claim = volume.claims.get(put.needle)
        if claim is not None:  # the same id is on its way: wait for its sync, then look again
            claim.waiters.append(self._later(connection, lambda: self._put_whole(connection, put, body)))
            return
        if not volume.same_data(self._standing(put), body, 0):
            raise NeedleTaken(f"needle {put.needle:016x} holds other bytes")
        self.committer.confirm(put)

    def _put_stream(self, connection: Connection, put: Put) -> None:
        """Nothing is reserved before the body can be taken."""
        connection.when_streams_allow(partial(self._open_stream, connection, put))

    def _open_stream(self, connection: Connection, put: Put) -> None:
        volume = put.volume
        if volume.cut is not None:
            volume.cut.append(self._later(connection, lambda: self._put_stream(connection, put)))
            return
        claim = volume.claims.get(put.needle)
        if claim is not None:
            claim.waiters.append(self._later(connection, lambda: self._put_stream(connection, put)))
            return
        if volume.stored_length(put.needle) is not None:
            connection.stream_body(RepeatSink(self, connection, put, self._standing(put)), put.size_bytes)
            return
        put.lease.charge(put.size_bytes)
        try:
            claim = volume.reserve(put.needle, put.meta, put.size_bytes, appended_ms=put.appended_ms)
        except StoreError:
            put.lease.refund(put.size_bytes)
            raise
        connection.stream_body(AppendSink(self, connection, put, claim), put.size_bytes)

    def _standing(self, put: Put) -> Needle:
        """The live needle that has this PUT's id and meta.

        Raises NeedleTaken for another one, HttpError with its verdict for one that was refused, VolumeSealed.
        """
        volume = put.volume
        volume.require_synced(put.needle)
        if not volume.stored_length(put.needle):
            verdict = volume.verdict_of_dead(put.needle)
            if not verdict:
                raise NeedleTaken(f"needle {put.needle:016x} was deleted; ids are never used again")
            status, _, code = verdict.partition(" ")
            raise HttpError(int(status), code, "this needle was refused before")
        found = volume.look(put.needle)
        if found.meta != put.meta or found.header.data_bytes != put.size_bytes:
            raise NeedleTaken(f"needle {put.needle:016x} is of another key, other attributes or another length")
        put.appended_ms = found.header.appended_ms
        return found

    def _later(self, connection: Connection, step: Callable[[], None]) -> Callable[[], object]:
        """For a claim's waiters: take the step up again soon, unless the client has left by then."""
        return lambda: self.listener.loop.call_soon(connection.resume_with, step)

    # -- OPTIONS -------------------------------------------------------------------------------------------------

    def _preflight(self, connection: Connection, request: Request) -> None:
        require_no_body(request)
        fields = request.block.fields
        headers = list(connection.extra_headers())
        if headers and b"access-control-request-method" in fields:
            headers.append(b"Access-Control-Allow-Methods: GET, HEAD, PUT, OPTIONS")
            asked = fields.get(b"access-control-request-headers")
            if asked:
                headers.append(b"Access-Control-Allow-Headers: " + asked)
            headers.append(b"Access-Control-Max-Age: 600")
        else:
            headers.append(b"Allow: GET, HEAD, PUT, OPTIONS")
        raw = responses.head(
            204, content_length=None, headers=headers, request_id=connection.request_id, close=connection.closes
        )
        connection.respond(raw)


class AppendSink:
    """A large body on its way into reserved space."""

    def __init__(self, routes: NeedleRoutes, connection: Connection, put: Put, claim: Claim) -> None:
        self.routes = routes
        self.connection = connection
        self.put = put
        self.claim = claim

    def write(self, data: memoryview, at: int) -> None:
        self.put.volume.write_data(self.claim, data, at)

    def complete(self, crc: int) -> None:
        self.put.data_crc = crc
        _check_crc(self.put)
        self.put.volume.finish(self.claim, data_crc=crc)

    def done(self, crc: int) -> None:
        self.routes.committer.commit(self.put, self.claim)

    def abandoned(self, error: Exception | None) -> None:
        put = self.put
        if isinstance(error, OSError):
            if error.errno in OUT_OF_SPACE:
                error = DiskFull("the disk filled up while the body came in")
            else:
                put.volume.seal(f"a write failed: {error}")
                error = VolumeSealed(f"volume {put.volume.number} is sealed: {put.volume.sealed}")
        if put.volume.abort(self.claim):
            put.lease.refund(put.size_bytes)
        answer_failure(self.connection, error)


class RepeatSink:
    """A large body that is compared with the needle that already stands under its id."""

    def __init__(self, routes: NeedleRoutes, connection: Connection, put: Put, needle: Needle) -> None:
        self.routes = routes
        self.connection = connection
        self.put = put
        self.needle = needle
        put.volume.hold_count += 1  # until the end the needle lies where it was found

    def write(self, data: memoryview, at: int) -> None:
        if self.put.volume.held_back is not None:
            raise self.put.volume.degraded()  # its file may be about to be another one, which waits for this
        if not self.put.volume.same_data(self.needle, data, at):
            raise NeedleTaken(f"needle {self.put.needle:016x} holds other bytes")

    def complete(self, crc: int) -> None:
        self.put.data_crc = crc
        _check_crc(self.put)

    def done(self, crc: int) -> None:
        self.put.volume.hold_count -= 1
        self.routes.committer.confirm(self.put)

    def abandoned(self, error: Exception | None) -> None:
        self.put.volume.hold_count -= 1
        answer_failure(self.connection, error)


def answer_failure(connection: Connection, error: Exception | None) -> None:
    if error is None:
        return  # the client is gone
    if isinstance(error, StoreError):
        error = HttpError(error.status, error.code, error.detail)
    elif not isinstance(error, HttpError):
        log.error("request %s failed", connection.request_id.decode(), exc_info=error)
        error = HttpError(500, "internal", "something went wrong here; the log says what")
    connection.refuse(error)


class Selection(NamedTuple):
    """Which bytes of a needle answer a GET, and how."""

    status: int
    start: int
    length: int
    extra: bytes


def select(request: Request, etag: bytes, size: int, headers: tuple[bytes, ...]) -> Selection:
    """Conditions and range of a GET or HEAD (RFC 9110 sections 13 and 14). Raises HttpError 412, 416."""
    fields = request.block.fields
    extra = b"".join(line + b"\r\n" for line in headers)
    if not _matches(fields.get(b"if-match"), etag, absent=True):
        raise HttpError(412, "precondition_failed", "If-Match names another version")
    if _matches(fields.get(b"if-none-match"), etag, absent=False):
        return Selection(304, 0, size, extra)
    asked = fields.get(b"range") if request.method == b"GET" else None  # a range means nothing to other methods
    if asked is None or fields.get(b"if-range", etag) != etag:
        return Selection(200, 0, size, extra)
    found = parse_range(asked, size)
    if found is None:
        return Selection(200, 0, size, extra)
    start, count = found
    if count <= 0:
        raise HttpError(416, "range_invalid", f"the needle has {size} bytes", (b"Content-Range: bytes */%d" % size,))
    return Selection(206, start, count, extra + b"Content-Range: bytes %d-%d/%d\r\n" % (start, start + count - 1, size))


def parse_range(value: bytes, size: int) -> tuple[int, int] | None:
    """(start, count) of a single byte range (RFC 9110 section 14); count 0: unsatisfiable; None: ignore the header."""
    match = _RANGE.match(value)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return size - count, count
    start = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return None
    return start, max(last - start + 1, 0)


def _matches(header: bytes | None, etag: bytes, *, absent: bool) -> bool:
    """Whether a list of entity tags holds this one (RFC 9110 section 13.1); ``absent``: the answer without header."""
    if header is None:
        return absent
    if header == b"*":
        return True
    # If-None-Match compares weakly, If-Match strongly: a weak tag never matches there
    return any(
        (candidate.strip() if absent else candidate.strip().removeprefix(b"W/")) == etag
        for candidate in header.split(b",")
    )


def require_no_body(request: Request) -> None:
    """A body that nobody reads would be taken for the next request. Raises HttpError 400."""
    if request.own.content_length:
        raise HttpError(400, "bad_request", "a body is not taken here")


def _check_crc(put: Put) -> None:
    if put.declared_crc is not None and put.declared_crc != put.data_crc:
        raise HttpError(
            400, "crc_mismatch", f"the body's CRC-32 is {put.data_crc:08x}, {put.declared_crc:08x} was declared"
        )


def _percent_decoded(value: bytes) -> str:
    """Raises ValueError where it is not percent-encoded UTF-8."""
    if not value.isascii():
        raise ValueError("a byte that is not ASCII")
    if b"%" not in value:
        return value.decode()
    raw = unquote_to_bytes(value)  # leaves a % alone that no two hex digits follow; an escape gets shorter by 2
    if len(value) - len(raw) != 2 * value.count(b"%"):
        raise ValueError("a % that no two hex digits follow")
    return raw.decode()


def _attributes(fields: dict[bytes, bytes]) -> Attributes:
    """What a PUT's headers say of the object besides its key. Raises HttpError 400."""
    metadata = _metadata(fields)
    content_type = fields.get(b"content-type")
    if content_type is not None and not _CONTENT_TYPE.match(content_type):
        raise HttpError(400, "metadata_invalid", "Content-Type is at most 255 characters of ASCII")
    condition = fields.get(b"if-none-match")
    if condition not in (None, b"*"):
        raise HttpError(400, "bad_request", "a PUT takes If-None-Match: * only")
    for name in _UNJUDGED:
        if name in fields:
            raise HttpError(400, "bad_request", f"a PUT takes no {name.decode().title()}; it would not be judged")
    if_match = fields.get(b"if-match")
    if if_match == b"":
        raise HttpError(400, "bad_request", "If-Match is empty: * or a list of ETags, or leave it out")
    return Attributes(
        content_type.decode() if content_type else None,
        metadata or None,
        None if if_match is None else if_match.decode("latin-1"),
        condition is not None,
    )


def _meta(intent: bytes, key: str, attributes: Attributes) -> bytes:
    """Raises HttpError 400 where something is too long."""
    if not (attributes.metadata or attributes.if_match or attributes.if_none_match):
        return metas.encode_plain(intent, key, attributes.content_type or "")
    try:
        return metas.encode(
            metas.Meta(
                intent=intent,
                key=key,
                content_type=attributes.content_type or "",
                if_match=attributes.if_match or "",
                if_none_match=attributes.if_none_match,
                metadata=attributes.metadata or {},
            )
        )
    except metas.MetaInvalid as error:
        raise HttpError(400, "metadata_invalid", str(error)) from error


def _key(raw: bytes) -> str:
    try:
        key = _percent_decoded(raw)
    except ValueError as error:
        raise HttpError(400, "key_invalid", f"Warehouse-Key is percent-encoded UTF-8: {error}") from error
    if not 1 <= len(key.encode()) <= metas.MAX_KEY_BYTES or "\0" in key:
        raise HttpError(400, "key_invalid", f"a key has 1 to {metas.MAX_KEY_BYTES} bytes and no NUL")
    return key


def _metadata(fields: dict[bytes, bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    names = [name for name in fields if name.startswith(_META_PREFIX)]
    for name in names:
        value = fields[name]
        short = name[len(_META_PREFIX) :].decode("latin-1")
        if not _META_NAME.match(short):
            raise HttpError(400, "metadata_invalid", f"{short!r} is not a name of 1 to 64 characters a-z 0-9 -")
        try:
            found[short] = _percent_decoded(value)
        except ValueError as error:
            raise HttpError(400, "metadata_invalid", f"{short} is percent-encoded UTF-8: {error}") from error
    if sum(len(name) + len(value.encode()) for name, value in found.items()) > metas.MAX_METADATA_BYTES:
        raise HttpError(400, "metadata_invalid", f"metadata has at most {metas.MAX_METADATA_BYTES} bytes in all")
    return found


def new_instance() -> str:
    return uuid.uuid4().hex
