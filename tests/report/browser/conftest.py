"""Reports opened in a real Chromium, watched for errors and for requests that leave the page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from reading import DESKTOP, Open

from aimwrap.report.html import render

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])
    from contents import make_content

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI needs {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium for all tests; each page has a context of its own."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("Playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        _missing("Chromium on the path: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def axe() -> Any:
    """The accessibility checker, as its package brings it."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ModuleNotFoundError:
        _missing("axe-core: pip install axe-playwright-python")
    return Axe()


@pytest.fixture
def open_report(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report and returns its page, once the first card hangs; what goes wrong in it fails the test."""
    contexts, errors, requests = [], list[str](), list[str]()

    def open_page(content: dict[str, Any] | None = None, address: str = "", **options: Any) -> Any:
        path = tmp_path / f"report-{len(contexts)}.html"
        path.write_text(render(make_content() if content is None else content), encoding="utf-8")
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(90_000)  # of a machine that is busy with other things, too
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(f"asked: {dialog.message}"))
        page.errors, page.requests = errors, requests
        page.goto(path.as_uri() + address)
        page.wait_for_selector("html.scripted")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file://", "data:"))] == []
