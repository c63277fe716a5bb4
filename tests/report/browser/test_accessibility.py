"""axe-core finds nothing serious, in light and dark, on desktop and phone, in the gallery and in the large view."""

from __future__ import annotations

from typing import Any

import pytest
from contents import make_content
from reading import DESKTOP, PHONE, Open

pytestmark = pytest.mark.browser


def check(axe: Any, page: Any) -> None:
    found = axe.run(page).response
    assert len(found["passes"]) > 20  # it did look
    serious = [
        f"{one['id']} ({one['impact']}): {node['html'][:160]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]
    assert not serious, "\n".join(serious)


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
    check(axe, page)
    page.click(".card .open")
    check(axe, page)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_serious_finding_where_little_is_known(axe: Any, open_report: Open, colours: str) -> None:
    content = make_content(4, plain=False, objects=False, groups=False)
    content["models"][0]["verification"]["checks"][0]["passed"] = False
    page = open_report(content, color_scheme=colours)
    page.fill("#choice-text", "nothing has this name")
    check(axe, page)
