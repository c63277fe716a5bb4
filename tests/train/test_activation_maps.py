"""A plain network's maps add up to its logits, are the same whatever was done before, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny_nets
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from aimwrap import AIM, explain
from aimwrap.analysis.look import Look, look
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.metrics import energy_pointing_game
from aimwrap.preprocessing import Preprocessing
from aimwrap.train import PlainClassifier, Settings, load_plain, run_training
from aimwrap.train.data import evaluation_loader, prepared, read_splits
from aimwrap.train.evaluation import evaluate


class Behind(nn.Module):
    """A tiny network with something between the average of its final map and its classifier."""

    def __init__(self, between: nn.Module, pool: Callable[[Tensor], Tensor] = lambda x: x.mean((2, 3))) -> None:
        super().__init__()
        network = tiny_nets.tiny()
        self.stages, self.between, self.fc = network.stages, between, network.fc
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.between(self.pool(x)))


def moved(network: nn.Module) -> PlainClassifier:
    """With weights that are no fresh ones, so that no norm is the identity and no two are alike."""
    model = PlainClassifier(network, 2)
    model.preprocessing = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
    shake(model)
    return model


def shake(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    "build",
    [
        tiny_nets.tiny_with_batch_norm,
        lambda: Behind(nn.Dropout(0.5)),
        lambda: Behind(nn.LayerNorm(12)),
        lambda: Behind(nn.LayerNorm(12, bias=False)),
        lambda: Behind(nn.LayerNorm(12, elementwise_affine=False, eps=0.1)),
        pytest.param(lambda: timm.create_model("test_convnext"), marks=pytest.mark.slow),
    ],
    ids=["pooled", "dropout", "norm", "norm without bias", "norm without weights", "convnext"],
)
def test_maps_and_bias_are_the_logits(build: Callable[[], nn.Module]) -> None:
    model = moved(build()).train()
    maps = PooledClassifier(model.backbone)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    shake(model)  # the maps are of the weights as they are now
    model.eval()
    images = torch.randn(3, 3, 96, 96)
    logits = model(images).logits
    for k in (0, 1):
        found = maps.maps(images, torch.full((3,), k))
        assert found.shape == (3, 3, 3)
        torch.testing.assert_close(found.mean((1, 2)) + maps.bias[k], logits[:, k], rtol=1e-5, atol=1e-5)
    model.train()
    explained, of_predicted = maps.explained(images)
    torch.testing.assert_close(explained, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_predicted, maps.maps(images, logits.argmax(1)))
    assert all(module.training for module in model.modules())


def test_explaining_looks_at_the_images_once() -> None:
    network = tiny_nets.tiny()
    maps = PooledClassifier(network)
    seen = []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
    maps.explained(torch.randn(3, 3, 64, 64))
    assert seen == [3]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Behind(nn.GELU()),
        lambda: Behind(nn.Sequential(nn.LayerNorm(12), nn.ReLU())),
        lambda: Behind(nn.Linear(12, 12)),
        lambda: Behind(nn.BatchNorm1d(12)),  # which does nothing before it is trained
        lambda: Behind(nn.Identity(), lambda x: x.amax((2, 3))),
        lambda: Behind(nn.Identity(), lambda x: x.mean((2, 3)) + 0.1 * x.amax((2, 3))),
        lambda: Behind(nn.Identity(), lambda x: 0 * x.mean((2, 3))),
        pytest.param(lambda: timm.create_model("test_vit"), marks=pytest.mark.slow),
    ],
    ids=["activation", "norm and activation", "two linear", "neck", "maximum", "both", "nothing", "class token"],
)
def test_another_end_is_refused_and_not_measured(build: Callable[[], nn.Module]) -> None:
    model = PlainClassifier(build(), 2)
    with pytest.raises(ValueError, match="classifier must end in an average over positions and one linear layer"):
        PooledClassifier(model.backbone)


@pytest.mark.parametrize("given", [{}, {"ema": 0.5, "precision": "bf16-mixed"}], ids=["weights", "average in bf16"])
def test_a_plain_run_says_where_its_model_looks(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, given: dict[str, object]
) -> None:
    settings = settings_of(method="plain", image_size=64, lr=0.01, backbone="tiny_nets:tiny", epochs=1, **given)
    own = fabric if not given else Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    result = run_training(settings, tmp_path, own, workers=0)
    model = load_plain(tmp_path / "model", backbone=tiny_nets.tiny())
    assert model.preprocessing is not None
    test = prepared(read_splits(settings), settings, model.preprocessing).test
    images = torch.stack([test[number].image for number in range(len(test))])
    objects = torch.stack([test[number].object_mask for number in range(len(test))])
    features = images
    for stage in model.backbone.stages:
        features = stage(features)
    classes = model(images).logits.argmax(1)
    by_hand = (features * model.backbone.fc.weight[classes][:, :, None, None]).sum(1).detach()
    near = 1e-5 if not given else 0.03
    for name, resolution in (("energy_pointing", None), ("energy_pointing_matched", (2, 2))):
        expected = energy_pointing_game(by_hand, objects, resolution=resolution).nanmean().item()
        assert result.scores[name] == pytest.approx(expected, abs=near)
    assert 0 < result.scores["chance"] < 1 and "mask_precision" not in result.scores
    assert result.validation is not None and result.validation["energy_pointing"] is not None


@pytest.mark.parametrize("head", ["paper", "feature-preserving"])
def test_aim_is_matched_at_the_plain_network_s_grid(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, head: str
) -> None:
    settings = settings_of(head=head, image_size=64, backbone="tiny_nets:tiny", epochs=1)
    result = run_training(settings, tmp_path, fabric, workers=0)
    model = AIM.from_pretrained(tmp_path / "model", backbone=tiny_nets.tiny()).eval()
    assert model.preprocessing is not None
    test = prepared(read_splits(settings), settings, model.preprocessing).test
    images = torch.stack([test[number].image for number in range(len(test))])
    objects = torch.stack([test[number].object_mask for number in range(len(test))])
    explanation = explain(model, images)
    heatmaps = explanation.contributions[torch.arange(len(test)), explanation.logits.argmax(1)]
    assert heatmaps.shape[1:] == (4, 4)
    for name, resolution in (("energy_pointing", None), ("energy_pointing_matched", (2, 2))):
        expected = energy_pointing_game(heatmaps, objects, resolution=resolution).nanmean().item()
        assert result.scores[name] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_measured_is_said_once_and_left_out(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    said: list[str] = []
    settings = settings_of(method="plain", backbone="tiny_nets:tiny_with_two_linear_layers")
    result = run_training(settings, tmp_path, fabric, workers=0, say=said.append)
    assert len(said) == 1 and said[0].startswith("energy pointing is left out: the model must end in an average")
    assert not [name for name in result.scores if "pointing" in name or name == "chance"]
    assert json.loads((tmp_path / "settings.json").read_text())["resolved"]["lacks"] == said[0]


@pytest.mark.parametrize("method", ["aim", "plain"])
def test_nothing_is_said_where_no_object_is_known(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, method: str
) -> None:
    said: list[str] = []
    backbone = "tiny_nets:tiny_with_two_linear_layers"
    settings = settings_of(method=method, backbone=backbone, reader={"mask": None}, epochs=1)
    result = run_training(settings, tmp_path, fabric, workers=0, say=said.append)
    assert not said and "energy_pointing" not in result.scores and "mask_recall" not in result.scores


def test_every_part_of_a_split_gives_the_same_in_any_batches(
    settings_of: Callable[..., Settings], fabric: Fabric
) -> None:
    settings = settings_of(method="plain", image_size=64)
    model = moved(tiny_nets.tiny())
    splits = prepared(read_splits(settings), settings, model.preprocessing)
    maps = PooledClassifier(model.backbone)
    found = [
        evaluate(
            model,
            splits.test,
            evaluation_loader(splits.test, size, 0, 1, 0, False),
            splits,
            fabric,
            activation_maps=maps,
        )
        for size in (3, 11)
    ]
    for name in ("energy_pointing", "energy_pointing_matched", "chance"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6)


def test_a_plain_models_accuracy_is_of_its_own_logits(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of those that its activation map adds up to, which are rounded otherwise."""
    settings = settings_of(method="plain", image_size=64)
    model = moved(tiny_nets.tiny())
    splits = prepared(read_splits(settings), settings, model.preprocessing)
    batches = evaluation_loader(splits.test, 4, 0, 1, 0, False)
    maps = PooledClassifier(model.backbone)
    expected = evaluate(model, splits.test, batches, splits, fabric, activation_maps=maps)

    def rolled(*given: object) -> Look:
        seen = look(*given)
        return seen._replace(output=seen.output._replace(logits=seen.output.logits.roll(1, 1)))

    monkeypatch.setattr("aimwrap.train.evaluation.look", rolled)
    assert evaluate(model, splits.test, batches, splits, fabric, activation_maps=maps) == expected


@pytest.mark.parametrize("method", ["aim", "plain"])
def test_boxes_will_do_where_there_are_no_masks(
    settings_of: Callable[..., Settings], fabric: Fabric, table: Path, tmp_path: Path, method: str
) -> None:
    """The tiny set's objects are squares, so that their boxes are their masks."""
    lines = [line.split(",") for line in table.read_text().splitlines()]
    boxed = [[*lines[0][:4], "left", "top", "right", "bottom"]]
    for line in lines[1:]:
        rows, columns = (np.asarray(Image.open(table.parent / line[4])) > 0).nonzero()
        sides = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxed.append([*line[:4], *map(str, sides)])
    path = tmp_path / "boxed.csv"
    path.write_text("\n".join(",".join(line) for line in boxed))
    columns = {"root": str(table.parent), "mask": None, "box": ["left", "top", "right", "bottom"]}
    found = []
    for given in ({}, {"root": str(path), "reader": columns}):
        settings = settings_of(method=method, image_size=40, crop=1.0, backbone="tiny_nets:tiny", epochs=1, **given)
        folder = tmp_path / ("boxes" if given else "masks")
        found.append(run_training(settings, folder, fabric, workers=0).scores)
    assert found[1] == found[0]


@pytest.mark.parametrize("method", ["aim", "plain"])
def test_where_some_objects_are_unknown_it_is_said(
    settings_of: Callable[..., Settings], fabric: Fabric, table: Path, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table.read_text().replace("test03_mask.png", ""))
    said: list[str] = []
    reader = {"root": str(table.parent), "mask": "mask"}
    settings = settings_of(method=method, root=str(path), reader=reader, epochs=1)
    result = run_training(settings, tmp_path / "run", fabric, workers=0, say=said.append)
    assert said == ["energy pointing is left out: 1 of 11 images have neither an object mask nor boxes"]
    assert "energy_pointing" not in result.scores
