"""Issue 22, numbers 34 and 35: nothing that a file says makes aimwrap import, call, hang or allocate without bound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aimwrap import AIM
from aimwrap._files import checksum
from aimwrap.backbones.plain import PlainClassifier, load_plain, save_plain

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 2}


@pytest.fixture(scope="module")
def aim_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Saves an AIM whose backbone is known by name."""
    model = AIM("timm/convnext_atto", [2, 3], mask_width=4, backbone_kwargs=TINY)

    def save(folder: Path) -> Path:
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def plain_folder(tmp_path: Path) -> Path:
    save_plain(PlainClassifier(timm.create_model("test_resnet"), 2), tmp_path / "plain", "timm/test_resnet")
    return tmp_path / "plain"


def edited(path: Path, *keys: str, value: Any) -> None:
    """Change one value of a JSON file."""
    content = outer = json.loads(path.read_text())
    for key in keys[:-1]:
        outer = outer[key]
    outer[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["evil:run", "os:abort", "sys:exit"])
def test_an_import_path_in_a_plain_model_is_not_followed(
    plain_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``aimwrap report FOLDER`` imported ``evil`` from the current folder, and died with ``os:abort``."""

    def refuse(*_: object) -> None:
        raise AssertionError("something was imported or called")

    (plain_folder / "evil.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(plain_folder)
    monkeypatch.setattr("os.abort", refuse)
    monkeypatch.setattr("sys.exit", refuse)
    edited(plain_folder / "plain.json", "backbone", value=name)
    with pytest.raises(ValueError, match=f"because a file says so.*--backbone {name}"):
        load_plain(plain_folder)


def test_a_backbone_of_ones_own_is_passed(tmp_path: Path) -> None:
    model = PlainClassifier(timm.create_model("test_resnet"), 2)
    save_plain(model, tmp_path, "mine:net")
    images = torch.rand(1, 3, 32, 32)
    again = load_plain(tmp_path, backbone=timm.create_model("test_resnet"))
    assert torch.equal(again(images).logits, model.eval()(images).logits)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone", "resnet18.nope", "no weights named"),
        ("backbone", 3, "'backbone' must be a string"),
        ("backbone", "timm/vit_giant_patch14_224", "far larger than its weights"),
        ("num_classes", 10**9, "can.t allocate|far larger"),
        ("num_classes", 0, "positive integer"),
        ("num_classes", 3, "in the model"),
        ("class_names", [1, 2], "'class_names.0' must be a string"),
        ("class_names", ["a"], "1 name"),
        ("weights", {"bytes": 1, "sha256": "0" * 64}, "SHA-256 differs"),
    ],
)
def test_wrong_values_of_a_plain_model(plain_folder: Path, key: str, value: Any, message: str) -> None:
    edited(plain_folder / "plain.json", key, value=value)
    with pytest.raises(ValueError, match=rf"(?s)plain\.json: .*({message})"):
        load_plain(plain_folder)


@pytest.mark.parametrize(
    ("key", "value"), [("std", [0.0, 1.0, 1.0]), ("mean", [0.0]), ("crop", 0), ("image_size", [8])]
)
def test_wrong_preprocessing_of_a_plain_model(tmp_path: Path, key: str, value: Any) -> None:
    save_plain(PlainClassifier(timm.create_model("resnet10t"), 2), tmp_path, "resnet10t")
    edited(tmp_path / "plain.json", "preprocessing", key, value=value)
    with pytest.raises(ValueError, match=r"plain\.json: .*(preprocessing|in the file and)"):
        load_plain(tmp_path)


def test_a_flipped_byte_in_the_weights_of_a_plain_model(plain_folder: Path) -> None:
    path = plain_folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_plain(plain_folder)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        pytest.param(
            ("backbone", "arguments", "depths"), [100000, 1, 1, 1], "more than 30000 modules", marks=pytest.mark.slow
        ),
        (("backbone", "arguments", "dims"), [8, 12, 16, 2**20], "far larger than its weights|can't allocate"),
        (("aim", "mask_width"), 2**30, "far larger than its weights|can't allocate"),
        ("image_shape", [3, 100000, 100000], "'image_shape' must be 3 positive integers"),
        (("aim", "logit_range"), 1e308, "logit_range must be a positive number"),
        (("preprocessing", "mean"), [0.5], "a mean and a std for each channel"),
    ],
)
def test_a_config_that_asks_for_too_much(
    aim_folder: Callable[[Path], Path], tmp_path: Path, keys: Any, value: Any, message: str
) -> None:
    path = aim_folder(tmp_path / "model") / "config.json"
    edited(path, *([keys] if isinstance(keys, str) else keys), value=value)
    with pytest.raises(ValueError, match=message):
        AIM.from_pretrained(path.parent)


def test_a_config_that_is_nested_without_end(aim_folder: Callable[[Path], Path], tmp_path: Path) -> None:
    path = aim_folder(tmp_path / "model") / "config.json"
    nested = json.loads(path.read_text())
    inner: Any = 1
    for _ in range(900):
        inner = [inner]
    nested["backbone"]["arguments"]["depths"] = inner
    path.write_text(json.dumps(nested))
    with pytest.raises(ValueError, match=r"config\.json|timm/convnext_atto"):
        AIM.from_pretrained(path.parent)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind(aim_folder: Callable[[Path], Path], tmp_path: Path, dtype: torch.dtype) -> None:
    """A foreign RuntimeError, where the documentation promises a ValueError."""
    folder = aim_folder(tmp_path / "model")
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = weights["classifier.weight"].to(dtype)
    save_file(weights, path, metadata={"format": "pt"})
    edited(folder / "config.json", "weights", value={"bytes": path.stat().st_size, "sha256": checksum(path)})
    with pytest.raises(ValueError, match=r"classifier\.weight is .* in the file"):
        AIM.from_pretrained(folder)


@pytest.mark.parametrize("value", [math.inf, 1e308, 0.0, -1.0])
def test_logit_bounds_that_float32_cannot_hold(value: float) -> None:
    """``logit_range=1e308`` failed at the first forward; ``logit_spread=inf`` made every logit NaN."""
    with pytest.raises(ValueError, match="logit_spread must be a positive number"):
        AIM(timm.create_model("test_resnet"), logit_spread=value)


class Net(nn.Module):
    """A module, and not a function that builds one."""


def test_an_imported_module_is_copied() -> None:
    """A second seed went on from the weights of the first."""
    from aimwrap.backbones.inspection import import_backbone

    assert import_backbone(f"{__name__}:net") is not import_backbone(f"{__name__}:net")


net = Net()
