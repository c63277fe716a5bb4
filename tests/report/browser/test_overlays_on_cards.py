"""What is painted over the images, read off the canvases again, cell by cell."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import numpy as np
import pytest
from contents import PLAIN, STAGES, Array, make_content, packed
from PIL import Image
from reading import Open, settle, state

pytestmark = pytest.mark.browser

CLOSED_ALPHA = 204  # of 255, as 0.8 is


def pixels(page: Any, card: int = 0, view: int = 0) -> Array:
    """Red, green, blue and alpha of a card's canvas, (H, W, 4)."""
    settle(page)
    address = page.evaluate(
        "([card, view]) => document.querySelectorAll('.card')[card].querySelectorAll('canvas')[view].toDataURL()",
        [card, view],
    )
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as picture:
        assert picture.width > 60, "not painted"
        return np.array(picture.convert("RGBA"))


def centres(painted: Array, rows: int, columns: int) -> Array:
    """The pixel in the middle of every cell, (rows, columns, 4)."""
    height, width = painted.shape[:2]
    at = [((np.arange(count) + 0.5) * size / count).astype(int) for count, size in ((rows, height), (columns, width))]
    return painted[np.ix_(at[0], at[1])]


def unpacked(bits: str, side: int) -> Array:
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8))[: side * side].reshape(side, side)


def first_seen(content: dict[str, Any], model: int = 0) -> dict[str, Any]:
    return content["images"][0]["by_model"][model]


def test_merged_mask_dims_what_is_closed_and_nothing_else(open_report: Open) -> None:
    content = make_content(6)
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    alpha = centres(pixels(page), 14, 14)[..., 3]
    merged = unpacked(first_seen(content)["merged"], 14)
    assert 0 < merged.mean() < 1
    assert (alpha[merged == 1] == 0).all() and (alpha[merged == 0] == CLOSED_ALPHA).all()


@pytest.mark.parametrize(("key", "stage"), [("1", "2"), ("2", "3")])
def test_stage_masks_come_by_their_keys(open_report: Open, key: str, stage: str) -> None:
    content = make_content(6)
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", key)
    side = STAGES[stage]
    alpha = centres(pixels(page), side, side)[..., 3]
    mask = unpacked(first_seen(content)["masks"][stage], side)
    assert (alpha[mask == 1] == 0).all() and (alpha[mask == 0] == CLOSED_ALPHA).all()
    assert state(page)["overlay"] == f"stage {stage}"


def test_contributions_have_the_colour_of_their_sign_and_none_outside_the_mask(open_report: Open) -> None:
    content = make_content(6)
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", "c")
    seen = first_seen(content)
    painted = centres(pixels(page), 14, 14).astype(int)
    red, blue, alpha = painted[..., 0], painted[..., 2], painted[..., 3]
    levels = np.frombuffer(base64.b64decode(seen["contributions"]["values"]), np.int8).reshape(14, 14)
    merged = unpacked(seen["merged"], 14)
    strong = np.abs(levels.astype(int)) > 20
    assert (levels > 20).any() and (levels < -20).any()
    assert (red > blue)[strong & (levels > 0)].all() and (blue > red)[strong & (levels < 0)].all()
    assert np.allclose(alpha[strong], 255 * 0.9 * np.abs(levels[strong].astype(int)) / 127, atol=2)
    outside = painted[merged == 0]
    assert (outside[:, :3].max(axis=1) - outside[:, :3].min(axis=1) < 12).all()  # dark grey: no sign of any colour


def test_no_contributions_at_all_are_painted_as_none(open_report: Open) -> None:
    content = make_content(2, alone=PLAIN._replace(role="model"), plain=False)
    first_seen(content)["contributions"] = {"scale": 0.0, "values": base64.b64encode(bytes([90]) * 49).decode()}
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    assert (pixels(page)[..., 3] == 0).all()


def test_image_alone_has_nothing_over_it(open_report: Open) -> None:
    page = open_report(make_content(6))
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", "0")
    assert (pixels(page)[..., 3] == 0).all()


def test_outline_of_the_object_comes_and_goes(open_report: Open) -> None:
    content = make_content(6)
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", "0")
    page.press("body", "o")
    assert state(page)["object"] == "yes" and page.get_attribute("#object", "aria-pressed") == "true"
    drawn = pixels(page)[..., 3] > 0
    mask = unpacked(content["images"][0]["object"]["bits"], 28)
    edge = np.zeros_like(mask, dtype=bool)
    for shift in itertools.product((-1, 0, 1), repeat=2):
        edge |= mask != np.roll(mask, shift, (0, 1))
    height, width = drawn.shape
    rows, columns = np.nonzero(drawn)
    assert len(rows) and edge[(rows * 28 // height).clip(max=27), (columns * 28 // width).clip(max=27)].all()
    page.click("#object")
    assert (pixels(page)[..., 3] == 0).all() and "object" not in state(page)


def test_buttons_show_an_overlay_on_every_card(open_report: Open) -> None:
    page = open_report(make_content(6))
    page.locator(".card").first.scroll_into_view_if_needed()
    page.locator(".overlay-bar .segmented label", has_text="Contributions").click()
    assert page.locator(".view.greyed").count() == 6
    page.locator(".overlay-bar .segmented label", has_text="Image").click()
    assert page.locator(".view.greyed").count() == 0
    assert (pixels(page, card=2)[..., 3] == 0).all()


def test_hovering_shows_the_bare_image_and_leaving_brings_the_overlay_back(open_report: Open) -> None:
    page = open_report(make_content(6))
    page.locator(".card").first.scroll_into_view_if_needed()
    assert (pixels(page)[..., 3] == CLOSED_ALPHA).any()
    page.hover(".card >> nth=0")
    assert (pixels(page)[..., 3] == 0).all() and (pixels(page, card=1)[..., 3] == CLOSED_ALPHA).any()
    page.hover("h1")
    page.locator(".card").first.scroll_into_view_if_needed()
    assert (pixels(page)[..., 3] == CLOSED_ALPHA).any()


def test_a_model_without_masks_says_so(open_report: Open) -> None:
    page = open_report(make_content(6))
    page.check("#choice-plain")
    page.locator(".card").first.scroll_into_view_if_needed()
    assert (pixels(page, view=1)[..., 3] == 0).all()
    assert page.locator(".card").first.locator(".view.lacking").count() == 1
    assert "no mask" in page.evaluate("getComputedStyle(document.querySelector('.lacking'), '::after').content")


def test_a_plain_model_that_is_reported_on_opens_on_what_it_has(open_report: Open) -> None:
    """Issue 22, 29: beside an AIM it opened on the merged mask, so every card said "no mask here"."""
    page = open_report(make_content(6, compare=True, plain=False, alone=PLAIN))
    page.press("body", "m")
    assert state(page) == {"overlay": "merged"}  # and not the usual one, which the address leaves out
    page.press("body", "c")
    assert state(page) == {}


def test_models_with_other_stages_show_their_own(open_report: Open) -> None:
    content = make_content(4, compare=True, plain=False)
    other = content["models"][1]
    other["stages"] = [stage for stage in other["stages"] if stage["stage"] == "3"]
    for image in content["images"]:
        del image["by_model"][1]["masks"]["2"]
    page = open_report(content)
    page.locator(".card").first.scroll_into_view_if_needed()
    page.press("body", "1")
    assert page.locator(".view.lacking").count() == 4
    page.press("body", "2")
    assert page.locator(".view.lacking").count() == 0


def test_a_second_looks_contributions_are_in_its_box_and_its_kept_pixels_are_shown(open_report: Open) -> None:
    content = make_content(3, plain=False)
    content["models"][0] |= {"kind": "second look", "contributions_grid": [4, 4]}
    kept = np.zeros((14, 14), bool)
    kept[4:9, 4:6] = True
    signs = np.array([[1, 0, -1, 1]] * 4, np.int8)
    values = {"scale": 1.0, "values": base64.b64encode((127 * signs).tobytes()).decode()}
    box = [2 / 7, 2 / 7, 6 / 7, 6 / 7]  # cells 4 to 11 of 14
    for image in content["images"]:
        image["by_model"][0] |= {"kept": packed(kept), "kept_area": 0.1, "box": box, "contributions": values}
    page = open_report(content)
    assert "kept 10%" in page.locator(".card").first.text_content()
    page.locator(".card").first.scroll_into_view_if_needed()
    alpha = centres(pixels(page), 14, 14)[..., 3]  # it opens on the kept pixels; a cell is wider than a line
    assert (alpha[kept] == 0).all() and (alpha[~kept] == CLOSED_ALPHA).all()
    page.press("body", "c")
    painted = centres(pixels(page), 14, 14).astype(int)
    red, blue, alpha = painted[..., 0], painted[..., 2], painted[..., 3]
    expected = np.zeros((14, 14), int)
    expected[4:12, 4:12] = signs.repeat(2, 0).repeat(2, 1)
    assert (red[expected == 1] > blue[expected == 1]).all() and (blue[expected == -1] > red[expected == -1]).all()
    assert (alpha[expected != 0] > 220).all()
    assert (alpha[(expected == 0) & kept] == 0).all() and (abs(alpha[(expected == 0) & ~kept] - 128) <= 1).all()
