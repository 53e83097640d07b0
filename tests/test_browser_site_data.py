"""`clear_site_data` in a real Chromium: what it keeps of a site is gone with the log-out."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.loop_clock import HANGS
from tests.sites.running import Running
from tests.test_browser import browser  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STORED = "localStorage.getItem('draft')"


@pytest.mark.parametrize("framework", ["starlette", "flask"])
def test_what_scripts_stored_is_gone(browser: "Browser", framework: str, tmp_path: Path) -> None:  # noqa: F811
    """It stays through a log-in, and the log-out takes it with the cookie."""
    with Running(framework, f"sqlite:///{tmp_path}/sessions.db", tmp_path) as server:
        context = browser.new_context(base_url=server.when_ready())
        context.set_default_timeout(HANGS * 1000)  # milliseconds
        page = context.new_page()
        page.goto("/show/-")
        page.evaluate("localStorage.setItem('draft', 'a letter')")
        page.goto("/login/ann")
        assert page.evaluate(STORED) == "a letter" and len(context.cookies()) == 1
        page.goto("/logout/-")
        page.goto("/show/-")
        assert page.evaluate(STORED) is None and context.cookies() == []
        context.close()
