"""The keyboard and the large view: where the focus goes, what is shown, and how to get back."""

from __future__ import annotations

from typing import Any

import pytest
from contents import make_content
from reading import Open, numbers, state, wait_until

pytestmark = pytest.mark.browser


def focused_card(page: Any) -> int:
    return page.evaluate("Number(document.activeElement.closest('.card')?.dataset.index ?? -1)")


def wait_for_focus_on(page: Any, card: int) -> None:
    """Closing a dialog, the browser puts the focus back where it was before, and then the page moves it on."""
    wait_until(page, f"document.activeElement.closest('.card')?.dataset.index === '{card}'")


def title(page: Any) -> str:
    return page.inner_text("#large-title")


def test_enter_opens_arrows_move_and_escape_returns_to_the_last_card(open_report: Open) -> None:
    content = make_content(10)
    page = open_report(content)
    page.focus(".card .open")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#large').open") and title(page) == content["images"][0]["id"]
    assert state(page) == {"image": "0"}
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert title(page) == content["images"][2]["id"] and state(page) == {"image": "2"}
    page.keyboard.press("End")
    assert title(page) == content["images"][9]["id"]
    page.keyboard.press("ArrowRight")  # no further
    assert title(page) == content["images"][9]["id"]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    wait_until(page, "!document.querySelector('#large').open")
    assert focused_card(page) == 1 and state(page) == {}


def test_arrows_follow_the_order_and_the_filter_of_the_gallery(open_report: Open) -> None:
    content = make_content(30)
    page = open_report(content)
    page.select_option("#choice-sort", "area")
    page.select_option("#choice-label", "1")
    order = numbers(page)
    page.click(".card .open")
    for at in order[:4]:
        assert title(page) == content["images"][at]["id"]
        page.click("#large-next") if at != order[3] else None
    assert page.evaluate("document.activeElement.id") == "large-next"
    assert page.inner_text(".position") == f"4 of {len(order)}"


def test_all_overlays_lie_side_by_side_with_the_numbers(open_report: Open) -> None:
    content = make_content(6, compare=True)
    page = open_report(content)
    page.click(".card .open")
    captions = page.locator(".large-row").first.locator("figcaption strong").all_inner_texts()
    assert captions == ["Image", "Mask, stage 2", "Mask, stage 3", "Merged mask", "Contributions"]
    assert page.locator(".large-row").count() == 3
    of_plain = page.locator(".large-row").nth(2).locator("figcaption strong").all_inner_texts()
    assert of_plain == ["Image", "Contributions"]
    painted = page.eval_on_selector_all("#large canvas", "all => all.map((one) => one.width)")
    assert min(painted) > 100
    numbers_said = page.inner_text(".large-numbers")
    for seen in content["images"][0]["by_model"]:
        for key in ("confidence", "true_confidence", "energy_pointing", "mask_precision", "mask_recall", "area"):
            assert seen[key] is None or f"{100 * seen[key]:.1f}%" in numbers_said


def test_click_next_to_it_and_its_button_close_it(open_report: Open) -> None:
    page = open_report()
    page.click(".card .open")
    page.mouse.click(5, 450)
    assert not page.evaluate("document.querySelector('#large').open")
    page.click(".card .open")
    page.click("#large-close")
    assert not page.evaluate("document.querySelector('#large').open")


def test_address_opens_an_image(open_report: Open) -> None:
    content = make_content(10)
    page = open_report(content, "#image=7")
    assert title(page) == content["images"][7]["id"]
    page.keyboard.press("Escape")
    wait_for_focus_on(page, 7)


def test_returning_to_a_card_far_down_hangs_it(open_report: Open) -> None:
    page = open_report(make_content(200))
    page.click(".card .open")
    page.keyboard.press("End")
    page.keyboard.press("Escape")
    wait_for_focus_on(page, 199)


def test_arrow_keys_walk_over_the_cards_as_they_lie(open_report: Open) -> None:
    page = open_report(make_content(20))
    page.focus(".card .open")
    columns = page.evaluate("getComputedStyle(document.querySelector('#cards')).gridTemplateColumns.split(' ').length")
    page.keyboard.press("ArrowRight")
    assert focused_card(page) == 1
    page.keyboard.press("ArrowDown")
    assert focused_card(page) == 1 + columns
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert focused_card(page) == 0
    page.keyboard.press("End")
    assert focused_card(page) == 19


def test_keys_do_nothing_while_the_user_types(open_report: Open) -> None:
    page = open_report()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "choice-text"
    page.keyboard.type("mco")
    assert state(page) == {"text": "mco"}


def test_every_stop_of_the_tab_key_shows_where_it_is(open_report: Open) -> None:
    page = open_report(make_content(4))
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop, shown = page.evaluate(
            """() => {
              const at = document.activeElement;
              const radio = at.matches("input[type=radio]");
              const ring = radio ? at.nextElementSibling : at.closest("svg a")?.firstChild ?? at;
              const style = getComputedStyle(ring);
              const name = at.id || at.getAttribute("class") || at.name || at.tagName;
              return [name, style.outlineStyle !== "none" || Number.parseFloat(style.strokeWidth) >= 3];
            }"""
        )
        if stop == "BODY":
            break
        assert shown, stop
        seen.append(stop)
    assert {"skip", "theme", "choice-sort", "choice-text", "overlay", "object", "open"} <= set(seen)


def test_scatter_is_one_stop_and_its_marks_open_their_image(open_report: Open) -> None:
    content = make_content(20)
    page = open_report(content)
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a")
    both = [
        at
        for at, image in enumerate(content["images"])
        if all(seen["energy_pointing"] is not None for seen in image["by_model"])
    ]
    assert page.locator("#scatter a").count() == len(both)
    assert page.locator("#scatter a[tabindex='0']").count() == 1
    across = sorted(both, key=lambda at: [seen["energy_pointing"] for seen in content["images"][at]["by_model"]][::-1])
    page.focus("#scatter a[tabindex='0']")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#preview") and content["images"][across[1]]["id"] in page.inner_text("#preview")
    page.keyboard.press("Enter")
    assert title(page) == content["images"][across[1]]["id"]
    page.keyboard.press("Escape")
    wait_until(page, "document.activeElement.closest('#scatter a') !== null")
    assert page.evaluate("Number(document.activeElement.dataset.index)") == across[1]
    page.keyboard.press("Enter")
    page.click("#large-card")
    wait_for_focus_on(page, across[1])


def test_scatter_places_its_marks_and_fades_what_the_filters_leave_out(open_report: Open) -> None:
    content = make_content(20)
    page = open_report(content)
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a")
    page.select_option("#choice-outcome", "wrong")
    placed = page.eval_on_selector_all(
        "#scatter a",
        """all => all.map((link) => {
          const [x, y] = link.firstChild.getAttribute("transform").match(/[\\d.]+/g).map(Number);
          return [Number(link.dataset.index), (x - 56) / 440, 1 - (y - 10) / 440, link.classList.contains("faded")];
        })""",
    )
    for at, x, y, faded in placed:
        aim, plain = content["images"][at]["by_model"]
        assert (x, y) == pytest.approx((plain["energy_pointing"], aim["energy_pointing"]), abs=1e-3)
        assert faded == aim["right"]
    words = page.inner_text("#scatter-words")
    better = sum(y > x for _, x, y, _ in placed)
    assert f"points better in {better} of {len(placed)} images" in words


def test_scatter_compares_the_pair_that_is_asked_for(open_report: Open) -> None:
    page = open_report(make_content(12, compare=True))
    page.locator("#pointing").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter a")
    page.select_option("#scatter-pair", "1,0")
    assert page.locator("#scatter text.axis").all_text_contents() == ["B: AIM, tau 0.5", "A: AIM, tau 0.25"]
