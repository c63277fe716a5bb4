"""A complete report of tiny models, compared with a loop over single images."""

import base64
import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from table_set import CLASSES, COUNTS, make_pictures
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, background_bias, explain
from aimwrap.data import LabelledTable, ReleaseDataset, eval_transform
from aimwrap.metrics import chance_level, energy_pointing_game, mask_precision, mask_recall
from aimwrap.report import Report, build_report
from aimwrap.report.html import render

PREPROCESSING = Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SILENT: dict[str, Any] = {"preprocessing": PREPROCESSING, "progress": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ReleaseDataset:
    return LabelledTable(make_pictures(tmp_path_factory.mktemp("pictures")), "test")


@pytest.fixture(scope="module")
def models() -> tuple[AIM, TinyNet]:
    torch.manual_seed(0)
    aim = AIM(TinyNet(2), [2, 3], tau=0.5, mask_width=8)
    with torch.no_grad():
        aim.classifier.weight.mul_(30)
    return aim.train(), TinyNet(2)


@pytest.fixture(scope="module")
def report(images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> Report:
    aim, plain = models
    return build_report(aim, images, plain=plain, name="ours", verify_images=5, batch_size=4, **SILENT)


def of_model(report: Report, number: int, key: str) -> Any:
    return next(score for score in report.content["models"][number]["scores"] if score["key"] == key)


def bits(text: str, grid: list[int]) -> Tensor:
    found = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    return torch.from_numpy(found[: grid[0] * grid[1]].reshape(grid))


def test_every_image_is_what_a_loop_finds(report: Report, images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> None:
    aim, transform = models[0], eval_transform(PREPROCESSING)
    by_id = {image["id"]: image for image in report.content["images"]}
    assert len(by_id) == len(images) == report.content["data"]["shown"]
    for sample in images:
        seen, found = transform(sample), by_id[sample.id]
        explanation = explain(aim, seen.image[None])
        predicted = int(explanation.logits.argmax())
        contributions = explanation.contributions[:, predicted]
        numbers = found["by_model"][0]
        assert (found["label"], found["group"]) == (sample.label, sample.group)
        assert (numbers["predicted"], numbers["right"]) == (predicted, predicted == sample.label)
        probabilities = explanation.logits.softmax(1)[0]
        expected = {
            "confidence": probabilities.max(),
            "true_confidence": probabilities[sample.label],
            "energy_pointing": energy_pointing_game(contributions, seen.object_mask),
            "mask_precision": mask_precision(explanation.merged_mask, seen.object_mask),
            "mask_recall": mask_recall(explanation.merged_mask, seen.object_mask),
            "area": explanation.merged_mask.mean(),
        }
        for name, value in expected.items():
            assert numbers[name] == pytest.approx(float(value), abs=6e-5), name
        for stage, mask in explanation.masks.items():
            assert torch.equal(bits(numbers["masks"][str(stage)], list(mask.shape[2:])), mask[0, 0].byte())
        grid = list(contributions.shape[1:])
        merged = bits(numbers["merged"], grid)
        assert torch.equal(merged, explanation.merged_mask[0, 0].byte())
        packed = numbers["contributions"]
        values = np.frombuffer(base64.b64decode(packed["values"]), np.int8).reshape(grid)
        assert (values[merged.numpy() == 0] == 0).all()
        assert np.abs(values / 127 * packed["scale"] - contributions[0].numpy()).max() <= packed["scale"] / 200


def test_thumbnails_and_objects_are_what_the_model_saw(report: Report, images: ReleaseDataset) -> None:
    by_id = {image["id"]: image for image in report.content["images"]}
    deviation = torch.tensor(PREPROCESSING.std)[:, None, None]
    for sample in images:
        seen, found = eval_transform(PREPROCESSING)(sample), by_id[sample.id]
        start, encoded = found["thumbnail"].split(",")
        assert start == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        expected = seen.image * deviation + torch.tensor(PREPROCESSING.mean)[:, None, None]
        assert shown.shape == expected.shape and (shown - expected).abs().mean() < 0.05
        whole = (seen.object_mask[0] > 0.5).float()
        outline = bits(found["object"]["bits"], found["object"]["grid"]).float()
        wide = F.interpolate(outline[None, None], size=whole.shape, mode="nearest-exact")[0, 0]
        assert (wide - whole).abs().mean() < 0.02


def test_scores_are_means_over_all_images(report: Report, images: ReleaseDataset) -> None:
    shown = report.content["images"]
    for number in (0, 1):
        assert of_model(report, number, "average")["value"] == pytest.approx(
            sum(image["by_model"][number]["right"] for image in shown) / len(shown)
        )
        pointing = [image["by_model"][number]["energy_pointing"] for image in shown]
        defined = [value for value in pointing if value is not None]  # else there is no positive evidence
        assert of_model(report, number, "energy_pointing")["value"] == pytest.approx(np.mean(defined), abs=1e-4)
        assert of_model(report, number, "energy_pointing")["n"] == len(defined)
    transform = eval_transform(PREPROCESSING)
    chance = np.mean([chance_level(transform(sample).object_mask).item() for sample in images])
    assert of_model(report, 0, "chance")["value"] == pytest.approx(chance, abs=1e-5)
    groups = report.content["models"][0]["groups"]
    assert [row["name"] for row in groups] == list(images.group_names)
    assert sum(row["images"] for row in groups) == COUNTS["test"]
    assert [row["train_images"] for row in groups] == [4, 0, 0, 4]


def test_models_are_compared_at_the_coarsest_ones_grid(
    report: Report, images: ReleaseDataset, models: tuple[AIM, TinyNet]
) -> None:
    fine, coarse = (model["grid"] for model in report.content["models"])
    assert (fine, coarse) == ([4, 4], [2, 2])  # AIM's masks are on stage 2's grid
    seen = [eval_transform(PREPROCESSING)(sample) for sample in images]
    explanation = explain(models[0], torch.stack([sample.image for sample in seen]))
    contributions = explanation.contributions[torch.arange(len(seen)), explanation.logits.argmax(1)]
    objects = torch.stack([sample.object_mask for sample in seen])
    by_image = energy_pointing_game(contributions, objects, resolution=(2, 2))
    for sample, value in zip(seen, by_image.tolist(), strict=True):
        image = next(image for image in report.content["images"] if image["id"] == sample.id)
        assert image["by_model"][0]["energy_pointing_matched"] == pytest.approx(value, abs=6e-5)
    expected = by_image.mean().item()
    found = of_model(report, 0, "energy_pointing_matched")["value"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(of_model(report, 0, "energy_pointing")["value"], abs=2e-5)
    own = of_model(report, 1, "energy_pointing")["value"], of_model(report, 1, "energy_pointing_matched")["value"]
    assert own[0] != own[1]  # one is enlarged to the object's pixels, and the other not


def test_the_content_is_complete(report: Report) -> None:
    content = json.loads(json.dumps(report.content, allow_nan=False))
    ours, plain = content["models"]
    assert (ours["name"], ours["role"], ours["kind"]) == ("ours", "model", "aim")
    assert (plain["name"], plain["role"], plain["kind"]) == ("TinyNet", "plain", "plain")
    assert content["data"]["objects"] == "masks" and content["data"]["classes"] == list(CLASSES)
    assert [stage["stage"] for stage in ours["stages"]] == ["2", "3"] and plain["stages"] == []
    assert ours["verification"]["passed"] and plain["verification"] is None and plain["health"] is None
    regions = {row["region"] for row in ours["verification"]["survival"]}
    assert regions == {"merged mask", "moved mask", "plain CAM"}
    assert {row["images"] for row in ours["verification"]["survival"]} == {5}
    assert ours["verification"]["images"] == 5
    confidences = [image["by_model"][0]["true_confidence"] for image in content["images"]]
    assert confidences == sorted(confidences) and len(set(confidences)) > 5
    assert render(content).startswith("<!DOCTYPE html>") or "<html" in render(content)


def test_nothing_of_the_users_is_changed(models: tuple[AIM, TinyNet], report: Report, images: ReleaseDataset) -> None:
    assert all(module.training for model in models for module in model.modules())
    assert models[0].preprocessing is None and images.transform is None


def test_no_path_of_the_machine_is_shown(report: Report, images: ReleaseDataset) -> None:
    assert str(images.release.root.parent) not in json.dumps(report.content)


def test_a_gallery_may_be_smaller_than_what_is_measured(images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> None:
    small = build_report(models[0], images, limit=5, verify_images=0, **SILENT).content
    assert small["data"]["images"] == 14 and small["data"]["shown"] == len(small["images"]) == 5
    assert (
        small["data"]["chosen"] == "the 3 on which it is least sure of the label, and 2 drawn at random from the others"
    )
    assert small["models"][0]["scores"][0]["n"] == 14


def test_comparisons_begin_where_two_models_differ_most(images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> None:
    content = build_report(models[0], images, other=models[1], plain=models[1], verify_images=0, **SILENT).content
    assert [model["role"] for model in content["models"]] == ["model", "other", "plain"]
    gaps = [
        abs(image["by_model"][0]["true_confidence"] - image["by_model"][1]["true_confidence"])
        for image in content["images"]
    ]
    assert all(a >= b - 2e-4 for a, b in pairwise(gaps)) and gaps[0] > gaps[-1]
    first, second = (content["models"][n]["scores"][0]["value"] for n in (0, 1))
    assert content["differences"][0]["value"] == pytest.approx(first - second)
    assert {score["key"] for score in content["differences"]} == {
        *("average", "worst_group", "weighted_average", "energy_pointing", "energy_pointing_matched")
    }


def test_boxes_stand_in_for_masks_and_some_images_have_neither(
    images: ReleaseDataset, models: tuple[AIM, TinyNet]
) -> None:
    table = images.release.root / "birds.csv"
    boxed = LabelledTable(table, "test", mask=None, box=("x0", "y0", "x1", "y1"))
    first = LabelledTable(table, "test")
    mixed = ReleaseDataset(first.release, "test")
    mixed.records = tuple(
        record._replace(mask_path=None) if number < 3 else record for number, record in enumerate(first.records)
    )
    masks, boxes, some = (
        build_report(models[0], one, verify_images=0, batch_size=5, **SILENT).content for one in (first, boxed, mixed)
    )
    assert boxes["data"]["objects"] == "boxes" and boxes["data"]["objects_known"]
    pointing = [
        next(s for s in c["models"][0]["scores"] if s["key"] == "energy_pointing") for c in (masks, boxes, some)
    ]
    assert pointing[0]["value"] == pytest.approx(pointing[1]["value"], abs=0.02)  # a square is its own box
    assert [score["n"] for score in pointing] == [14, 14, 11]
    unknown = [image for image in some["images"] if image["object"] is None]
    assert len(unknown) == 3
    for image in unknown:
        names = ("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall")
        assert {image["by_model"][0][name] for name in names} == {None}
        assert image["by_model"][0]["area"] is not None


def test_without_objects_and_places(images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> None:
    bare = LabelledTable(images.release.root / "birds.csv", "test", mask=None, place=None, group=None)
    content = build_report(models[0], bare, verify_images=0, **SILENT).content
    assert content["data"]["objects"] is None and content["data"]["groups"] is None
    assert [row["name"] for row in content["models"][0]["groups"]] == list(CLASSES)
    assert content["images"][0]["group"] is None and content["images"][0]["object"] is None
    assert render(content)


def test_dead_masks_are_found(images: ReleaseDataset, models: tuple[AIM, TinyNet], monkeypatch: Any) -> None:
    aim = models[0]
    for estimator in aim.mask_estimators.values():
        monkeypatch.setattr(estimator, "forward", lambda *maps: torch.full_like(maps[0][:, :1], 3.0))
    content = build_report(aim, images, verify_images=0, **SILENT).content
    assert [(found["stage"], found["symptom"]) for found in content["models"][0]["health"]] == [
        ("2", "all on"),
        ("3", "all on"),
    ]
    assert content["models"][0]["stages"][0]["area"] == 1.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"limit": 0}, ValueError, "limit must be a whole number from 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a whole number from 1, got 2.5"),
        ({"preprocessing": None}, ValueError, "model does not say how its images are prepared: pass preprocessing="),
    ],
)
def test_wrong_arguments(
    images: ReleaseDataset, models: tuple[AIM, TinyNet], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_report(models[0], images, **{**SILENT, **given})


def test_models_that_cannot_be_reported_on(images: ReleaseDataset, models: tuple[AIM, TinyNet]) -> None:
    class Mlp(TinyNet):
        def __init__(self) -> None:
            super().__init__(2)
            self.fc = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))

    with pytest.raises(ValueError, match="plain must end in an average over positions and one linear layer"):
        build_report(models[0], images, plain=Mlp(), **SILENT)
    with pytest.raises(
        TypeError, match="plain must be a classifier without AIM, got an AIM; compare two models by other="
    ):
        build_report(models[0], images, plain=models[0], **SILENT)
    broken = TinyNet(2)
    nn.init.constant_(broken.fc.weight, math.nan)
    with pytest.raises(ValueError, match="model: its logits are not finite: training diverged"):
        build_report(broken, images, **SILENT)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_named(tmp_path: Path, models: tuple[AIM, TinyNet], workers: int) -> None:
    table = make_pictures(tmp_path, {"test": 4})
    (tmp_path / "test02.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"test02\.png") as caught:
        build_report(models[0], LabelledTable(table, "test"), workers=workers, **SILENT)
    assert "Traceback" not in str(caught.value)


def test_files_are_complete_and_need_an_end(report: Report, tmp_path: Path) -> None:
    written = report.write(tmp_path / "new" / "report.html")
    numbers = json.loads(written.numbers.read_text())
    assert "thumbnail" not in numbers["images"][0]
    assert numbers["images"][0]["by_model"] == report.content["images"][0]["by_model"]
    page = written.page.read_text()
    assert report.content["images"][0]["thumbnail"] in page.replace("\\u002b", "+")
    with pytest.raises(ValueError, match=r"path must end in \.html, got '.*report\.txt'"):
        report.write(tmp_path / "report.txt")


def test_what_is_printed(report: Report) -> None:
    lines = str(report).splitlines()
    assert lines[0] == "birds, split test: 14 images" and lines[2] == f"ours ({report.content['models'][0]['variant']})"
    assert any(line.startswith("  Energy pointing  ") and "[" in line for line in lines)
    assert "  verify, on 5 images: every guarantee holds" in lines
    assert report.headline["models"][0]["scores"] == report.content["models"][0]["scores"]


@pytest.mark.slow
def test_the_background_is_that_of_training_images(
    tmp_path: Path, models: tuple[AIM, TinyNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_position(*maps: Tensor) -> Tensor:
        logits = torch.full_like(maps[0][:, :1], -3.0)
        logits[:, :, logits.shape[2] // 2, logits.shape[3] // 2] = 3.0
        return logits

    for estimator in models[0].mask_estimators.values():
        monkeypatch.setattr(estimator, "forward", one_position)
    table = make_pictures(tmp_path, {"train": 40, "test": 4})
    preprocessing = PREPROCESSING._replace(image_size=(256, 256))
    images, transform = LabelledTable(table, "train"), eval_transform(preprocessing)
    options: dict[str, Any] = {"preprocessing": preprocessing, "verify_images": 0, "background_images": 30}
    options |= {"progress": False}
    content = build_report(models[1], LabelledTable(table, "test"), other=models[0], **options).content
    found = content["background"]
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(2))[:30].sort().values.tolist()
    samples = [transform(images[number]) for number in drawn]
    batch = torch.stack([sample.image for sample in samples]), torch.tensor([sample.label for sample in samples])
    expected = background_bias(models[0], [batch])
    assert found["verdict"] == expected.verdict and found["images"] == 30 and found["hidden"] == expected.hidden
    assert found["rows"][0] == {
        "sees": "the background",
        "accuracy": expected.accuracy,
        "low": expected.low,
        "high": expected.high,
    }
    assert [row["accuracy"] for row in found["rows"]] == [
        *(expected.accuracy, expected.object_accuracy, expected.box_accuracy, expected.chance)
    ]
    assert found["wrong"] == [f"train{drawn[number]:02d}.png" for number in expected.wrong]
    assert expected.verdict in str(Report(content)) and "Not measured" not in render(content)
    assert "background_images" not in content


def test_where_the_background_cannot_be_measured_it_says_why(tmp_path: Path, models: tuple[AIM, TinyNet]) -> None:
    def found(table: Path, **options: Any) -> Any:
        test = LabelledTable(table, "test")
        return build_report(models[0], test, verify_images=0, **options, **SILENT).content["background"]

    few = found(make_pictures(tmp_path / "few"))
    assert few == {"verdict": "Not measured: batches must hold at least 10 images, got 8.", "rows": []}
    assert found(tmp_path / "few" / "birds.csv", background_images=0) is None
    assert found(make_pictures(tmp_path / "none", {"test": 4})) is None
    table = make_pictures(tmp_path / "gone", {"train": 12, "test": 4})
    (tmp_path / "gone" / "train03.png").unlink()
    assert "train03.png" in found(table)["verdict"]
