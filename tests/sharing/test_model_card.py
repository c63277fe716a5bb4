"""The model card says what was saved, whatever the names in it are, and its code runs."""

import math
import re
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from zoo import TinyNet

from aimwrap import AIM, Preprocessing

HOSTILE = (
    "a|b\n---\nlicense: evil\n# <script>x</script> [l](https://e.org) ![i](y) `c` $m$ @you www.e.org \u202e\x1b ```"
)


def aim(**arguments: object) -> AIM:
    return AIM(TinyNet(), [2, 3], tau=[0.25, 0.5], mask_width=4, **arguments)


@pytest.fixture(scope="module")
def model() -> AIM:
    """A model for tests that change nothing of it."""
    return aim()


def rows(card: ModelCard, title: str) -> list[str]:
    section = card.text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def snippet(card: ModelCard) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", card.text, flags=re.DOTALL | re.MULTILINE)
    return code


def test_says_what_the_model_is(tmp_path: Path, model: AIM) -> None:
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "aimwrap" and card.data.pipeline_tag == "image-classification"
    facts = dict(tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows(card, "Model"))
    assert facts["head"] == "feature-preserving"
    assert facts["stage 2"] == "block2, 16 channels, stride 16, tau 0.25"
    assert facts["stage 3"] == "block3, 20 channels, stride 32, tau 0.5"
    assert facts["classes"] == "7"
    assert facts["images"] == "3 channels; their preprocessing is not recorded"
    assert any(str(model.cost()).splitlines()[0] in row for row in rows(card, "Model"))
    assert "TinyNet+AIM" in card.text and "Words of caution" in card.text and "None were given" in card.text


def test_metrics_with_and_without_intervals(model: AIM) -> None:
    metrics = {"accuracy": 0.91234, "worst group": (0.81, 0.75, 0.86), "pointing": torch.tensor(0.5)}
    numpys = {"area": numpy.float32(0.25), "seeds": numpy.array(5), "gain": numpy.array([0.125])}
    mixed = {"none": [1, 1, 1], "iou": (torch.tensor(0.5), numpy.float64(0.25), 1), "third": Fraction(1, 3)}
    card = model.generate_model_card(metrics | numpys | mixed)
    assert rows(card, "Metrics") == [
        "| accuracy | 0.9123 |  |",
        "| worst group | 0.81 | 0.75 to 0.86 |",
        "| pointing | 0.5 |  |",
        "| area | 0.25 |  |",
        "| seeds | 5 |  |",
        "| gain | 0.125 |  |",
        "| none | 1 | 1 to 1 |",
        "| iou | 0.5 | 0.25 to 1 |",
        "| third | 0.3333 |  |",
    ]


def test_a_metric_of_nothing_is_undefined(model: AIM) -> None:
    """The energy pointing game of images without objects is NaN; saving must not fail because of it."""
    card = model.generate_model_card({"pointing": torch.nan, "worst group": (0.5, numpy.nan, math.nan)})
    assert rows(card, "Metrics") == ["| pointing | undefined |  |", "| worst group | 0.5 | undefined |"]
    assert "None were given." in model.generate_model_card({}).text


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        ("0.9", TypeError),
        (("0.9", "0.8", "1"), TypeError),
        ((0.9, 0.8), TypeError),
        (None, TypeError),
        (torch.zeros(3), TypeError),
        (numpy.zeros(3), TypeError),
        (torch.zeros(1, device="meta"), TypeError),
        (True, TypeError),
        (torch.tensor(True), TypeError),
        (b"0.9", TypeError),
        (numpy.str_("0.9"), TypeError),
        (1j, TypeError),
        (numpy.complex64(1), TypeError),
        ((), TypeError),
        ([0.9], TypeError),
        ((0.9, 0.8, 1.0, 0.1), TypeError),
        ((0.9, None, 1.0), TypeError),
        ({"value": 0.9}, TypeError),
        (math.inf, ValueError),
        (numpy.float32("-inf"), ValueError),
        ((0.9, 0.8, math.inf), ValueError),
        ((0.9, math.nan, 1.0), ValueError),
        ((0.9, 0.91, 1.0), ValueError),
        ((0.9, 0.1, 0.8), ValueError),
        ((float("nan"), 0.1, 0.8), ValueError),
    ],
)
def test_wrong_metrics(metric: object, error: type[Exception], model: AIM) -> None:
    with pytest.raises(error, match=r"metrics\['accuracy'\] must be"):
        model.generate_model_card({"accuracy": metric})


@pytest.mark.parametrize("metrics", [0.9, [("accuracy", 0.9)], {1: 0.9}, torch.tensor(0.9), "accuracy", []])
def test_metrics_without_names(metrics: object, model: AIM) -> None:
    with pytest.raises(TypeError, match=r"metrics must be numbers by name, such as \{'accuracy': 0\.9\}, got"):
        model.generate_model_card(metrics)


def test_names_break_neither_the_head_nor_the_tables(tmp_path: Path) -> None:
    model = aim()
    model.save_pretrained(tmp_path, class_names=[HOSTILE] * 7, metrics={HOSTILE: 0.5, "accuracy": 0.9})
    card = ModelCard.load(tmp_path / "README.md")
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert len(rows(card, "Metrics")) == 2
    for row in rows(card, "Metrics") + rows(card, "Model"):
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == (5 if row in rows(card, "Metrics") else 4)
        assert not re.search(r"(?<!\\)[`<\[$@#]|://|www\.e", row.replace("\\:", "").replace("www\\.", ""))
        assert row.isprintable()
    assert card.text.count("```") == 2
    assert AIM.from_pretrained(tmp_path, backbone=TinyNet()).class_names == (HOSTILE,) * 7


def test_a_thousand_classes_are_not_all_shown() -> None:
    model = AIM(TinyNet(num_classes=1000), mask_width=4)
    model.class_names = tuple(f"class-{index}" for index in range(1000))
    (row,) = [row for row in rows(model.generate_model_card(), "Model") if "classes" in row]
    assert row.endswith("class-18, class-19, ... |")


@pytest.mark.parametrize(("prepared", "named"), [(True, True), (False, False)])
def test_its_code_runs(
    prepared: bool,
    named: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 7}
    model = AIM("convnext_atto", mask_width=4, backbone_kwargs=tiny) if named else aim()
    model.preprocessing = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3) if prepared else None
    model.save_pretrained(tmp_path, class_names=[f"bird {index}" for index in range(7)] if prepared else None)
    Image.new("RGB", (90, 70)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {} if named else {"backbone": TinyNet()}
    code = snippet(ModelCard.load("README.md"))
    assert ("backbone" in code) is not named
    exec(code, names)
    assert re.fullmatch(r"bird \d" if prepared else r"\d", capsys.readouterr().out.strip())


def test_a_card_is_replaced_until_a_user_takes_it_over(tmp_path: Path) -> None:
    model, card = aim(), tmp_path / "README.md"
    model.save_pretrained(tmp_path, metrics={"accuracy": 0.1})
    model.save_pretrained(tmp_path, metrics={"accuracy": 0.2})
    assert "0.2" in card.read_text() and "0.1 " not in card.read_text()
    card.write_text(own := "\n".join(line for line in card.read_text().splitlines() if "delete this line" not in line))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"README\.md is your own and was kept, so the metrics are not in it"):
        model.save_pretrained(tmp_path, metrics={"accuracy": 0.3})
    assert card.read_text() == own
    card.write_bytes(b"\xff\xfe not UTF-8")
    model.save_pretrained(tmp_path)
    assert card.read_bytes() == b"\xff\xfe not UTF-8"


def test_a_model_that_cannot_run_has_a_card_all_the_same() -> None:
    model = aim()
    model.classifier = torch.nn.Linear(3, 7)
    assert "cost | unknown: RuntimeError" in textwrap.dedent(model.generate_model_card().text)
