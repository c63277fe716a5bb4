"""What a backbone's record says about its images, and the transform that does it."""

import pickle

import numpy
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from torch import nn
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, preprocessing_of
from aimwrap.backbones.records import preprocessing_of_weights


class Recorded(nn.Module):
    """What preprocessing_of reads of a timm model: its record."""

    def __init__(self, **record: object) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, 96, 96),
            "mean": (0.1, 0.2, 0.3),
            "std": (0.4, 0.5, 0.6),
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
        } | record


def photograph(width: int, height: int) -> Image.Image:
    noise = numpy.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=numpy.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(150, 201), (640, 331), (40, 50)])
@pytest.mark.parametrize(
    "record",
    [
        {},
        {"interpolation": "bilinear", "crop_pct": 1.0},
        {"crop_mode": "squash", "crop_pct": 0.95},
        {"input_size": (3, 96, 64)},
        {"input_size": (3, 64, 96), "crop_mode": "squash"},
        {"crop_pct": 0.875},
    ],
)
def test_transform_is_timms_own(record: dict[str, object], size: tuple[int, int]) -> None:
    model, image = Recorded(**record), photograph(*size)
    asked = resolve_data_config({}, model=model)
    theirs = create_transform(**asked)
    resize = theirs.transforms[0]
    if isinstance(resize, ResizeKeepRatio) and resize.interpolation != str_to_interp_mode(asked["interpolation"]):
        pytest.skip("this timm forgets the interpolation of images that are not square")
    expected = theirs(image)
    ours = preprocessing_of(model).transform()(image)
    assert type(ours) is torch.Tensor and ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b4", "convnext_tiny", "swin_t", "inception_v3"])
def test_transform_is_torchvisions_own(name: str) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    image = photograph(500, 375)
    ours = preprocessing_of_weights(name, weights)
    assert ours == preprocessing_of_weights(name, "DEFAULT")
    torch.testing.assert_close(ours.transform()(image), weights.transforms()(image), rtol=0, atol=1e-6)


def test_every_size_of_torchvisions_weights_survives_the_division() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        for weights in torchvision.models.get_model_weights(name):
            preset, ours = weights.transforms(), preprocessing_of_weights(name, weights)
            (_, resize, crop, *_) = ours.transform().transforms
            assert (resize.size, list(crop.size)) == (preset.resize_size, preset.crop_size * 2), weights


def test_tensors_and_grey_values() -> None:
    preprocessing = Preprocessing((32, 48), (0.5,), (0.25,), "bilinear", 1.0)
    images = preprocessing.transform()(torch.full((1, 100, 100), 255, dtype=torch.uint8))
    torch.testing.assert_close(images, torch.full((1, 32, 48), 2.0))


def test_the_transform_can_be_sent_to_workers() -> None:
    transform = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3).transform()
    image = photograph(60, 50)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))


@pytest.mark.parametrize(
    "backbone",
    [TinyNet(), torchvision.models.resnet18(), Recorded(mean=None), Recorded(crop_mode="border")],
)
def test_what_is_not_known_is_not_guessed(backbone: nn.Module) -> None:
    assert preprocessing_of(backbone) is None


def test_the_record_of_a_real_model() -> None:
    assert preprocessing_of(timm.create_model("resnet10t")).image_size == (176, 176)


def test_a_record_of_another_kind_is_no_record() -> None:
    (backbone := TinyNet()).pretrained_cfg = "resnet18.a1_in1k"
    assert preprocessing_of(backbone) is None


def test_aim_takes_over_what_its_backbone_knows() -> None:
    (backbone := TinyNet()).pretrained_cfg = Recorded().pretrained_cfg
    model = AIM(backbone, mask_width=4)
    assert model.preprocessing == preprocessing_of(backbone)
    assert model.preprocessing == Preprocessing((96, 96), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9)
    assert model.class_names is None
    assert AIM(TinyNet(), mask_width=4).preprocessing is None
    assert preprocessing_of(torch.compile(backbone)) == preprocessing_of(backbone)
