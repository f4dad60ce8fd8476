"""The machine's own Chromium, for tests that look at a page."""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium():
    """Give a browser that playwright drives; skips the test where there is none, and fails it where CI should have one."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser needs playwright: pip install -e .[dev]"
    )
    if CHROMIUM is None:
        reason = "no Chromium to look at the page with: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()
