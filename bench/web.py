"""The web UI's figures (`make bench-web`): what its first pages weigh, its scripts, and its lists among many objects.

The pages are loaded by a real Chromium with nothing in its cache; what the lists cost is the time of the master's
answers, asked in turn for a bucket of a thousand objects and for one of many (`bench.crowd`).
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import requests

from bench.crowd import key_of
from bench.table import Effort, Figure, in_turn
from tests.support.programs import ROOT
from tests.support.store import Store

MOST_BYTES = 100_000
MOST_REQUESTS = 5
MOST_SCRIPT_BYTES = 40_000
MOST_RATIO = 1.5
FEW = 1000
ASKED_A_ROUND = 15


def pages(directory: Path) -> list[Figure]:
    """The first page for who is not signed in, and for who is."""
    from tests.browser.conftest import launched, sign_in_with

    figures: list[Figure] = []
    with Store(directory / "store", migrated=True) as store, launched() as browser:
        cookies = sign_in_with(store.url, store.key)
        for what, path, state in (("sign-in", "/sign-in", None), ("dashboard", "/", cookies)):
            context = browser.new_context(storage_state=state, base_url=store.url)
            page = context.new_page()
            received: list[float] = []
            session = context.new_cdp_session(page)
            session.on("Network.loadingFinished", lambda event, to=received: to.append(event["encodedDataLength"]))
            session.send("Network.enable")
            page.goto(path, wait_until="networkidle")
            context.close()
            figures += [
                Figure(f"{what}: bytes", "empty cache", sum(received), None, "B", most=MOST_BYTES),
                Figure(f"{what}: requests", "empty cache", len(received), None, "", most=MOST_REQUESTS),
            ]
    return figures


def scripts() -> Figure:
    """Our own, as they are: nothing makes them smaller."""
    own = sum(path.stat().st_size for path in (ROOT / "warehouse_site" / "static" / "warehouse").rglob("*.js"))
    return Figure("own scripts", "unminified", own, None, "B", most=MOST_SCRIPT_BYTES)


def lists(directory: Path, effort: Effort) -> list[Figure]:
    """Milliseconds of an answer, among many objects and among a thousand."""
    buckets = {"few": FEW, "many": effort.objects}
    with Store(directory / "store", migrated=True, worker=False) as store:
        api = store.api()
        env = {**store.env, "WAREHOUSE_DATA": str(store.data)}
        for bucket, count in buckets.items():
            api.make_bucket(bucket)
            command = [sys.executable, "-m", "bench.crowd", bucket, str(count)]
            subprocess.run(command, env=env, cwd=ROOT, check=True)
        with requests.Session() as session:
            session.get(f"{store.url}/sign-in")
            form = {"key": store.key, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
            session.post(f"{store.url}/sign-in", form).raise_for_status()
            half = key_of(FEW // 2)
            asked = {
                "newest objects": ("", {"order": "newest"}),
                "folders by name": ("", {"order": "name"}),
                "an object's page": ("/object", {"key": half}),
            }
            figures = []
            for what, (page, query) in asked.items():
                few, many = (
                    _timed(session, f"{store.url}/buckets/{bucket}{page}?{urlencode(query)}") for bucket in buckets
                )
                ours, reference = in_turn(effort, many, few)
                against = f"{effort.objects:,} objects, {FEW:,}"
                figures.append(Figure(what, against, ours, reference, "ms", most=MOST_RATIO))
    return figures


def _timed(session: requests.Session, url: str) -> Callable[[], float]:
    def ask() -> float:
        took_ms = []
        for _ in range(ASKED_A_ROUND):
            began = time.perf_counter()
            session.get(url).raise_for_status()
            took_ms.append(1000 * (time.perf_counter() - began))
        return statistics.median(took_ms)

    return ask
