"""Reading buckets, objects and uploads."""

import json
import re
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Sum, Value
from django.db.models.functions import StrIndex
from django.db.models.lookups import GreaterThan
from django.utils import timezone

from buckets.errors import BucketDeleting, BucketUnknown, ObjectUnknown, ShareUnknown, UploadUnknown
from buckets.filters import NO_FILTERS, Filters, starts_with
from buckets.models import IN_PROGRESS, Bucket, Chunk, Journal, JournalNeedle, Object, Proof, Share, Survey, Upload
from buckets.names import successor
from buckets.services.bulk import MAX_PARAMETERS, Row, as_datetime, run_in
from keys import secret_text
from keys.errors import Invalid, PermissionDenied
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.selectors import rights_now
from volumes.models import Store
from volumes.owners import Owner

MAX_PAGE = 1000
JOURNAL_LATE_INTERVALS = 5
JOURNAL_LATE_SECONDS = 30
"""A journal that is so many intervals and seconds behind is late: the worker is busy elsewhere, or is not there."""
MAX_LOOKED_AT = 20_000
"""Rows that a page looks at where it can't step from one that is wanted to the next. A page that found few is short,
and says how to go on: a filter that hardly ever matches must not hold a thread through millions of rows."""
MAX_RANGES = 100
"""Key ranges that one statement asks for; SQLite takes an expression of a thousand parts."""
TO_SHARE = Permission.SHARE | Permission.OBJECTS_READ
"""What a key needs on an object that it shares, for as long as the share is used."""
TO_ANYBODY = TO_SHARE
"""What a key needs on a whole bucket that it gives to everybody."""
TO_LEAVE = Permission.OBJECTS_READ | Permission.OBJECTS_DELETE
"""What a key needs on objects that get other keys."""
_PARAMETERS = 500
"""Values in one statement: all databases take so many."""
_MAX_NEEDLE = _MAX_ID = (1 << 63) - 1
_DECIMAL = re.compile(r"[0-9]{1,19}")
OPEN_BUCKETS_LIVE_S = 1.0
OPEN_BUCKETS_KEPT = 10_000

_AFTER_KEY = "\x01"
"""A key and this is the very next text in byte order, since no key holds a NUL."""


class Listed(NamedTuple):
    """An object as a page shows it."""

    id: int
    key: str
    size: int
    etag: str
    content_type: str
    updated_at: datetime
    sequence: int


_LISTED = f"SELECT {', '.join(Listed._fields)} FROM buckets_object"  # noqa: S608 - names alone are put in


@dataclass(frozen=True, slots=True)
class Page:
    """Objects, and what common prefixes stand for; ``next_after`` None: there is no more.

    Nothing else tells that: a page with filters may be short, or empty.
    """

    objects: list[Listed]
    prefixes: list[str]
    next_after: str | None


class FoundChunk(NamedTuple):
    """Which bytes of an object lie in which needle."""

    position: int
    """0 for the first."""
    offset: int
    size: int
    crc32: int
    volume_id: int
    needle: int


class Found(NamedTuple):
    """An object and its chunks in order."""

    key: str
    size: int
    etag: str
    content_type: str
    metadata: dict[str, str]
    updated_at: datetime
    chunks: list[FoundChunk]


def get_bucket(name: str, *, deleting_too: bool = False) -> Bucket:
    """Raises BucketUnknown, BucketDeleting."""
    # Nearly every call begins with this one, and to have the ORM build it takes three times as long.
    found = next(iter(Bucket.objects.raw("SELECT * FROM buckets_bucket WHERE name = %s", [name])), None)
    return require_bucket(found, name, deleting_too=deleting_too)


class OpenBucket(NamedTuple):
    """What the calls that are made most want to know of a bucket. ``chunk_size`` None: the store's own."""

    id: int
    name: str
    chunk_size: int | None
    replication: int


_open_buckets: dict[str, tuple[float, OpenBucket]] = {}
"""By name: when it was read (monotonic seconds), and what was there."""
_open_buckets_lock = threading.Lock()


def open_bucket(name: str) -> OpenBucket:
    """A fifth of the time of `get_bucket`. Raises BucketUnknown, BucketDeleting."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, chunk_size, replication FROM buckets_bucket WHERE name = %s AND deleting_at IS NULL",
            [name],
        )
        row = cursor.fetchone()
    if row is not None:
        return OpenBucket(*row)
    other = get_bucket(name)  # says why not
    return OpenBucket(other.pk, other.name, other.chunk_size, other.replication)


def lately_open_bucket(name: str) -> OpenBucket:
    """As `open_bucket`, and up to `OPEN_BUCKETS_LIVE_S` old, for what is judged again when it is used.

    What this process does to buckets is seen at once. Raises BucketUnknown, BucketDeleting.
    """
    now = time.monotonic()
    kept = _open_buckets.get(name)
    if kept is not None and now - kept[0] <= OPEN_BUCKETS_LIVE_S:
        return kept[1]
    bucket = open_bucket(name)
    with _open_buckets_lock:
        if len(_open_buckets) >= OPEN_BUCKETS_KEPT:
            _open_buckets.clear()
        _open_buckets[name] = now, bucket
    return bucket


def forget_open_buckets() -> None:
    """Lets the next `lately_open_bucket` look at the database."""
    with _open_buckets_lock:
        _open_buckets.clear()


def require_bucket(bucket: Bucket | None, name: str, *, deleting_too: bool = False) -> Bucket:
    """The bucket that was found by ``name``. Raises BucketUnknown, and BucketDeleting unless that is wanted too."""
    if bucket is None:
        raise BucketUnknown(f"There is no bucket {name!r}.")
    if bucket.is_deleting and not deleting_too:
        raise BucketDeleting(f"Bucket {name!r} is being deleted, with {bucket.object_count} objects left.")
    return bucket


def is_public(name: str) -> bool:
    """Whether anybody may read the objects of a bucket; False as well where there is no such bucket."""
    visibility = Bucket.Visibility.PUBLIC_READ
    return Bucket.objects.filter(name=name, visibility=visibility, deleting_at=None).exists()


def list_buckets(
    *, names: Iterable[str] | None = None, search: str = "", after: str = "", limit: int = MAX_PAGE
) -> QuerySet[Bucket]:
    """Up to ``limit`` buckets behind the name ``after``, by name; ``names`` None: any of them.

    ``search``: only those in whose names it stands.
    """
    buckets = Bucket.objects.filter(name__gt=after).order_by("name")
    if names is not None:
        buckets = buckets.filter(name__in=list(names))
    if search:
        buckets = buckets.filter(GreaterThan(StrIndex("name", Value(search)), 0))
    return buckets[:limit]


def get_object(*, bucket: str, key: str) -> Object:
    """One query where the object exists. Raises BucketUnknown, ObjectUnknown."""
    found = Object.objects.select_related("bucket").filter(bucket__name=bucket, key=key).first()
    if found is None:
        get_bucket(bucket)
        raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
    require_bucket(found.bucket, bucket)
    return found


def stat_objects(*, bucket_id: int, keys: Iterable[str]) -> dict[str, Object]:
    """Those of the keys that exist, without their chunks; one query (but for the database's parameter limit)."""
    wanted = list(dict.fromkeys(keys))
    found: dict[str, Object] = {}
    for start in range(0, len(wanted), MAX_PARAMETERS):
        rows = Object.objects.filter(bucket=bucket_id, key__in=wanted[start : start + MAX_PARAMETERS])
        found.update((row.key, row) for row in rows)
    return found


def objects_below(bucket_id: int, prefix: str) -> QuerySet[Object]:
    """The objects whose keys start with ``prefix``, by key."""
    return _key_range(bucket_id, prefix, successor(prefix))


class Below(NamedTuple):
    """What lies below prefixes; as far as it was counted where ``is_all`` is False."""

    objects: int
    is_all: bool


def count_below(*, bucket_id: int, prefixes: Iterable[str], limit: int) -> Below:
    """Counts up to ``limit`` objects in all. One query for each prefix that it comes to."""
    counted = 0
    for prefix in prefixes:
        counted += objects_below(bucket_id, prefix)[: limit + 1 - counted].count()
        if counted > limit:
            return Below(limit, is_all=False)
    return Below(counted, is_all=True)


def chunks_of(object_id: int, *, limit: int) -> list[Chunk]:
    """The first chunks of an object. One query."""
    return list(Chunk.objects.filter(object=object_id).order_by("index")[:limit])


def find_objects(*, bucket_id: int, keys: Iterable[str]) -> dict[str, Found]:
    """Those of the keys that exist, chunks along; one statement, so that an object and its chunks are of one version.

    Plain values instead of model instances, which would be most of the time.
    """
    found: dict[str, Found] = {}
    offset = 0
    for key, size, etag, content_type, metadata, updated_at, position, *chunk in run_in(
        'SELECT o.key, o.size, o.etag, o.content_type, o.metadata, o.updated_at, c."index", c.size, c.crc32, '  # noqa: S608 - a number alone is put in
        f"c.volume_id, c.needle FROM buckets_object o LEFT JOIN buckets_chunk c ON c.object_id = o.id "
        f'WHERE o.bucket_id = {bucket_id:d} AND o.key IN {{in}} ORDER BY o.key, c."index"',
        set(keys),
    ):
        one = found.get(key)
        if one is None:
            held = json.loads(metadata) if metadata != "{}" else {}
            one = found[key] = Found(key, size, etag, content_type, held, as_datetime(updated_at), [])
            offset = 0
        if position is not None:
            one.chunks.append(FoundChunk(position, offset, *chunk))
            offset += chunk[0]
    return found


def get_upload(upload_id: UUID) -> Upload:
    """Raises UploadUnknown."""
    upload = Upload.objects.select_related("bucket").filter(pk=upload_id).first()
    if upload is None:
        raise UploadUnknown(f"There is no upload {upload_id}.")
    return upload


def upload_keys(*, bucket: str, uploads: Iterable[UUID]) -> dict[UUID, str]:
    """The keys of those of the uploads that are in the bucket."""
    return dict(Upload.objects.filter(bucket__name=bucket, pk__in=set(uploads)).values_list("pk", "key"))


def missing_chunks(upload: Upload) -> list[int]:
    """The indexes of the chunks that an open upload lacks; none of one that is over."""
    if upload.state != Upload.State.OPEN:
        return []
    stored = set(Chunk.objects.filter(upload=upload).values_list("index", flat=True))
    return [index for index in range(upload.chunk_count) if index not in stored]


@dataclass(frozen=True, slots=True)
class SurveyProgress:
    """How far the walk over all chunks is that a change of a bucket's replication asked for."""

    done_rows: int
    total_rows: int
    raised_volumes: int


def survey_progress() -> SurveyProgress | None:
    """None: no survey is under way, or asked for and not begun. One query."""
    survey = Survey.objects.filter(pk=Survey.ONLY_ID).first()
    if survey is None:
        return None
    if survey.started_at is None:
        is_asked = survey.asked_at is not None and (survey.ended_at is None or survey.asked_at > survey.ended_at)
        return SurveyProgress(0, survey.last_row, 0) if is_asked else None
    return SurveyProgress(min(survey.cursor, survey.last_row), survey.last_row, survey.raised_volumes)


def awaited_bytes() -> int:
    """What uploads in progress, of all buckets, have still to send.

    Of those alone that were made or got a chunk while the URLs of chunks are good: who promises and sends nothing
    must not keep the store from all others for as long as an upload lives.
    """
    since = timezone.now() - timedelta(seconds=settings.WAREHOUSE_CHUNK_URL_SECONDS)
    sent = Exists(Chunk.objects.filter(upload=OuterRef("pk"), committed_at__gte=since))
    alive = Upload.objects.filter(Q(created_at__gte=since) | sent, state__in=IN_PROGRESS)
    expected = alive.aggregate(total=Sum("size"))["total"] or 0
    stored = Chunk.objects.filter(upload__in=alive).aggregate(total=Sum("size"))["total"] or 0
    return int(expected - stored)


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """How far the volumes alone could rebuild the database."""

    state: str
    """`off`; `full`: there is no room for it; `never`: no whole snapshot yet; `late`: behind by more than it should be;
    `ok`."""
    sequence: int
    """Up to this commit everything is told."""
    commits_behind: int
    lag_seconds: float | None
    """How long ago everything was told; None: never, or off."""
    detail: str


def missing_by_last_check() -> int | None:
    """Chunks without their bytes, by the last check of the whole store that ended; None: none has."""
    done = Proof.objects.filter(state=Proof.State.DONE, volume=None).order_by("-pk")
    return done.values_list("missing", flat=True).first()


def last_check() -> Proof | None:
    """The last check of the whole store that ended, without its findings."""
    return Proof.objects.filter(state=Proof.State.DONE, volume=None).defer("findings").order_by("-pk").first()


def check_in_hand() -> str:
    """How far a check that has not ended is: ``asked for`` or ``under way``; empty: there is none."""
    states = set(Proof.objects.exclude(state=Proof.State.DONE).values_list("state", flat=True))
    return "under way" if Proof.State.RUNNING in states else "asked for" if states else ""


def journal_status() -> JournalStatus:
    """Two queries."""
    journal = Journal.objects.filter(pk=Journal.ONLY_ID).first()
    sequence = Store.objects.filter(pk=Store.ONLY_ID).values_list("sequence", flat=True).first() or 0
    interval = settings.WAREHOUSE_JOURNAL_SECONDS
    told = journal.safe_sequence if journal is not None else 0
    behind = max(0, sequence - told)
    if not interval:
        return JournalStatus("off", told, behind, None, "")
    if journal is None:
        return JournalStatus("never", told, behind, None, "")
    state, lag_s = "never", None
    if journal.covers_until is not None:
        lag_s = round(max(0.0, (timezone.now() - journal.covers_until).total_seconds()), 1)
        state = "late" if lag_s > JOURNAL_LATE_INTERVALS * interval + JOURNAL_LATE_SECONDS else "ok"
    return JournalStatus("full" if journal.is_full else state, told, behind, lag_s, journal.error)


def find_owners(needles: Collection[int]) -> dict[int, list[Owner]]:
    """The objects and open uploads that each needle holds a chunk of, and parts of the journal; needles that no row
    names are left out.

    Two queries per 500 needles. What a damaged volume tells may be no needle that was ever given out, of any 64 bits.
    """
    wanted = sorted(needle for needle in needles if needle <= _MAX_NEEDLE)
    found: dict[int, list[Owner]] = {}
    for start in range(0, len(wanted), _PARAMETERS):
        rows = Chunk.objects.filter(needle__in=wanted[start : start + _PARAMETERS]).order_by("needle", "pk")
        for chunk in rows.select_related("object__bucket", "upload__bucket"):
            holder = chunk.object or chunk.upload
            assert holder is not None  # a constraint of the row
            owner = Owner(
                bucket=holder.bucket.name, key=holder.key, chunk=chunk.index, is_upload=chunk.object_id is None
            )
            found.setdefault(chunk.needle, []).append(owner)
        for part in JournalNeedle.objects.filter(needle__in=wanted[start : start + _PARAMETERS]):
            owner = Owner(bucket="", key=f"{part.kind} {part.entry}", chunk=part.part, is_journal=True)
            found.setdefault(part.needle, []).append(owner)
    return found


# --- shares ---


def find_share(share_id: int, *, api_key: int | None = None) -> Share | None:
    """One share; of one maker, where that is given."""
    shares = Share.objects.select_related("bucket").filter(pk=share_id)
    return (shares if api_key is None else shares.filter(api_key=api_key)).first()


def require_share(share_id: int, *, actor: KeyRights) -> Share:
    """One share, of the actor's own or with ADMIN any. Its `state` tells whether its maker may still share.

    Raises PermissionDenied for any number that is none of the actor's own, so that a no tells nothing; ShareUnknown.
    """
    is_all_seeing = actor.allows(Permission.ADMIN)
    share = find_share(share_id, api_key=None if is_all_seeing else actor.id)
    if share is None and not is_all_seeing:
        raise PermissionDenied(f"This key made no share {share_id}.")
    if share is None:
        raise ShareUnknown(f"There is no share {share_id}.")
    return ask_makers([share])[0]


def require_sharer(actor: KeyRights) -> None:
    """Raises PermissionDenied for a key that may share nowhere."""
    if actor.buckets(Permission.SHARE) == frozenset():
        actor.require(Permission.SHARE)


def share_of_token(token: str) -> Share:
    """The share of what stands in a link. Raises ShareUnknown."""
    found = Share.objects.select_related("bucket").filter(token_hash=secret_text.secret_hash(token)).first()
    if found is None:
        raise ShareUnknown
    return found


def list_shares(
    *, api_key: int | None = None, bucket: str = "", after: int = 0, limit: int = MAX_PAGE
) -> QuerySet[Share]:
    """Up to ``limit`` shares behind the id ``after``, by id; of one maker, or of one bucket, where these are given."""
    shares = Share.objects.select_related("bucket").filter(pk__gt=after).order_by("pk")
    if api_key is not None:
        shares = shares.filter(api_key=api_key)
    if bucket:
        shares = shares.filter(bucket__name=bucket)
    return shares[:limit]


@dataclass(frozen=True, slots=True)
class SharePage:
    """Shares, newest first. ``next_before``: where the next page begins; None: there is no more."""

    shares: list[Share]
    next_before: int | None


def newest_shares(
    *,
    api_key: int | None = None,
    bucket: str = "",
    key: str = "",
    state: str = "",
    before: int | None = None,
    limit: int = MAX_PAGE,
) -> SharePage:
    """A page of shares below the id ``before``, each asked whether its maker may still share.

    ``state`` is one of `STATES_BY_TERMS`, ``key`` that of an object, whole. A page looks at `MAX_LOOKED_AT` shares:
    with these two it may be short, even empty, and yet not the last. Three queries at the most.
    """
    shares = Share.objects.order_by("-pk")
    if api_key is not None:
        shares = shares.filter(api_key=api_key)
    if bucket:
        shares = shares.filter(bucket__name=bucket)
    if before is not None:
        shares = shares.filter(pk__lt=before)
    window_end = None
    if state or key:
        window_end = next(iter(shares.values_list("pk", flat=True)[MAX_LOOKED_AT - 1 : MAX_LOOKED_AT]), None)
        if window_end is not None:
            shares = shares.filter(pk__gte=window_end)
        if state:
            shares = shares.filter(shares_in(state, now=timezone.now()))
        if key:
            shares = shares.filter(key=key)
    found = list(shares.select_related("bucket")[: limit + 1])
    shown = ask_makers(found[:limit])
    return SharePage(shown, shown[-1].pk if len(found) > limit else window_end)


def may_still_share(maker: KeyRights | None, share: Share) -> bool:
    """Whether the API key that made a share (None: it was deleted) has the rights that each use of it asks for."""
    return maker is not None and maker.allows(TO_SHARE, bucket=share.bucket.name, key=share.key)


def ask_makers(shares: Iterable[Share]) -> list[Share]:
    """The shares, each with a `state` that tells as well whether its maker may still share. One query."""
    rows = list(shares)
    makers = rights_now(share.api_key for share in rows)
    for share in rows:
        share.may_be_shared = may_still_share(makers.get(share.api_key), share)
    return rows


STATES_BY_TERMS = (Share.State.LIVE, Share.State.EXPIRED, Share.State.USED_UP, Share.State.REVOKED)
"""What the database can tell of a share: the rights of its maker are asked row by row."""


def shares_in(state: str, *, now: datetime) -> Q:
    """The shares that are in such a state by their own terms (`STATES_BY_TERMS`)."""
    unrevoked = Q(revoked_at__isnull=True)
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    unused = Q(max_downloads__isnull=True) | Q(download_count__lt=F("max_downloads"))
    return {
        Share.State.LIVE: unrevoked & unexpired & unused,
        Share.State.EXPIRED: unrevoked & ~unexpired,
        Share.State.USED_UP: unrevoked & unexpired & ~unused,
        Share.State.REVOKED: ~unrevoked,
    }[Share.State(state)]


# --- verifying ---


class Counts(NamedTuple):
    """What a bucket keeps count of."""

    objects: int
    size_bytes: int
    reserved_objects: int
    reserved_bytes: int


class WrongCounts(NamedTuple):
    """A bucket whose kept counts are not those of what is there."""

    bucket: str
    kept: Counts
    found: Counts


def wrong_counts(bucket_ids: Iterable[int] | None = None) -> list[WrongCounts]:
    """The buckets, of these or of all, that keep wrong counts; none, if all that writes does as it should.

    Everything is counted, in one statement (but for the database's parameter limit), so that what is committed
    meanwhile makes no difference; of a million objects that takes about a second.
    """
    if bucket_ids is None:
        bucket_ids = Bucket.objects.order_by("pk").values_list("pk", flat=True)
    wrong = []
    for name, *numbers in run_in(_COUNTED, bucket_ids):
        kept, found = Counts(*numbers[:4]), Counts(*map(int, numbers[4:]))
        if kept != found:
            wrong.append(WrongCounts(bucket=name, kept=kept, found=found))
    return wrong


_WAITING = ", ".join(f"'{state.value}'" for state in IN_PROGRESS)
_COUNTED = f"""
SELECT b.name, b.object_count, b.total_bytes, b.reserved_objects, b.reserved_bytes,
    COALESCE(o.number, 0), COALESCE(o.bytes, 0), COALESCE(u.number, 0), COALESCE(u.bytes, 0)
FROM buckets_bucket b
LEFT JOIN (
    SELECT bucket_id, COUNT(*) AS number, SUM(size) AS bytes
    FROM buckets_object WHERE bucket_id IN {{in}} GROUP BY bucket_id
) o ON o.bucket_id = b.id
LEFT JOIN (
    SELECT bucket_id, SUM(reserved_objects) AS number, SUM(reserved_bytes) AS bytes
    FROM buckets_upload WHERE bucket_id IN {{in}} AND state IN ({_WAITING})
    GROUP BY bucket_id
) u ON u.bucket_id = b.id
WHERE b.id IN {{in}} ORDER BY b.name
"""  # noqa: S608 - the states above alone are put in


# --- listing ---


def list_newest(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    prefix: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
    filters: Filters = NO_FILTERS,
) -> Page:
    """Objects by the commit that made them, newest first. ``within``: only keys that start with one of these.

    ``after`` is an earlier page's ``next_after`` and means nothing else. Where ``prefix`` and ``within`` leave up to
    `MAX_LOOKED_AT` keys in no more than `MAX_RANGES` ranges, pages are full; else a page looks at so many rows.
    Raises Invalid.
    """
    rows = Object.objects.filter(bucket=bucket_id).order_by("-sequence", "-pk")
    if after:
        sequence, pk = _newest_cursor(after)
        rows = rows.filter(Q(sequence__lt=sequence) | Q(sequence=sequence, pk__lt=pk), sequence__lte=sequence)
    ranges = _ranges(prefix, within)
    edge: tuple[int, int] | None = None
    if not filters and ranges == [("", None)]:
        page = _as_listed(rows, limit + 1)
    elif len(ranges) <= MAX_RANGES and (few := _few_rows(bucket_id, ranges)) is not None:
        page = []
        for keys in few:
            page += _as_listed(rows.filter(*filters.conditions(), pk__in=keys), limit + 1)
        page.sort(key=lambda row: (row.sequence, row.id), reverse=True)
    else:
        if ends := list(rows.values_list("sequence", "pk")[MAX_LOOKED_AT - 1 : MAX_LOOKED_AT]):
            [edge] = ends
            rows = rows.filter(Q(sequence__gt=edge[0]) | Q(sequence=edge[0], pk__gte=edge[1]), sequence__gte=edge[0])
        rows = rows.filter(*filters.conditions())
        if len(ranges) <= MAX_RANGES:
            allowed = reduce(or_, (Q(starts_with("key", low)) for low, _ in ranges))
            page = _as_listed(rows.filter(allowed), limit + 1)
        else:  # more alternatives than SQLite takes in one expression
            starts = tuple(low for low, _ in ranges)
            page = [row for row in _as_listed(rows, MAX_LOOKED_AT) if row.key.startswith(starts)][: limit + 1]
    shown = page[:limit]
    if len(page) > limit:
        edge = (shown[-1].sequence, shown[-1].id)
    return Page(objects=shown, prefixes=[], next_after=f"{edge[0]}.{edge[1]}" if edge else None)


def _few_rows(bucket_id: int, ranges: Iterable[tuple[str, str | None]]) -> list[QuerySet[Object, Any]] | None:
    """Ids of the objects in each key range, as subqueries; None where they are more than a page may look at.

    Subqueries with a limit of their own: so the range's index is used to find them, whatever the order asked for.
    """
    found, left = [], MAX_LOOKED_AT
    for low, high in ranges:
        rows = _key_range(bucket_id, low, high).order_by()
        count = rows[: left + 1].count()
        if count > left:
            return None
        left -= count
        found.append(rows.values("pk")[:MAX_LOOKED_AT])
    return found


def _key_range(bucket_id: int, low: str, high: str | None) -> QuerySet[Object]:
    """The objects whose keys go from ``low`` to below ``high`` (None: to the end), by key."""
    rows = Object.objects.filter(bucket=bucket_id, key__gte=low).order_by("key")
    return rows if high is None else rows.filter(key__lt=high)


def _as_listed(rows: QuerySet[Object], limit: int) -> list[Listed]:
    return [Listed(*row) for row in rows.values_list(*Listed._fields)[:limit]]


def _newest_cursor(after: str) -> tuple[int, int]:
    sequence, dot, pk = after.partition(".")
    parts = (sequence, pk)
    if not (dot and all(_DECIMAL.fullmatch(part) and int(part) <= _MAX_ID for part in parts)):
        raise Invalid(errors={"after": ["This is not the next_after of an earlier page of this order."]})
    return int(sequence), int(pk)


def list_objects(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    prefix: str = "",
    delimiter: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
) -> Page:
    """Objects by key in byte order. ``within``: only keys that start with one of these (None: all).

    With a delimiter, keys that have it behind ``prefix`` are shown as their common prefix, up to and with the
    delimiter, which counts as one entry of the page. ``after`` is a key or a common prefix.

    A page costs what it returns: from a common prefix the listing steps right behind the last key that starts with
    it (a skip scan), and reads none of those between. Two queries, and one more for each entry of ``within``.
    """
    bound = _first_bound(prefix=prefix, delimiter=delimiter, after=after)
    entries: list[tuple[str, int | None]] = []  # key and object id, or common prefix and None
    for low, high in _ranges(prefix, within):
        if len(entries) > limit:
            break
        start = max(low, bound)
        if high is not None and start >= high:
            continue
        entries += _walk(
            bucket_id, start=start, end=high, prefix=prefix, delimiter=delimiter, limit=limit + 1 - len(entries)
        )
        if entries:
            bound = _bound_behind(entries[-1], delimiter)
    shown = entries[:limit]
    rows = {
        row[0]: _listed(row)
        for row in run_in(f"{_LISTED} WHERE id IN {{in}}", [pk for _, pk in shown if pk is not None])
    }
    return Page(
        # Rows that were deleted since the walk are no longer there.
        objects=[rows[pk] for _, pk in shown if pk is not None and pk in rows],
        prefixes=[text for text, pk in shown if pk is None],
        next_after=shown[-1][0] if len(entries) > limit else None,
    )


def search_objects(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    filters: Filters,
    prefix: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
) -> Page:
    """Objects that the filters let through, by key in byte order. ``within``: as in `list_objects`.

    A page looks at `MAX_LOOKED_AT` rows. Two queries for each entry of ``within`` that it comes to.
    """
    bound = after + _AFTER_KEY if after else ""
    found: list[Listed] = []
    left = MAX_LOOKED_AT
    for low, high in _ranges(prefix, within):
        start = max(low, bound)
        if high is not None and start >= high:
            continue
        rows = _key_range(bucket_id, start, high)
        # How far to look is known before anything is looked at, so that nothing that comes in meanwhile is passed over.
        seen = rows.values("key")[:left].aggregate(count=Count("key"), last=Max("key"))
        if not seen["count"]:
            continue
        wanted = rows.filter(*filters.conditions(), key__lte=seen["last"])
        found += _as_listed(wanted, limit + 1 - len(found))
        if len(found) > limit:
            return Page(objects=found[:limit], prefixes=[], next_after=found[limit - 1].key)
        left -= seen["count"]
        if left <= 0:
            return Page(objects=found, prefixes=[], next_after=seen["last"])
    return Page(objects=found, prefixes=[], next_after=None)


def _listed(row: Row) -> Listed:
    """A row of `_LISTED`."""
    object_id, key, size, etag, content_type, updated_at, sequence = row
    return Listed(object_id, key, size, etag, content_type, as_datetime(updated_at), sequence)


def _ranges(prefix: str, within: Sequence[str] | None) -> list[tuple[str, str | None]]:
    """The key ranges, from low to below high, where ``prefix`` and one of ``within`` meet; sorted, disjoint."""
    if within is None or any(prefix.startswith(outer) for outer in within):
        return [(prefix, successor(prefix))]
    return [(inner, successor(inner)) for inner in sorted(within) if inner.startswith(prefix)]


def _first_bound(*, prefix: str, delimiter: str, after: str) -> str:
    """The first text that may be listed."""
    if not after:
        return ""
    if delimiter and after.startswith(prefix):
        at = after.find(delimiter, len(prefix))
        if at >= 0 and at + len(delimiter) == len(after):
            return _bound_behind((after, None), delimiter)
    return after + _AFTER_KEY


def _bound_behind(entry: tuple[str, int | None], delimiter: str) -> str:
    """The first text behind a key, or behind all keys with a common prefix."""
    text, pk = entry
    if pk is not None:
        return text + _AFTER_KEY
    return text[: -len(delimiter)] + _delimiter_successor(delimiter)


def _delimiter_successor(delimiter: str) -> str:
    behind = successor(delimiter)
    # The last code point has nothing behind it; it is no character, and as a delimiter it is refused.
    if behind is None or len(behind) != len(delimiter):
        raise Invalid(errors={"delimiter": ["This can't be a delimiter."]})
    return behind


def _walk(
    bucket_id: int, *, start: str, end: str | None, prefix: str, delimiter: str, limit: int
) -> list[tuple[str, int | None]]:
    """Up to ``limit`` entries from ``start`` to below ``end``, in one statement."""
    if not delimiter:
        return list(_key_range(bucket_id, start, end).values_list("key", "pk")[:limit])
    # Each step of the recursion is one seek in the index of (bucket, key): the first key at or behind the bound that
    # the entry before has left. `at` is where the delimiter is in what follows the prefix, 0 for a plain key.
    position = "instr" if connection.vendor == "sqlite" else "strpos"
    find = f"{position}(substr(o.key, %s), %s)"
    below = "AND o.key < %s" if end is not None else ""
    seek = f"FROM buckets_object o WHERE o.bucket_id = %s AND o.key >= {{bound}} {below} ORDER BY o.key LIMIT 1"
    next_bound = "CASE walk.at WHEN 0 THEN walk.key || %s ELSE substr(walk.key, 1, walk.at + %s) || %s END"
    statement = f"""
        WITH RECURSIVE walk (id, key, at, n) AS (
            SELECT o.id, o.key, {find}, 1 FROM buckets_object o
            WHERE o.id = (SELECT o.id {seek.format(bound="%s")})
          UNION ALL
            SELECT o.id, o.key, {find}, walk.n + 1 FROM walk, buckets_object o
            WHERE walk.n < %s AND o.id = (SELECT o.id {seek.format(bound=next_bound)})
        )
        SELECT id, key, at FROM walk ORDER BY n
    """  # noqa: S608 - only the names and pieces above are put in
    find_values: list[int | str] = [len(prefix) + 1, delimiter]
    end_values = [end] if end is not None else []
    # Character `at` of the rest is character `len(prefix) + at` of the key; the bound is cut right before it.
    bound_values: list[int | str] = [_AFTER_KEY, len(prefix) - 1, _delimiter_successor(delimiter)]
    parameters: list[int | str] = [
        *[*find_values, bucket_id, start, *end_values],
        *[*find_values, limit, bucket_id, *bound_values, *end_values],
    ]
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [
            (key, pk) if not at else (key[: len(prefix) + at - 1 + len(delimiter)], None)
            for pk, key, at in cursor.fetchall()
        ]
