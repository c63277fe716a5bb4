"""Light and dark, desktop, phone and paper, without scripts, and with many images."""

from __future__ import annotations

from typing import Any

import pytest
from contents import make_content
from reading import PHONE, Open, numbers, wait_until

pytestmark = pytest.mark.browser


def background(page: Any) -> int:
    """Brightness of the page's ground, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return sum(int(value) for value in colour.removeprefix("rgb(").removesuffix(")").split(",")) // 3


@pytest.mark.parametrize(("colours", "bright"), [("light", True), ("dark", False)])
def test_colours_follow_the_system_and_the_switch_overrules_it(open_report: Open, colours: str, bright: bool) -> None:
    page = open_report(color_scheme=colours)
    assert (background(page) > 128) == bright
    page.check(f"[name=theme][value={'dark' if bright else 'light'}]", force=True)
    assert (background(page) > 128) != bright
    page.reload()
    page.wait_for_selector("html.scripted")
    assert (background(page) > 128) != bright  # kept
    page.check("[name=theme][value=auto]", force=True)
    assert (background(page) > 128) == bright


@pytest.mark.parametrize("options", [{}, {"compare": True}, {"plain": False, "objects": False, "groups": False}])
@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_width_needs_sideways_scrolling(open_report: Open, options: dict[str, Any], width: int) -> None:
    page = open_report(make_content(12, **options), viewport={**PHONE, "width": width})
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    if options.get("objects", True):
        page.locator("#pointing").scroll_into_view_if_needed()
        page.wait_for_selector("#scatter a")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click(".card .open")
    inside, outside = page.evaluate("['.large-body', '#large'].map((name) => document.querySelector(name).scrollWidth)")
    assert inside <= outside <= width


def test_numbers_are_there_without_scripts(browser: Any, open_report: Open) -> None:
    page = open_report(make_content(4))  # writes the file
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page.url)
    text = plain.inner_text("body")
    assert "Average accuracy" in text and "bird on land" in text and "Allow scripts to see the 4 images" in text
    assert not plain.is_visible("#filter-form") and not plain.is_visible("[name=theme]")
    context.close()


def test_paper_has_no_controls_and_every_card_and_mark(open_report: Open) -> None:
    """Issue 22, number 24: a PDF held 48 of 80 images and an empty scatter plot."""
    page = open_report(make_content(120), color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert background(page) > 250
    for control in ("#filter-form", "#overlay-choice", ".theme", "nav"):
        assert not page.is_visible(control)
    widths = page.eval_on_selector_all(".card canvas", "all => all.map((one) => one.width)")
    assert len(widths) == 120 and min(widths) > 60
    assert page.locator("#scatter .marks a").count() > 100


def test_cards_hang_as_they_are_reached(open_report: Open) -> None:
    page = open_report(make_content(300))
    hung = len(numbers(page))
    assert hung < 150
    page.locator("#more").scroll_into_view_if_needed()
    wait_until(page, f"document.querySelectorAll('.card').length > {hung}")
    page.evaluate("window.scrollTo(0, 0)")
    hung = len(numbers(page))
    page.eval_on_selector("#more", "button => button.click()")  # a mouse would bring it into sight first
    assert hung < len(numbers(page)) <= 300


def test_thousands_of_images_open_filter_and_sort(open_report: Open) -> None:
    content = make_content(5000)
    page = open_report(content)
    assert page.inner_text("#count").startswith("5,000 images")
    assert len(numbers(page)) < 200
    page.fill("#choice-text", "04999")
    assert len(numbers(page)) == 1
    page.fill("#choice-text", "")
    page.select_option("#choice-outcome", "wrong")
    wrong = sum(not image["by_model"][0]["right"] for image in content["images"])
    assert page.inner_text("#count").startswith(f"{wrong:,} of 5,000 images")
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a", state="attached")
    assert page.locator("#scatter a").count() > 4000
    page.click("#reset")
    page.click(".card .open")
    page.keyboard.press("End")
    assert page.inner_text(".position") == "5,000 of 5,000"
    page.keyboard.press("Escape")
    wait_until(page, "document.activeElement.closest('.card')?.dataset.index === '4999'")
