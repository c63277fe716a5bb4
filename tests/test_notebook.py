"""What notebooks show: the numbers of the result, in HTML that needs no other file and lets no name run."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Protocol

import pytest
import torch
from PIL import Image

from aimwrap import (
    AIM,
    AreaCurve,
    AreaPoint,
    Check,
    Explanation,
    Inspection,
    Survival,
    Verification,
    explain,
    inspect_backbone,
)

HOSTILE = "<script>alert('a')</script>\"&"
ALLOWED = {"div", "table", "tr", "th", "td", "b", "br", "img", "svg", "g", "line", "circle", "pre"}
VOID = {"br", "img", "line", "circle"}


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return inspect_backbone("zoo:TinyNet", example_input=torch.zeros(1, 3, 32, 32))


class Shown(Protocol):
    def _repr_html_(self) -> str: ...


class Page(HTMLParser):
    """Reads a result's HTML: its cells by row, its images, and whether every tag is closed."""

    def __init__(self, shown: Shown) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[Image.Image] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(shown._repr_html_())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("href", "class", "id") and "url(" not in (value or "")
            if name == "src":
                kind, _, encoded = (value or "").partition(",")
                assert kind == "data:image/png;base64"
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "br":
            self.handle_data("\n")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("th", "td", "b"):
            self.rows[-1][-1] += data


def by_hand(images: int = 5, stage: int | str = 2) -> Explanation:
    """Two positions and three classes: the logits are 1, -1 and 0.25 times what is open, with biases."""
    mask = torch.tensor([[1.0, 0.0]]).expand(images, 1, 1, 2).clone()
    contributions = torch.tensor([1.0, -1.0, 0.25]).view(1, 3, 1, 1) * mask
    bias = torch.tensor([0.5, 0.0, 8.0])
    logits = contributions.sum((2, 3)) + bias
    return Explanation(logits, {stage: mask}, {stage: mask}, mask, contributions, {stage: contributions}, bias)


def opacities(picture: Image.Image) -> list[int]:
    return list(picture.getchannel("A").tobytes())


def test_an_explanation_shows_its_numbers() -> None:
    page = Page(by_hand())
    header, first = page.rows[:2]
    assert header == [
        "image",
        "prediction",
        "mask of stage 2",
        "merged mask",
        *(f"contributions {n}" for n in (1, 2, 3)),
    ]
    assert first[:4] == ["0", "class 2\nlogit 8.25", "\n50.0% open", "\n50.0% open"]
    assert first[4:] == [
        "\nclass 2\nlogit 8.25\nbias 8",
        "\nclass 0\nlogit 1.5\nbias 0.5",
        "\nclass 1\nlogit -1\nbias 0",
    ]
    assert len(page.rows) == 1 + 4 and "the first 4 of 5 images; 3 of 3 classes" in page.text


def test_images_are_the_masks_and_the_contributions() -> None:
    mask, merged, *classes = Page(by_hand(images=1)).pictures
    assert opacities(mask) == opacities(merged) == [235, 0] and mask.size == (2, 1)
    assert [opacities(picture) for picture in classes] == [[64, 0], [255, 0], [255, 0]]  # on one scale
    red, _, blue, _ = classes[1].getpixel((0, 0))  # type: ignore[misc]
    assert red > blue
    red, _, blue, _ = classes[2].getpixel((0, 0))  # type: ignore[misc]
    assert blue > red


def test_an_explanation_of_some_classes_does_not_guess_their_numbers(wrapped: Callable[..., AIM]) -> None:
    explanation = explain(wrapped("tiny"), torch.randn(1, 3, 64, 96), classes=[3, 1])
    page = Page(explanation)
    assert (
        "2 of" in page.text and "asked for as number 0" in page.text and "class 3\n" not in page.text.split("asked")[1]
    )
    shown = {float(value) for value in re.findall(r"logit (\S+)", " ".join(page.rows[1][-2:]))}
    assert shown == {float(f"{value:.4g}") for value in explanation.logits[0, [3, 1]].tolist()}


def test_the_text_is_short(wrapped: Callable[..., AIM]) -> None:
    explanation = explain(wrapped("tiny"), torch.randn(2, 3, 64, 96), classes=[3])
    assert re.fullmatch(
        r"Explanation\(2 images, 1 of \d+ classes, stages \[2, 3\], merged to 4 x 6\)", repr(explanation)
    )


def test_what_is_not_finite_is_said() -> None:
    broken = by_hand(images=1)
    broken.contributions[0, 0, 0, 0] = float("nan")
    assert "logit nan" in Page(broken).text


def test_names_are_escaped(inspection: Inspection) -> None:
    assert HOSTILE in Page(by_hand(stage=HOSTILE)).text
    taps = tuple(tap._replace(node=HOSTILE) for tap in inspection.taps)
    page = Page(inspection._replace(taps=taps, name="zoo:TinyNet"))
    assert HOSTILE in page.text
    assert HOSTILE in Page(Verification((Check(HOSTILE, True, HOSTILE),), (), 0.5, HOSTILE)).text


def test_a_verification_says_what_failed_and_how_sure_it_is() -> None:
    checks = (Check("masks are binary", True, "all of them"), Check("values are finite", False, "the logits are not"))
    page = Page(Verification(checks, (Survival("merged mask", "blur", "fixed", 0.5, 0.25, 0.75, 40),), 0.3))
    assert page.rows[1:3] == [
        ["ok", "masks are binary", "all of them"],
        ["FAILED", "values are finite", "the logits are not"],
    ]
    assert page.rows[4] == ["merged mask", "blur", "fixed", " 0.500 [0.250, 0.750]", "40"]
    assert "area 0.30" in page.text


def test_an_interval_is_drawn_to_scale() -> None:
    html = Verification((), (Survival("merged mask", "blur", "fixed", 0.5, 0.25, 0.75, 40),), 0.3)._repr_html_()
    ends = [float(value) for value in re.findall(r'x[12]="(\S+?)"', html)]
    assert ends == [4, 116, 32, 88] and 'cx="60.0"' in html


@pytest.mark.parametrize("worst", [None, 0.4])
def test_an_area_curve_ends_with_the_model_s_own_masks(worst: float | None) -> None:
    points = [AreaPoint(asked, 0.26, {2: 0.25}, 0.7, 0.6, 0.8, worst) for asked in (0.25, None)]
    page = Page(AreaCurve((points[0],), points[1], 80))
    more = [] if worst is None else ["0.400"]
    assert page.rows[1] == ["0.25", "0.260", " 0.700 [0.600, 0.800]", *more]
    assert page.rows[2][0] == "the model's own" and len(page.rows[0]) == 3 + len(more)
    assert "Of 80 images." in page.text


def test_an_inspection_has_the_tables_of_its_text(inspection: Inspection) -> None:
    page = Page(inspection)
    stages, costs = inspection.tables().values()
    assert page.rows == [list(row) for row in (*stages, *costs)]
    assert all(line in page.text and line in str(inspection) for line in (inspection.summary, *inspection.lines))


def test_a_second_look_shows_kept_pixels_and_its_box() -> None:
    kept = torch.zeros(1, 1, 4, 8)
    kept[..., 1:3, 2:4] = 1
    one = by_hand(images=1)._replace(kept=kept, boxes=torch.tensor([[1.0, 0.6, 5.0, 2.6]]), stage_contributions={})
    page = Page(one)
    assert page.rows[0][3:] == ["merged mask", "kept pixels", *(f"contributions {n}" for n in (1, 2, 3))]
    assert page.rows[1][4] == "\n12.5% open\nbox 1, 1, 5, 3"
    assert page.pictures[2].size == (8, 4) and opacities(page.pictures[2]).count(235) == 4
    assert "second look's, on its enlarged box" in page.text and "on_the_image() places them" in page.text
    assert repr(one) == "Explanation(1 images, 3 of 3 classes, stages [2], a second look of 1 x 2)"
    assert "box" not in Page(by_hand(images=1)).text
