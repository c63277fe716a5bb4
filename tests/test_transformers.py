"""Classifiers of Hugging Face's transformers, built from small configs: wrapped, saved, explained; their processors."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("transformers", minversion="5")
import transformers

from aimwrap import AIM, AIMLoss, SecondLook, explain
from aimwrap.backbones import preprocessing_of_processor
from aimwrap.backbones.records import class_names_of

NAMES = {"id2label": {0: "cat", 1: "dog", 2: "bird"}}
FLAT = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
CONVOLUTIONS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONFIGS: dict[str, tuple[str, dict[str, Any], list[int]]] = {  # the config, its arguments, and the stages
    "resnet": ("ResNetConfig", CONVOLUTIONS | {"embedding_size": 8, "layer_type": "basic"}, [2, 3]),
    "convnext": ("ConvNextConfig", CONVOLUTIONS | {"image_size": 64}, [2, 3]),
    "swin": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 128},
        [2, 3],
    ),
    "vit": ("ViTConfig", FLAT | {"intermediate_size": 32}, [2, 5]),
    "dinov2 with registers": ("Dinov2WithRegistersConfig", FLAT, [2, 5]),
}
IMAGES = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def built(kind: str) -> tuple[nn.Module, list[int], torch.Tensor]:
    name, arguments, stages = CONFIGS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**arguments, **NAMES)
    side = getattr(config, "image_size", 64)
    return transformers.AutoModelForImageClassification.from_config(config).eval(), stages, IMAGES[..., :side, :side]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("resnet", "vit") else pytest.mark.slow) for kind in CONFIGS]
)
def test_wrapped_trained_saved_and_explained(kind: str, tmp_path: Path) -> None:
    backbone, stages, images = built(kind)
    model = AIM(backbone, stages, mask_width=4)
    assert (model.stages, model.num_classes, model.class_names) == (tuple(stages), 3, ("cat", "dog", "bird"))
    AIMLoss(model.tau)(model.train()(images), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "mask_token" not in name)

    model.eval().save_pretrained(tmp_path)
    again = AIM.from_pretrained(tmp_path, backbone=built(kind)[0])
    assert again.class_names == model.class_names
    assert torch.equal(again.predict(images).logits, model.predict(images).logits)
    explanation = explain(model, images)
    assert not explanation.contributions[(explanation.merged_mask == 0).expand_as(explanation.contributions)].any()
    total = explanation.contributions.sum((2, 3)) + explanation.bias
    torch.testing.assert_close(total, explanation.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="aimwrap cannot build that by name: pass a new one of the same kind"):
        AIM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_open_masks_give_the_logits_of_the_original(kind: str) -> None:
    """Both average their final map and end in a linear layer."""
    backbone, stages, images = built(kind)
    model = AIM(backbone, stages, mask_width=4).eval()
    linear = [module for module in backbone.modules() if isinstance(module, nn.Linear)][-1]
    model.classifier.load_state_dict(linear.state_dict())
    with torch.no_grad():
        logits = model(images, masks=dict.fromkeys(stages, torch.ones(1, 1, 1, 1))).logits
        torch.testing.assert_close(logits, backbone(images).logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "extra"), [("vit", 1), ("dinov2 with registers", 5)])
def test_masks_lie_on_patch_tokens(kind: str, extra: int) -> None:
    """Without class and register tokens; the image size is the config's."""
    backbone, stages, images = built(kind)
    model = AIM(backbone, stages, mask_width=4).eval()
    assert [tap.size for tap in model.taps] == [(6, 6), (6, 6)] and model.taps[0].stride == 8
    with torch.no_grad():
        maps = model.forward_backbone(images)
        hidden = backbone(images, output_hidden_states=True).hidden_states
    tokens = hidden[3][:, extra:]  # after the third block
    assert torch.equal(maps["2"], tokens.transpose(1, 2).reshape(2, 16, 6, 6))


def test_positions_that_a_model_keeps_outside_of_its_modules_are_real() -> None:
    """BEiT was refused with "aten._local_scalar_dense.default" unless it had run before, and then failed alone, too."""
    config = transformers.BeitConfig(**FLAT | {"image_size": 56}, intermediate_size=32, use_relative_position_bias=True)
    backbone = transformers.AutoModelForImageClassification.from_config(config).eval()
    images = torch.rand(1, 3, 56, 56)
    with torch.no_grad():
        maps = AIM(nn.Sequential(backbone.beit), [2, 5], num_classes=3, mask_width=4).eval().forward_backbone(images)
        theirs = backbone(images, output_hidden_states=True).hidden_states[3][:, 1:]
    torch.testing.assert_close(maps["2"].flatten(2).mT, theirs)


def test_counting_keeps_no_positions_without_values() -> None:
    """After ``cost()``, the network kept fakes for the size of the second look: it then returned fakes."""
    config = transformers.BeitConfig(**FLAT | {"image_size": 56}, intermediate_size=32, use_relative_position_bias=True)
    backbone = transformers.AutoModelForImageClassification.from_config(config).eval()
    second = SecondLook(AIM(nn.Sequential(backbone.beit), [2, 5], num_classes=3, mask_width=4), size=72).eval()
    assert second.cost().macs > second.first.cost().macs
    with torch.no_grad():
        assert type(backbone(torch.zeros(1, 3, 72, 72)).logits) is torch.Tensor


def test_stages_of_swin_are_its_last_blocks() -> None:
    """The map of the last one is what their own code makes of the tokens."""
    backbone, _, images = built("swin")
    model = AIM(backbone, [0, 1, 2, 3], mask_width=4).eval()
    assert [tap.node.removeprefix("swin.encoder.layers.") for tap in model.taps] == [
        "0.blocks.0",
        "1.blocks.0",
        "2.blocks.1",
        "3.blocks.0",
    ]
    assert [(tap.stride, *tap.size) for tap in model.taps] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    with torch.no_grad():
        theirs = backbone.swin(images, output_hidden_states=True).reshaped_hidden_states[-1]
        assert torch.equal(model.forward_backbone(images)["3"], theirs)


def test_tokens_that_are_not_in_order() -> None:
    """Hiera keeps the tokens of a mask unit together."""
    config = transformers.HieraConfig(
        embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], masked_unit_size=[8, 8], **NAMES
    )
    hiera = transformers.AutoModelForImageClassification.from_config(config)
    with pytest.warns(UserWarning, match="tokens of HieraForImageClassification are perhaps not in raster order"):
        AIM(hiera, ["hiera.encoder.stages.0.layers.0"], head="paper")
    with pytest.raises(ValueError, match="stage numbers cannot be trusted on HieraForImageClassification"):
        AIM(hiera)


def test_names_that_say_nothing_are_not_taken() -> None:
    config = transformers.ResNetConfig(**CONFIGS["resnet"][1], num_labels=3)
    backbone = transformers.AutoModelForImageClassification.from_config(config)
    assert AIM(backbone, mask_width=4).class_names is None  # LABEL_0 and so on
    backbone.config.id2label = {0: "cat", 1: "dog", 2: "bird"}
    assert AIM(backbone, num_classes=5, mask_width=4).class_names is None
    backbone.config.id2label = {1: "cat", 2: "dog", 3: "bird"}
    assert AIM(backbone, mask_width=4).class_names is None


def test_names_are_in_the_order_of_their_numbers() -> None:
    """As strings, which JSON makes of numbers, 10 would come before 2."""
    backbone = nn.Identity()
    backbone.config = transformers.ResNetConfig()
    backbone.config.id2label = {str(index): f"class {index}" for index in range(12)}
    assert class_names_of(backbone, 12) == tuple(f"class {index}" for index in range(12))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ViTImageProcessor", {"size": 64}, ((64, 64), 0.5, "bilinear", 1.0, True)),
        (
            "BitImageProcessor",
            {"size": {"shortest_edge": 80}, "crop_size": 64},
            ((64, 64), None, "bicubic", 0.8, False),
        ),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 84}}, ((84, 84), 0.5, "bicubic", 0.875, False)),
        ("DeiTImageProcessor", {"size": 80, "crop_size": 64}, ((64, 64), 0.5, "bicubic", 0.8, True)),
        ("ViTImageProcessor", {"size": 64, "do_normalize": False}, ((64, 64), 0, "bilinear", 1.0, True)),
        ("ViTImageProcessor", {"size": 64, "resample": 3}, ((64, 64), 0.5, "bicubic", 1.0, True)),
    ],
)
def test_preprocessing_does_what_a_processor_does(
    name: str, arguments: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    processor = getattr(transformers, name)(**arguments)
    found = preprocessing_of_processor(processor)
    size, mean, interpolation, crop, squash = expected
    assert found.image_size == size and (found.interpolation, found.squash) == (interpolation, squash)
    assert found.crop == pytest.approx(crop) and (mean is None or found.mean == (mean,) * 3)
    pixels = numpy.random.default_rng(1).integers(0, 256, (20, 25, 3), numpy.uint8).repeat(8, 0).repeat(8, 1)
    assert mean != 0 or processor.do_normalize or (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    picture = Image.fromarray(pixels)
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found.transform()(picture), theirs, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MobileViTImageProcessor", {}),  # swaps red and blue
        ("CLIPImageProcessor", {"do_center_crop": False}),  # the size depends on the image
        ("ViTImageProcessor", {"do_resize": False}),
        ("BitImageProcessor", {"do_resize": False, "crop_size": 300}),  # whatever the image's size is
        ("Siglip2ImageProcessor", {}),  # makes patches
    ],
)
def test_a_processor_that_does_more_is_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"no aimwrap.Preprocessing does what {name} does; it may pad images"):
        preprocessing_of_processor(getattr(transformers, name)(**arguments))
