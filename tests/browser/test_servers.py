"""Servers and volumes in the web UI: what changes is seen without a reload, and what one asks of them is followed."""

import os
import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.support.store import Store

MB = 1_000_000


def largest_volume(store: Store, bucket: str) -> dict[str, Any]:
    """A volume that has at least a megabyte, so that work on it takes a moment."""
    api = store.api()
    for number in range(6):
        api.put(bucket, f"{number}.bin", os.urandom(MB))
    volumes = api.get("volumes")["results"]
    found: dict[str, Any] = max(
        volumes, key=lambda one: one["replicas"][0]["size_bytes"] * (one["state"] == "writable")
    )
    return found


def test_a_compaction_and_a_scrub_are_followed_to_their_end(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    volume = largest_volume(ui_store, ui_bucket)
    ui.goto("/volumes")
    ui.get_by_role("link", name=str(volume["id"]), exact=True).click()
    expect(ui.get_by_role("heading", level=1)).to_have_text(f"Volume {volume['id']}")
    copies = ui.get_by_role("table", name="Copies of this volume")
    ui.get_by_role("button", name="Scrub").click()
    expect(ui.get_by_text(f"Volume {volume['id']} is being scrubbed")).to_be_visible()
    expect(copies).to_contain_text(re.compile(r"Scrub\s+done\s.* checked", re.DOTALL))
    ui.locator("main details.menu summary").click()
    ui.get_by_role("link", name="Compact with options").click()
    ui.get_by_label("Speed").select_option("At most 1 MB a second")
    ui.get_by_role("button", name="Compact").click()
    expect(ui.get_by_text(f"Volume {volume['id']} is being compacted.")).to_be_visible()
    expect(ui.get_by_role("progressbar", name="Compaction")).to_be_visible()
    expect(copies).to_contain_text(re.compile(r"Compaction\s+done\s.* given back", re.DOTALL))
    revision = volume["replicas"][0]["revision"]
    assert ui_store.api().get(f"volumes/{volume['id']}")["replicas"][0]["revision"] == revision + 1


def test_figures_change_by_themselves(ui: Page, ui_store: Store, ui_bucket: str) -> None:
    ui.goto("/servers")
    table = ui.get_by_role("table", name="Volume servers")
    expect(table.locator("tbody tr")).to_have_count(2)
    before = [received.inner_text() for received in table.locator("td[data-label=Received]").all()]
    for number in range(4):
        ui_store.api().put(ui_bucket, f"{number}.bin", os.urandom(MB))
    expect(table.locator("td[data-label=Received]")).not_to_have_text(before)


def test_volumes_are_filtered(ui: Page) -> None:
    ui.goto("/volumes")
    rows = ui.get_by_role("table", name="Volumes").locator("tbody tr")
    expect(rows.first).to_be_visible()
    ui.get_by_label("State").select_option("Sealed")
    expect(ui.get_by_role("heading", name="No volume is like that")).to_be_visible()
    expect(ui).to_have_url(re.compile(r"/volumes\?state=sealed"))
    ui.get_by_role("link", name="Show all").click()
    expect(rows.first).to_be_visible()
    expect(ui.get_by_label("State")).to_have_value("")


def test_a_server_is_maintained_and_drained_and_kept(ui: Page) -> None:
    ui.goto("/servers")
    ui.get_by_role("table", name="Volume servers").get_by_role("link").last.click()
    now = ui.locator("#server-now")
    ui.get_by_role("button", name="Maintenance").click()
    expect(now).to_contain_text("In maintenance")
    expect(ui.get_by_role("button", name="Drain")).to_have_count(0)
    ui.get_by_role("button", name="End maintenance").click()
    expect(ui.get_by_text("is in use again.")).to_be_visible()
    ui.get_by_role("button", name="Drain").click()
    expect(now).to_contain_text(re.compile("is being emptied|is empty"))
    ui.get_by_role("button", name="Stop draining").click()
    expect(ui.get_by_text("is kept: what has moved stays where it is.")).to_be_visible()
    expect(ui.get_by_role("link", name="Forget")).to_have_count(0)
