"""A store that has something to show: what `make screenshots` and the tests of every page look at.

Everything goes in through the API, as from its clients; only what takes weeks to come about is written as rows.
"""

import gzip
import io
import json
import math
import struct
import tarfile
import wave
import zipfile
import zlib
from dataclasses import dataclass
from typing import Final

from keys.permissions import Permission
from tests.support.api import put_headers, send
from tests.support.store import Store

HOSTILE_KEY: Final = "a b/<img src=x onerror=alert(1)>#?%.txt"
FOLDER: Final = "2026/harbour/"
PAST_DAYS: Final = 9

BUCKETS: Final[dict[str, dict[str, object]]] = {
    "photos": {"visibility": "public-read"},
    "documents": {"quota_bytes": 20_000_000, "quota_objects": 500},
    "music": {},
    "backups": {},
    "website": {"visibility": "public-read", "cors_origins": ["https://www.example.org"]},
    "archive-2027": {},
}

_USAGE_ROWS: Final = """
import math
from datetime import timedelta
from django.utils import timezone
from buckets.models import UsageSample
from buckets.usage import SAMPLED, current_figures

figures = current_figures()
now = timezone.now().replace(second=0, microsecond=0)
steps = [now - timedelta(minutes=m) for m in range(1, 91)]
steps += [now - timedelta(minutes=15 * n) for n in range(7, {days} * 96)]
total = len(steps)
kept = []
for number, at in enumerate(sorted(steps)):
    hours = (now - at).total_seconds() / 3600
    if 55 < hours < 61:
        continue  # the machine was off
    share = number / total
    row = {{name: figures.get(name, 0) for name in SAMPLED}}
    for name in ("used_bytes", "object_bytes", "object_count", "garbage_bytes"):
        row[name] = int(row[name] * (0.35 + 0.65 * share))
    for name, rate in (("requests", 40), ("puts", 9), ("received_bytes", 60000), ("sent_bytes", 250000)):
        passed = ({days} * 24 - hours) * 3600
        # Nobody is there at this hour of the day, so that what is measured from here on joins in without a step.
        row[name] = int(rate * (passed + 24 * 3600 / 6.2832 * math.sin(hours / 24 * 6.2832)))
    row["garbage_bytes"] = min(row["garbage_bytes"], row["used_bytes"])
    kept.append(UsageSample(at=at, **row))
UsageSample.objects.bulk_create(kept, ignore_conflicts=True)
"""

_OFFLINE_SERVER: Final = """
import uuid
from datetime import timedelta
from django.utils import timezone
from volumes.models import Server

made = Server.objects.create(
    id=uuid.uuid4(), node="n3", public_url="http://127.0.0.1:1", internal_url="http://127.0.0.1:1", instance="gone",
    capacity_bytes=10**12, free_bytes=4 * 10**11, last_seen_at=timezone.now() - timedelta(days=3),
    admin_state=Server.AdminState.MAINTENANCE, proven=True,
)
print(made.pk)
"""


@dataclass(frozen=True, slots=True)
class Showcase:
    """What a walk through the pages needs to know of what is there."""

    bucket: str
    folder: str
    key: str
    other_key: str
    """The text of a key without ADMIN, whose owner may read two of the buckets."""
    key_id: int
    share_id: int
    share_path: str
    volume_id: int
    server_id: str
    offline_server_id: str


def fill(store: Store) -> Showcase:
    """Fills a running store. It takes a few seconds."""
    api = store.api()
    for name, terms in BUCKETS.items():
        api.make_bucket(name, **terms)
    for bucket, files in _files().items():
        lease = api.lease(bucket, count=len(files), max_bytes=1 << 19)
        for slot, (key, (content_type, body)) in enumerate(files.items()):
            answer = send("PUT", lease.url_of(slot), body, put_headers(key) | {"Content-Type": content_type})
            assert answer.status == 201, answer
    api.put_chunks("backups", "database/2026-11-22.dump", _noise(400_000), metadata={"host": "db-1", "tables": "212"})
    api.post("buckets/backups/delete", {"keys": ["database/2026-11-20.dump.gz"]}, status=200)

    share = api.post("shares", {"bucket": "photos", "key": f"{FOLDER}crane.png", "inline": True, "max_downloads": 25})
    api.post("shares", {"bucket": "documents", "key": "contracts/lease.pdf", "password": "in the bakery",
                        "expires_in_seconds": 7 * 86400})  # fmt: skip
    one_time = api.post("shares", {"bucket": "documents", "key": "accounts/2026-10.csv", "one_time": True})
    send("GET", str(one_time["url"]))
    revoked = api.post("shares", {"bucket": "music", "key": "sketches/tone.wav"})
    assert api.request("DELETE", f"shares/{revoked['id']}").status == 204

    reading = int(Permission.OBJECTS_READ)
    newsroom = api.post(
        "keys",
        {
            "name": "newsroom",
            "description": "Reads the photographs, and puts what it writes into the documents.",
            "grants": [
                {"bucket": "photos", "prefix": "", "permissions": reading},
                {"bucket": "documents", "prefix": "press/", "permissions": reading | int(Permission.OBJECTS_WRITE)},
            ],
            "expires_at": "2031-01-01T00:00:00Z",
        },
    )
    api.post("keys", {"name": "nightly backup", "permissions": int(Permission.OBJECTS_WRITE | Permission.BUCKETS_READ)})
    api.post("keys", {"name": "monitoring", "permissions": int(Permission.VOLUMES_READ | Permission.BUCKETS_READ)})
    other = store.api(str(newsroom["key"]))
    other.look_up("photos", f"{FOLDER}crane.png")
    for path in ("servers", "keys"):
        assert other.request("GET", path).status == 403
    wrong = json.dumps({"key": "whk_1_" + "x" * 43}).encode()
    send("POST", f"{store.url}/api/v1/tokens", wrong, {"Content-Type": "application/json"})

    offline = store.run_python(_USAGE_ROWS.format(days=PAST_DAYS) + _OFFLINE_SERVER).split()[-1]
    [volume, *_] = api.get("volumes")["results"]
    [server, *_] = [one for one in api.get("servers")["results"] if one["status"] == "online"]
    return Showcase(
        bucket="photos",
        folder=FOLDER,
        key=f"{FOLDER}crane.png",
        other_key=str(newsroom["key"]),
        key_id=int(newsroom["id"]),
        share_id=int(share["id"]),
        share_path="/s/" + str(share["url"]).rpartition("/s/")[2],
        volume_id=int(volume["id"]),
        server_id=str(server["id"]),
        offline_server_id=offline,
    )


def _files() -> dict[str, dict[str, tuple[str, bytes]]]:
    """Type and bytes by bucket and key."""
    jpeg_names = ("crane", "ferry", "gulls", "lighthouse", "mole", "ropes")
    photos = {f"{FOLDER}{name}.png": ("image/png", png(240, 150, number)) for number, name in enumerate(jpeg_names)}
    photos |= {
        f"2026/mountains/ridge-{number:02}.png": ("image/png", png(48, 32, number + 9)) for number in range(1, 9)
    }
    photos |= {
        "2025/garden/pond.png": ("image/png", png(160, 160, 4)),
        "logo.svg": ("image/svg+xml", SVG.encode()),
        HOSTILE_KEY: ("text/plain", b"Names may be anything.\n"),
    }
    documents = {
        "README.md": ("text/markdown", MARKDOWN.encode()),
        "accounts/2026-10.csv": ("text/csv", _csv().encode()),
        "accounts/2026-11.csv": ("text/csv", _csv().encode()),
        "contracts/lease.pdf": ("application/pdf", _pdf("Lease of a workshop")),
        "press/autumn.txt": ("text/plain", b"The harbour opens again on Saturday.\n" * 40),
        "settings.json": ("application/json", json.dumps(_SETTINGS, indent=2).encode()),
        "tools/thumbnails.py": ("text/x-python", PYTHON.encode()),
    }
    return {
        "photos": photos,
        "documents": documents,
        "music": {
            "sketches/tone.wav": ("audio/wav", _wav(seconds=1.5)),
            "sketches/beat.wav": ("audio/wav", _wav(seconds=0.5)),
        },
        "backups": {
            "configuration.zip": ("application/zip", _zip(documents)),
            "home.tar.gz": ("application/gzip", _tar(documents)),
            "database/2026-11-20.dump.gz": ("application/gzip", gzip.compress(_noise(60_000))),
            "database/2026-11-21.dump.gz": ("application/gzip", gzip.compress(_noise(80_000))),
        },
        "website": {
            "index.html": ("text/html", b"<!doctype html><title>Harbour</title><h1>Harbour</h1><p>Open daily.</p>"),
            "style.css": ("text/css", b"body { font: 1rem/1.5 serif; margin: 2rem auto; max-width: 40rem }\n"),
        },
    }


def png(width: int, height: int, seed: int) -> bytes:
    """A picture of sky, sun and sea, each seed its own."""
    horizon, sun_x, sun_y = height * 0.62, width * (0.2 + 0.12 * (seed % 6)), height * (0.25 + 0.05 * (seed % 4))
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            if y > horizon + 4 * math.sin(x / 17 + seed):
                shade = 1 - (y - horizon) / height
                colour = (20 + 40 * shade, 80 + 70 * shade + 6 * math.sin(x / 9 + y / 3), 110 + 90 * shade)
            else:
                glow = math.exp(-((x - sun_x) ** 2 + (y - sun_y) ** 2) / (height * 3))
                high = y / horizon
                colour = (120 + 120 * high + 90 * glow, 150 + 50 * high + 60 * glow, 200 - 40 * high + 20 * seed % 40)
            rows += bytes(max(0, min(255, int(part))) for part in colour)

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", head)
        + block(b"IDAT", zlib.compress(bytes(rows), 6))
        + block(b"IEND", b"")
    )


def _wav(*, seconds: float, rate: int = 8000) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        for at in range(int(seconds * rate)):
            fade = 1 - at / (seconds * rate)
            out.writeframesraw(struct.pack("<h", int(12_000 * fade * math.sin(at / rate * 440 * 2 * math.pi))))
    return held.getvalue()


def _zip(files: dict[str, tuple[str, bytes]]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out:
        for name, (_, body) in files.items():
            out.writestr(name, body)
    return held.getvalue()


def _tar(files: dict[str, tuple[str, bytes]]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as out:
        for name, (_, body) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            out.addfile(entry, io.BytesIO(body))
    return held.getvalue()


def _pdf(title: str) -> bytes:
    """One page with one line on it."""
    text = f"BT /F1 28 Tf 72 720 Td ({title}) Tj ET".encode()
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 7\n0000000000 65535 f \n%strailer << /Size 7 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        len(out),
    )


def _csv() -> str:
    rows = ["date,item,quantity,price"]
    items = ("rope", "paint", "lamp", "anchor")
    rows += [
        f"2026-10-{day:02},{items[day % len(items)]},{day % 5 + 1},{12.5 + 3.75 * day:.2f}" for day in range(1, 31)
    ]
    return "\n".join(rows) + "\n"


def _noise(size: int) -> bytes:
    """Bytes that hardly compress, the same each time."""
    state, out = 1, bytearray()
    while len(out) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out += state.to_bytes(8, "little")
    return bytes(out[:size])


SVG: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="12" fill="#0f6b5c"/>'
    '<path d="M14 26l18-10 18 10v22H14z" fill="#fff"/></svg>'
)
MARKDOWN: Final = """# Harbour archive

What is kept here, and **for how long**.

| folder | kept |
|---|---|
| `accounts/` | ten years |
| `press/` | two years |

1. Put a file here.
2. Share a link with whoever needs it.

> Nothing is deleted before its time.
"""
PYTHON: Final = '''"""Makes the small pictures."""

from pathlib import Path


def thumbnails(folder: Path, width: int = 320) -> list[Path]:
    """All pictures below the folder that are wider than that."""
    return [path for path in folder.rglob("*.png") if path.stat().st_size > width * 10]
'''
_SETTINGS: Final = {
    "name": "harbour",
    "retention": {"accounts": "10y", "press": "2y", "drafts": None},
    "mirrors": ["north", "south"],
    "notify": [{"address": "desk@example.org", "when": ["full", "offline"]}],
    "strict": True,
}
