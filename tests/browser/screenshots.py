"""`make screenshots`: pictures of every page of the web UI, at the widths of a phone and a desk, light and dark.

    python -m tests.browser.screenshots [--only WORD]

They are put into build/screenshots, one PNG a page, width and theme: `objects-folder.390.dark.png`.
"""

import argparse
import os
import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

WIDTHS = {390: 844, 1440: 900}


def main() -> None:
    import django

    django.setup()
    from tests.browser.conftest import launched, sign_in_with
    from tests.browser.walk import WALK
    from tests.support.programs import ROOT
    from tests.support.showcase import fill
    from tests.support.store import Store
    from tests.support.waiting import wait_until

    parser = argparse.ArgumentParser(description="Pictures of every page of the web UI.")
    parser.add_argument("--only", default="", metavar="WORD", help="pages alone that have it in their names")
    only = parser.parse_args().only
    folder = ROOT / "build" / "screenshots"
    if not only:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="warehouse-screenshots-"))
    # Small volumes: of a few hundred kilobytes one would not see how full they are.
    env = {"WAREHOUSE_CHUNK_SIZE": "512KiB", "WAREHOUSE_VOLUME_SIZE": "1MiB"}
    try:
        with Store(place, env=env, migrated=True) as store, launched() as browser:
            shown = fill(store)
            api = store.api()  # one sign-in: the dashboard tells of the last few things that were done
            wait_until(lambda: api.get("proof")["last"], what="the first check of the whole store")
            cookies = sign_in_with(store.url, store.key)
            for (width, height), theme in product(WIDTHS.items(), ("light", "dark")):
                for stop in WALK:
                    if only not in stop.slug:
                        continue
                    context = browser.new_context(
                        base_url=store.url,
                        viewport={"width": width, "height": height},
                        is_mobile=width < 600,
                        color_scheme=theme,  # type: ignore[arg-type]
                        storage_state=None if stop.anonymous else cookies,
                    )
                    page = context.new_page()
                    stop.open(page, shown)
                    for inner in page.locator("iframe").all():
                        inner.scroll_into_view_if_needed()  # it is fetched no sooner
                        frame = inner.element_handle().content_frame()
                        assert frame is not None
                        frame.wait_for_url("**/preview?*")
                        assert frame.locator("body").inner_text()  # asked of a frame that is laid out
                    name = f"{stop.slug}{'-anonymous' * stop.anonymous}.{width}.{theme}.png"
                    page.screenshot(path=folder / name, full_page=True)
                    context.close()
        sys.stdout.write(f"{len(list(folder.glob('*.png')))} pictures in {folder}\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
