"""A report of a second look: compared with `explain` and the metrics, image by image; and what its page says."""

import base64
from typing import Any

import numpy as np
import pytest
import torch
from table_set import make_pictures
from torch import nn
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, SecondLook, explain
from aimwrap.data import LabelledTable, ReleaseDataset, eval_transform
from aimwrap.metrics import energy_pointing_game
from aimwrap.report import Report, build_report
from aimwrap.report.html import render
from aimwrap.second_look import on_the_image

PREPROCESSING = Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SILENT: dict[str, Any] = {"progress": False, "verify_images": 0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ReleaseDataset:
    return LabelledTable(make_pictures(tmp_path_factory.mktemp("pictures")), "test")


@pytest.fixture(scope="module")
def second() -> SecondLook:
    torch.manual_seed(0)
    first = AIM(TinyNet(2), [2, 3], tau=0.5, mask_width=8, head="feature-preserving")
    for estimator in first.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, -3.0)
    first.preprocessing = PREPROCESSING
    model = SecondLook(first, margin=0, least=0.2)
    nn.init.normal_(model.classifier.weight)
    return model.train()


@pytest.fixture(scope="module")
def report(images: ReleaseDataset, second: SecondLook) -> Report:
    plain = TinyNet(2)
    plain.preprocessing = PREPROCESSING
    return build_report(
        second, images, other=second.first, plain=plain, name="two", batch_size=4, verify_images=5, progress=False
    )


def bits(text: str, grid: list[int]) -> np.ndarray:
    found = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    return found[: grid[0] * grid[1]].reshape(grid)


def test_every_image_is_what_explain_finds(report: Report, images: ReleaseDataset, second: SecondLook) -> None:
    model, transform = report.content["models"][0], eval_transform(PREPROCESSING)
    assert (model["grid"], model["contributions_grid"]) == ([4, 4], [2, 2])
    by_id = {image["id"]: image["by_model"] for image in report.content["images"]}
    shares = []
    for sample in images:
        seen, (found, of_first, plain) = transform(sample), by_id[sample.id]
        explanation = explain(second, seen.image[None])
        predicted = int(explanation.logits.argmax())
        assert found["predicted"] == predicted
        assert found["confidence"] == pytest.approx(explanation.logits.softmax(1).max().item(), abs=6e-5)
        kept = torch.from_numpy(bits(found["kept"], [4, 4])).repeat_interleave(16, 0).repeat_interleave(16, 1)
        assert torch.equal(kept.float(), explanation.kept[0, 0])
        assert found["kept_area"] == pytest.approx(explanation.kept.mean().item(), abs=6e-5)
        assert found["box"] == pytest.approx((explanation.boxes[0] / 64).tolist(), abs=6e-5)
        packed, contributions = found["contributions"], explanation.contributions[0, predicted]
        values = np.frombuffer(base64.b64decode(packed["values"]), np.int8).reshape(2, 2) / 127 * packed["scale"]
        assert np.abs(values - contributions.numpy()).max() <= packed["scale"] / 200
        placed = on_the_image(contributions[None], explanation.kept, explanation.boxes)
        pointing = energy_pointing_game(placed, seen.object_mask).item()
        assert found["energy_pointing"] == (pytest.approx(pointing, abs=6e-5) if pointing == pointing else None)
        assert found["masks"] == of_first["masks"] and found["merged"] == of_first["merged"]
        assert not {"kept", "box", "kept_area"} & {*of_first, *plain}
        shares.append(found["kept_area"])
    assert min(shares) > 0 and len(set(shares)) > 1, "masks keep different parts"
    kept = next(score for score in model["scores"] if score["key"] == "kept_area")
    assert kept["value"] == pytest.approx(np.mean(shares), abs=1e-4) and kept["n"] == 14


def test_both_looks_are_told_apart(report: Report, second: SecondLook) -> None:
    two, one, plain = report.content["models"]
    assert [model["kind"] for model in (two, one, plain)] == ["second look", "aim", "plain"]
    assert two["variant"] == f"{second.first.variant}, second look" and two["stages"] == one["stages"]
    assert "second look" in {fact["name"] for fact in two["card"]} - {fact["name"] for fact in one["card"]}
    assert {row["region"] for row in two["verification"]["survival"]} == {"kept pixels"}
    assert {row["region"] for row in one["verification"]["survival"]} == {"merged mask", "moved mask", "plain CAM"}
    assert two["verification"]["passed"] and one["verification"]["passed"]
    matched = next(score for score in two["scores"] if score["key"] == "energy_pointing_matched")
    assert "averaged down to 2 x 2" in matched["explained"]
    assert "kept_area" not in {score["key"] for score in report.content["differences"]}
    assert all(module.training for module in second.modules())


def test_its_page_says_which_look_is_meant(report: Report, images: ReleaseDataset, second: SecondLook) -> None:
    page = render(report.content)
    assert 'data-score="kept_area"' in page and "<kbd>k</kbd> kept pixels" in page
    assert "The masks of a second look are its first look's." in page and "2 × 2, on the box" in page
    alone = render(build_report(second.first, images, **SILENT).content)
    assert (
        'data-score="kept_area"' not in alone
        and "<kbd>k</kbd>" not in alone
        and "econd look" not in alone.split("<script")[0]
    )


def test_two_second_looks_differ_in_what_they_keep(images: ReleaseDataset, second: SecondLook) -> None:
    wider = SecondLook(second.first, margin=1, least=0.2)
    content = build_report(second, images, other=wider, **SILENT).content
    kept = next(score for score in content["differences"] if score["key"] == "kept_area")
    assert kept["value"] < 0


def test_a_second_look_is_no_plain_model(images: ReleaseDataset, second: SecondLook) -> None:
    with pytest.raises(TypeError, match=r"plain must be a classifier without AIM, got a second look; compare two"):
        build_report(second.first, images, plain=second, **SILENT)
