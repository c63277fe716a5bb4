"""Sorting and filtering: the cards that hang, their order, the count, and the address that brings them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contents import make_content
from reading import Open, ids, numbers, state, wait_until

pytestmark = pytest.mark.browser


def expected(content: dict[str, Any], value: Callable[[dict[str, Any]], Any], model: int = 0) -> list[int]:
    """Numbers of the images by a value of one model, the smallest first; undefined ones last."""
    values = [value(image["by_model"][model]) for image in content["images"]]
    return sorted(range(len(values)), key=lambda at: (values[at] is None, values[at] if values[at] is not None else 0))


SORTS = {
    "confidence of the truth": lambda seen: seen["true_confidence"],
    "confidence": lambda seen: -seen["confidence"],
    "pointing": lambda seen: seen["energy_pointing"],
    "precision": lambda seen: seen["mask_precision"],
    "area": lambda seen: -seen["area"],
}


def test_worst_comes_first(open_report: Open) -> None:
    content = make_content()
    assert numbers(open_report(content)) == expected(content, SORTS["confidence of the truth"])


@pytest.mark.parametrize("sort", list(SORTS))
def test_sorts(open_report: Open, sort: str) -> None:
    content = make_content(30)
    content["images"][3]["by_model"][0]["energy_pointing"] = None
    content["images"][5]["by_model"][0]["mask_precision"] = None
    page = open_report(content)
    page.select_option("#choice-sort", sort)
    assert numbers(page) == expected(content, SORTS[sort])
    page.check("#choice-reversed")
    turned = numbers(page)
    undefined = [at for at in turned if SORTS[sort](content["images"][at]["by_model"][0]) is None]
    assert turned[len(turned) - len(undefined) :] == undefined  # last, whichever way round
    values = [SORTS[sort](content["images"][at]["by_model"][0]) for at in turned if at not in undefined]
    assert values == sorted(values, reverse=True)


def test_sorts_numbers_in_names_by_value(open_report: Open) -> None:
    content = make_content(3)
    for image, name in zip(content["images"], ("image 10", "image 9", "image 1"), strict=True):
        image["id"] = name
    page = open_report(content)
    page.select_option("#choice-sort", "name")
    assert ids(page) == ["image 1", "image 9", "image 10"]


def test_values_of_another_model_sort_and_filter(open_report: Open) -> None:
    content = make_content()
    page = open_report(content)
    page.select_option("#choice-by", label="P: plain")
    assert numbers(page) == expected(content, SORTS["confidence of the truth"], model=1)
    page.select_option("#choice-outcome", "wrong")
    assert set(numbers(page)) == {at for at, image in enumerate(content["images"]) if not image["by_model"][1]["right"]}


@pytest.mark.parametrize(
    ("act", "keeps"),
    [
        (lambda page: page.select_option("#choice-group", "2"), lambda image: image["group"] == 2),
        (lambda page: page.select_option("#choice-label", "1"), lambda image: image["label"] == 1),
        (
            lambda page: page.select_option("#choice-predicted", "2"),
            lambda image: image["by_model"][0]["predicted"] == 2,
        ),
        (lambda page: page.select_option("#choice-outcome", "right"), lambda image: image["by_model"][0]["right"]),
        (lambda page: page.select_option("#choice-outcome", "wrong"), lambda image: not image["by_model"][0]["right"]),
        (lambda page: page.fill("#choice-text", "BIRD/0000"), lambda image: "bird/0000" in image["id"]),
        (
            lambda page: (page.fill("#choice-low", "20"), page.fill("#choice-high", "80")),
            lambda image: 0.2 <= (image["by_model"][0]["energy_pointing"] or 0) <= 0.8,
        ),
    ],
    ids=["group", "class", "predicted", "right", "wrong", "text", "pointing"],
)
def test_filters(open_report: Open, act: Callable[[Any], Any], keeps: Callable[[dict[str, Any]], bool]) -> None:
    content = make_content(40)
    page = open_report(content)
    act(page)
    left = {at for at, image in enumerate(content["images"]) if keeps(image)}
    assert 0 < len(left) < 40
    assert set(numbers(page)) == left
    right = sum(content["images"][at]["by_model"][0]["right"] for at in left)
    assert page.inner_text("#count").startswith(f"{len(left)} of 40 images")
    assert f"{right} right" in page.inner_text("#count")
    page.click("#reset")
    assert len(numbers(page)) == 40 and not page.is_visible("#reset")


def test_filters_join_and_nothing_left_is_said(open_report: Open) -> None:
    page = open_report(make_content(20))
    page.select_option("#choice-label", "0")
    page.fill("#choice-text", "mammal")
    assert numbers(page) == [] and page.is_visible("#nothing")
    assert page.inner_text("#count") == "0 of 20 images"
    page.click("#reset-nothing")
    assert len(numbers(page)) == 20 and not page.is_visible("#nothing")
    assert page.input_value("#choice-text") == ""


def test_count_is_announced(open_report: Open) -> None:
    assert open_report().get_attribute("#count", "aria-live") == "polite"


def test_cards_say_right_and_wrong_in_words(open_report: Open) -> None:
    content = make_content(30)
    page = open_report(content)
    words = page.eval_on_selector_all(".card .verdict", "all => all.map((one) => one.textContent.trim())")
    order = numbers(page)
    assert words == ["✓ right" if content["images"][at]["by_model"][0]["right"] else "✗ wrong" for at in order]
    assert {"✓ right", "✗ wrong"} == set(words)


def test_address_brings_the_view_back(open_report: Open) -> None:
    content = make_content(30)
    page = open_report(content)
    assert state(page) == {}
    page.select_option("#choice-sort", "area")
    page.select_option("#choice-outcome", "right")
    page.fill("#choice-text", "mammal")
    page.check("#choice-reversed")
    page.press("body", "c")
    said = {"sort": "area", "outcome": "right", "text": "mammal", "reversed": "yes", "overlay": "contributions"}
    assert state(page) == said
    order = numbers(page)
    page.reload()
    page.wait_for_selector("html.scripted")
    assert numbers(page) == order and state(page) == said
    assert page.input_value("#choice-sort") == "area" and page.input_value("#choice-text") == "mammal"
    assert page.is_checked("[name=overlay][value=contributions]")


@pytest.mark.parametrize(
    "address",
    ["#sort=size&group=99&label=-1&by=7&low=1e9&overlay=<img>&image=99999&x=y", "#%", "#=&&=&sort", "#numbers"],
)
def test_an_address_that_makes_no_sense_is_passed_over(open_report: Open, address: str) -> None:
    assert len(numbers(open_report(make_content(12), address))) == 12


def test_any_text_survives_the_address(open_report: Open) -> None:
    page = open_report()
    page.fill("#choice-text", "a&b=c#100% +ü")
    page.reload()
    page.wait_for_selector("html.scripted")
    assert page.input_value("#choice-text") == "a&b=c#100% +ü" == state(page)["text"]


def test_links_to_sections_keep_the_state(open_report: Open) -> None:
    page = open_report()
    page.select_option("#choice-sort", "name")
    page.click("nav a[href='#groups']")
    assert state(page) == {"sort": "name"}
    assert page.evaluate("document.activeElement.id") == "groups"


def test_a_changed_address_is_followed(open_report: Open) -> None:
    page = open_report()
    page.evaluate("location.hash = '#label=1'")
    wait_until(page, "document.querySelector('#choice-label').value === '1'")
    assert 0 < len(numbers(page)) < 24


def test_comparison_shows_both_models_and_starts_with_the_largest_difference(open_report: Open) -> None:
    content = make_content(20, compare=True)
    page = open_report(content)
    assert numbers(page) == list(range(20))
    assert page.locator(".card").first.locator(".view").count() == 2
    assert page.locator(".card").first.locator(".verdict").count() == 2
    page.select_option("#choice-outcome", "only A")
    left = [
        at
        for at, image in enumerate(content["images"])
        if image["by_model"][0]["right"] and not image["by_model"][1]["right"]
    ]
    assert numbers(page) == left and left
    page.check("#choice-plain")
    assert page.locator(".card").first.locator(".view").count() == 3


def test_without_objects_and_groups_nothing_asks_for_them(open_report: Open) -> None:
    page = open_report(make_content(6, objects=False, groups=False, plain=False))
    for field in ("#choice-group", "#choice-low", "#object", "#choice-by", "#choice-plain", "#scatter"):
        assert page.locator(field).count() == 0
    page.press("body", "o")
    assert state(page) == {}
