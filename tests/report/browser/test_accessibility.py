"""axe-core finds nothing serious, in light and dark, on desktop and phone, in the gallery and in the large view."""

from __future__ import annotations

from typing import Any

import pytest
from contents import make_content
from reading import DESKTOP, PHONE, Open, check_accessible

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_serious_finding(axe: Any, open_report: Open, colours: str, viewport: dict[str, int]) -> None:
    page = open_report(make_content(12, compare=True), color_scheme=colours, viewport=viewport)
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a")
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", "o")
    page.fill("#choice-high", "90")
    check_accessible(axe, page)
    page.click(".card .open")
    check_accessible(axe, page)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_serious_finding_where_little_is_known(axe: Any, open_report: Open, colours: str) -> None:
    content = make_content(4, plain=False, objects=False, groups=False)
    content["models"][0]["verification"]["checks"][0]["passed"] = False
    page = open_report(content, color_scheme=colours)
    page.fill("#choice-text", "nothing has this name")
    check_accessible(axe, page)
