"""What tests read off an opened report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

Open = Callable[..., Any]  # the fixture open_report: content, the address's end, options of the context


def ids(page: Any) -> list[str]:
    """The images whose cards hang, in order."""
    return page.eval_on_selector_all(".card .id", "cards => cards.map((card) => card.textContent)")


def numbers(page: Any) -> list[int]:
    """The same as their places in the content."""
    return page.eval_on_selector_all(".card", "cards => cards.map((card) => Number(card.dataset.index))")


def state(page: Any) -> dict[str, str]:
    """What the address says."""
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")


def settle(page: Any) -> None:
    """Wait until everything requested is painted: observers of the visible part are called once a frame."""
    frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
    page.evaluate(f"{frame}.then(() => {frame}).then(() => {frame})")


def wait_until(page: Any, expression: str) -> None:
    """Ask until it is so. Playwright's own waiting evaluates a string in the page, which the page's policy refuses."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(50)


def check_accessible(axe: Any, page: Any, known: Mapping[str, str] | None = None) -> None:
    """axe-core finds nothing serious, but what is ``known``: a text in the element, by the finding's id."""
    found = axe.run(page).response
    assert len(found["passes"]) > 20  # it did look
    serious = [
        f"{one['id']} ({one['impact']}): {node['html'][:160]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
        if (known or {}).get(one["id"], "no such text") not in node["html"]
    ]
    assert not serious, "\n".join(serious)
