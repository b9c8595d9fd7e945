"""Statements for many rows: every text that a key can be comes out as it went in, on both databases."""

from django.utils import timezone

from buckets.models import Object
from buckets.services.bulk import insert_rows, run_in
from buckets.services.confirm import OBJECT_COLUMNS
from tests.unit.buckets.lab import Lab

HOSTILE = [
    *(
        "NULL",
        "null",
        "{a,b}",
        '"',
        '\\"',
        "\\",
        "\\N",
        "'; DROP TABLE buckets_object; --",
        "%s",
        "%%",
        "a,b",
        "{}",
        "{",
    ),
    *(" ", " a ", "\t", "\n", "é", "日本", "🗄️", "\u202e", "\x7f", "$1", "::text[]", "E'\\n'"),
]


def test_hostile_texts(lab: Lab) -> None:
    now = timezone.now()
    rows = [(lab.bucket.pk, key, 1, "e", key[:99], '{"k": "\\"{}\\\\"}', now, now, 1) for key in HOSTILE]
    made = insert_rows(into="buckets_object", columns=OBJECT_COLUMNS, rows=rows, then="RETURNING id, key")
    assert sorted(key for _, key in made) == sorted(HOSTILE)
    assert {row.key: row.content_type for row in Object.objects.all()} == {key: key[:99] for key in HOSTILE}
    assert Object.objects.filter(metadata={"k": '"{}\\'}).count() == len(HOSTILE)
    found = run_in("SELECT key FROM buckets_object WHERE key IN {in} OR content_type IN {in}", HOSTILE)
    assert sorted(key for (key,) in found) == sorted(HOSTILE)
    assert run_in("SELECT key FROM buckets_object WHERE key IN {in}", ["NULL ", "a", "b"]) == []
