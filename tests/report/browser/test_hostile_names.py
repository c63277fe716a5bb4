"""Names that would run if they could: they are shown, nothing else happens, and the layout holds."""

from __future__ import annotations

from typing import Any

import pytest
from contents import HOSTILE, make_content
from reading import DESKTOP, PHONE, Open

pytestmark = pytest.mark.browser


def walk_through(page: Any) -> None:
    """Everything that puts a name somewhere."""
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a")
    for at in range(4):
        page.locator("#scatter a").nth(at).hover(force=True)
    page.select_option("#choice-sort", "name")
    page.fill("#choice-text", "<")
    page.fill("#choice-text", "")
    page.click(".card .open")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_runs_and_nothing_is_torn(open_report: Open, viewport: dict[str, int]) -> None:
    page = open_report(make_content(16, compare=True, hostile=True), viewport=viewport)
    page.evaluate("document.querySelector('#filters').open = true")
    walk_through(page)
    page.wait_for_timeout(200)  # an image that fails to load takes a moment
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator("img:not([src^='data:image/jpeg'])").count() == 0
    assert page.locator("script").count() == 2
    names = page.eval_on_selector_all(".card .id", "all => all.map((one) => one.textContent)")
    assert set(HOSTILE[:7]) <= set(names) and len(set(names)) == len(HOSTILE)  # the eighth is no Unicode


def test_policy_is_in_force(open_report: Open) -> None:
    page = open_report(make_content(2))
    refused = page.evaluate(
        """async () => {
          const violated = [];
          document.addEventListener("securitypolicyviolation", (event) => violated.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.hacked = true";
          document.body.append(script);
          const link = document.createElement("button");
          link.setAttribute("onclick", "window.hacked = true");
          document.body.append(link);
          link.click();
          const image = document.createElement("img");
          image.src = "https://example.invalid/image.png";
          document.body.append(image);
          await fetch("https://example.invalid/data").catch(() => null);
          await new Promise((resolve) => setTimeout(resolve, 200));
          return [violated, window.hacked ?? null];
        }"""
    )
    violated, hacked = refused
    assert hacked is None
    assert {"script-src-elem", "script-src-attr", "img-src", "connect-src"} <= set(violated)
    page.errors.clear()  # of which each refusal is one, and a request that was tried
    page.requests.clear()


def test_no_request_leaves_the_page(open_report: Open) -> None:
    page = open_report(make_content(60, compare=True))
    walk_through(page)
    page.emulate_media(media="print")
    assert [url for url in page.requests if not url.startswith("data:")] == [page.url.split("#")[0]]
