"""Settings, recipes, data sets by name, and the rules by which an epoch is selected."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from aimwrap import AIM, PAPER, AIMLoss
from aimwrap._choices import OURS
from aimwrap.data.registry import parse_reader_arguments
from aimwrap.data.release import groups_of
from aimwrap.train import PRESETS, Settings
from aimwrap.train.data import read_splits
from aimwrap.train.evaluation import chosen_rule, score_of
from aimwrap.train.loop import rate_factor, set_rates
from aimwrap.train.run import Run, build_model, variant_of, weights_of
from aimwrap.train.settings import differences


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"lr": -1.0}, "lr must be 0 or more"),
        ({"lr": float("nan")}, "lr must be 0 or more"),
        ({"ema": 1.5}, "ema must be 0 to 1"),
        ({"method": "resnet"}, "method must be one of 'aim', 'plain', got 'resnet'"),
        ({"lr": float("inf")}, "lr must be 0 or more, and finite"),
        ({"width": 16.5}, "width must be of type int, got 16.5"),
        ({"labels_move_area": "no"}, "labels_move_area must be of type bool"),
        ({"stage_weight": 1.0}, "stage_weight must be one number or 2"),
        ({"stage_weight": (1.0, -1.0)}, "stage_weight must be one number or 2"),
        (dict(PAPER), "logit_range must be 0 or more, and finite"),  # AIM's own words for it: see design="paper"
        ({"selection": "best"}, "selection must be one of 'validation worst group'"),
        ({"selection": "validation survival", "method": "plain"}, "needs AIM.*plain backbone; select by average"),
        ({"warmup_epochs": 2.0}, "warmup_epochs must be less than epochs=2"),
    ],
)
def test_wrong_settings_are_named(settings_of: Callable[..., Settings], given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(**given)


def test_settings_survive_a_file(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(stages=(1, "block3"), tau=(0.35, 0.25), ema=0.999)
    again = Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings and not differences(settings, again)
    with pytest.raises(ValueError, match="nonsense are unknown to this version"):
        Settings.from_json({**settings.to_json(), "nonsense": 1})
    with pytest.raises(ValueError, match=r"incomplete.*root"):
        Settings.from_json({"data": "cub"})


def test_second_looks_of_older_versions_had_no_copies(settings_of: Callable[..., Settings]) -> None:
    """So their runs are not taken for the result of the same command now."""
    settings = settings_of(second_look=True)
    older = {name: value for name, value in settings.to_json().items() if name != "second_copies"}
    assert differences(Settings.from_json(older), settings) == {"second_copies": (0, 2)}
    assert Settings.from_json(settings.to_json()) == settings
    older |= {"second_look": False}
    assert not differences(Settings.from_json(older), settings_of())


def test_a_design_decides_what_is_not_given(settings_of: Callable[..., Settings]) -> None:
    assert settings_of().design_arguments == OURS and settings_of(design="paper").design_arguments == PAPER
    settings = settings_of(design="paper", pooling="active", labels_move_area=False, logit_range=6.0, logit_spread=0.0)
    changed = {"pooling": "active", "labels_move_area": False, "logit_range": 6.0}
    assert settings.design_arguments == {**PAPER, **changed}
    older = {name: value for name, value in settings_of(head="paper").to_json().items() if name != "design"}
    assert Settings.from_json(older).design_arguments == {**OURS, "head": "paper"}
    model = build_model(settings_of(design="paper", backbone="tiny_nets:tiny"), 2)
    assert isinstance(model, AIM) and model.departures == () and model.variant == "TinyNet+AIM [3, 25%]"
    assert variant_of(settings_of(design="paper"), model) == "TinyNet+AIM [3, 25%], 2 classes"


def test_sizes_and_weights_reach_their_modules(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    given = {"mask_width": 5, "temperature": 0.5, "width": 6, "head": "paper"}
    run = Run(settings_of(**given, stage_weight=(0.0, 2.0), final_weight=3.0), tmp_path, fabric)
    assert isinstance(run.network, AIM) and isinstance(run.criterion, AIMLoss)
    assert run.network.temperature == 0.5 and run.network.classifier.in_features == 6
    assert all(estimator.where.in_channels == 5 for estimator in run.network.mask_estimators.values())
    assert run.criterion.stage_weight == (0.0, 2.0) and run.criterion.final_weight == 3.0


def test_the_weights_are_named(settings_of: Callable[..., Settings]) -> None:
    assert weights_of(settings_of(backbone="convnext_tiny")) == "convnext_tiny.in12k_ft_in1k"
    assert weights_of(settings_of(backbone="torchvision/resnet50")) == "ResNet50_Weights.IMAGENET1K_V2"
    assert weights_of(settings_of(backbone="convnext_tiny", pretrained=False)) == "random"
    own = weights_of(settings_of(backbone="tiny_nets:tiny"))  # a digest, by which another network is noticed
    assert own is not None and own.startswith("tiny_nets:tiny ")


@pytest.mark.parametrize("name", PRESETS)
def test_recipes_are_settings_and_say_whose_they_are(name: str) -> None:
    preset = PRESETS[name]
    settings = Settings(data="waterbirds", root="data", **preset.settings)
    assert preset.source and len(preset.explained) > 50
    assert (preset.source == "ours") == name.startswith("ours-")
    unset = Settings(data="waterbirds", root="data")
    assert differences(unset, settings)


def test_the_rates_warm_up_and_fall() -> None:
    settings = Settings(data="cub", root="data", epochs=10, warmup_epochs=2.0)
    factors = [rate_factor(step, 5, settings) for step in range(50)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1 and factors[30] == pytest.approx(0.5) and 0 < factors[-1] < 0.01
    stepped = Settings(data="cub", root="data", epochs=10, schedule="step", step_epochs=4, step_factor=0.5)
    assert [rate_factor(5 * epoch, 5, stepped) for epoch in range(10)] == [1.0] * 4 + [0.5] * 4 + [0.25] * 2


def test_groups_keep_the_ratio_of_their_rates() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1e-2, 1e-4)]
    optimizer = torch.optim.SGD(groups, 1.0)
    for factor in (0.5, 0.1):
        set_rates(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-2 * factor, 1e-4 * factor])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "imagenet"}, "data must be one of built, cub, waterbirds, .*, got 'imagenet'"),
        ({"reader": {"masks": "x"}}, "the data set table takes no argument 'masks'; it takes root, image, label"),
        ({"data": "hard-imagenet", "reader": {}}, r"needs imagenet=\.\.\., the path of another part of it"),
        ({"hold_out": 0.2}, "hold_out is for data sets without a validation split"),
        ({"data": "built", "root": "nowhere", "reader": {}}, "is not there"),
    ],
)
def test_wrong_data_is_named(settings_of: Callable[..., Settings], given: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_splits(settings_of(**given))


def without_validation(table: Path, folder: Path) -> Path:
    """The tiny set's training and test images alone."""
    lines = [line for line in table.read_text().splitlines() if ",val," not in line]
    path = folder / "table.csv"
    path.write_text("\n".join(lines))
    return path


def test_held_out_images_are_of_every_group_and_drawn_by_the_seed(
    settings_of: Callable[..., Settings], table: Path, tmp_path: Path
) -> None:
    root = str(without_validation(table, tmp_path))
    reader = {"root": str(table.parent)}
    splits = read_splits(settings_of(root=root, reader=reader, hold_out=0.4))
    again = read_splits(settings_of(root=root, reader=reader, hold_out=0.4))
    other = read_splits(settings_of(root=root, reader=reader, hold_out=0.4, seed=1))
    assert splits.val is not None and again.val is not None and other.val is not None
    held, kept = ({record.id for record in part.records} for part in (splits.val, splits.train))
    assert held.isdisjoint(kept) and len(held | kept) == 22 and len(splits.test) == 11
    whole = read_splits(settings_of(root=root, reader=reader))
    expected = {group: round(0.4 * count) for group, count in enumerate(whole.train_counts.tolist())}
    assert torch.bincount(groups_of(splits.val), minlength=4).tolist() == list(expected.values())
    assert [r.id for r in again.val.records] == [r.id for r in splits.val.records] != [r.id for r in other.val.records]
    assert whole.fingerprint == splits.fingerprint  # of the files on the disk


def test_rules(settings_of: Callable[..., Settings], table: Path, tmp_path: Path) -> None:
    with_val = read_splits(settings_of())
    without = read_splits(
        settings_of(root=str(without_validation(table, tmp_path)), reader={"root": str(table.parent)})
    )
    assert chosen_rule(None, with_val) == "validation average" and chosen_rule(None, without) == "last"
    assert chosen_rule("validation worst group", with_val) == "validation worst group"
    with pytest.raises(ValueError, match=r"needs a validation split.*hold_out=0.2.*selection='last'"):
        chosen_rule("validation average", without)
    scores = {"average": 0.9, "worst_group": None}
    assert score_of("validation average", scores) == 0.9
    assert score_of("validation worst group", scores) == score_of("last", scores) == -float("inf")
    measured = {**scores, "worst_class": 0.8, "survival": 0.7}
    assert [score_of(f"validation {rule}", measured) for rule in ("worst class", "survival")] == [0.8, 0.7]  # type: ignore[arg-type]


def test_reader_arguments_are_read_as_they_are_meant() -> None:
    found = parse_reader_arguments(["cub=data/CUB 200", 'classes=["a", "b"]', "object_masks=true", "mask=null"])
    assert found == {"cub": "data/CUB 200", "classes": ["a", "b"], "object_masks": True, "mask": None}
    with pytest.raises(ValueError, match="must be NAME=VALUE"):
        parse_reader_arguments(["masks"])


def test_a_backbone_without_a_record_needs_a_size(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(ValueError, match="image_size must be given: tiny_nets:tiny does not say"):
        build_model(settings_of(image_size=None, backbone="tiny_nets:tiny", method="plain"), 2)
    model = build_model(settings_of(backbone="resnet10t", pretrained=False, method="plain", image_size=None), 2)
    assert model.preprocessing is not None and model.preprocessing.image_size == (176, 176)
    squashed = settings_of(backbone="resnet10t", pretrained=False, method="plain", image_size=64, crop=1.0, squash=True)
    found = build_model(squashed, 2).preprocessing
    assert found is not None and found.image_size == (64, 64) and found.crop == 1 and found.squash


def test_what_is_frozen_is_frozen(settings_of: Callable[..., Settings]) -> None:
    given = {"backbone": "tiny_nets:tiny_with_batch_norm"}
    for method in ("aim", "plain"):
        free = build_model(settings_of(**given, method=method), 2).train()
        norms = build_model(settings_of(**given, method=method, frozen="norm-statistics"), 2).train()
        probe = build_model(settings_of(**given, method=method, frozen="backbone"), 2).train()
        batch_norm = [module for module in norms.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert batch_norm and not any(module.training for module in batch_norm)
        assert all(parameter.requires_grad for parameter in norms.parameters())
        trained = {name for name, parameter in probe.named_parameters() if parameter.requires_grad}
        assert trained and not any(".stages." in name or "stem" in name for name in trained if "backbone" in name)
        assert all(m.training for m in free.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("moved", [False, True])
def test_labels_may_move_the_area(settings_of: Callable[..., Settings], moved: bool) -> None:
    """As in the paper: then a label's loss opens or closes all of an image's positions together."""
    settings = settings_of(backbone="tiny_nets:tiny", labels_move_area=moved, image_size=64, head="paper")
    model = build_model(settings, 2).train()
    assert ("labels move the area" in variant_of(settings, model)) == moved
    features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 64, 64)))
    loss = torch.nn.functional.cross_entropy(model.forward_head(features).logits, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, features.mask_logits[2])
    together, apart = gradient.sum((1, 2, 3)).abs(), gradient.abs().sum((1, 2, 3))
    assert (together > 1e-3 * apart).all() if moved else (together < 1e-5 * apart).all()
