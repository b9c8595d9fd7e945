"""The frame of every page: who is signed in, where one can go, what is told beside the page."""

from playwright.sync_api import Page, expect


def test_the_dashboard_opens_and_shortcuts_are_shown(ui: Page) -> None:
    ui.goto("/")
    expect(ui.get_by_role("heading", level=1)).to_have_text("Dashboard")
    ui.keyboard.press("?")
    expect(ui.get_by_role("dialog")).to_be_visible()
    ui.keyboard.press("Escape")
    expect(ui.get_by_role("dialog")).not_to_be_visible()
    ui.get_by_role("group").locator("summary").click()
    ui.get_by_role("button", name="Sign out").click()
    expect(ui).to_have_url("/sign-in")
