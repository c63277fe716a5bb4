"""Wrong arguments, images, masks and checkpoints: each error names the argument and the way out."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from zoo import TinyNet, aim, conv_block

from aimwrap import AIM


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": "layer4"}, TypeError, r"stages must be a list of .*, got 'layer4'; write stages=\['layer4'\]"),
        ({"stages": 3}, TypeError, r"stages must be a list .*, got 3; write stages=\[3\]"),
        ({"stages": [2, 3.0]}, TypeError, r"stages must be numbers or node names, got 3.0 of type float"),
        ({"stages": [True]}, TypeError, r"stages must be numbers or node names, got True of type bool"),
        ({"stages": []}, ValueError, r"stages is empty; stages=\[2, 3\] is"),
        ({"stages": [3, 3]}, ValueError, r"stages must not repeat, got \[3, 3\]"),
        ({"stages": [3, "3"]}, ValueError, r"stages must not repeat"),
        ({"stages": [2, 7]}, ValueError, r"TinyNet has no stage 7 \(stride 512\); it has 0 \(block0, stride 4\)"),
        ({"stages": ["layer9"]}, ValueError, r"no node 'layer9'; it has .*block3"),
        ({"tau": 0.0}, ValueError, r"tau must be in \(0, 1\], got 0.0"),
        ({"tau": [0.2, 1.2]}, ValueError, r"tau must be in \(0, 1\], got \[0.2, 1.2\]"),
        ({"tau": [0.2]}, ValueError, r"tau must be one float or one per stage: 2 stage\(s\), 1 value\(s\)"),
        ({"tau": [0.2, 0.3, 0.4]}, ValueError, r"tau must be one float or one per stage: 2 stage\(s\), 3 value\(s\)"),
        ({"head": "fpn"}, ValueError, r"head must be one of 'paper', 'feature-preserving', got 'fpn'"),
        ({"pooling": "max"}, ValueError, r"pooling must be one of 'active', 'all', got 'max'"),
        ({"mask_norm": "group"}, ValueError, r"mask_norm must be one of .*, got 'group'"),
        ({"logit_spread": 0}, ValueError, r"logit_spread must be a positive number"),
        ({"logit_range": 0}, ValueError, r"logit_range must be a positive number"),
        ({"width": 0}, ValueError, r"width must be a positive number, got 0"),
        ({"mask_width": -4}, ValueError, r"mask_width must be a positive number, got -4"),
        ({"temperature": 0.0}, ValueError, r"temperature must be a positive number, got 0.0"),
        ({"num_classes": 0}, ValueError, r"num_classes must be a positive number, got 0"),
        ({"backbone_kwargs": {"a": 1}}, ValueError, r"backbone_kwargs builds a backbone given by name; this"),
        ({"example_input": torch.zeros(3, 64, 64)}, ValueError, r"example_input must be images of shape"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    backbone = TinyNet().train()
    backbone.block1.eval()
    flags = [module.training for module in backbone.modules()]
    with pytest.raises(error, match=message):
        AIM(backbone, **arguments)
    assert [module.training for module in backbone.modules()] == flags


def test_headless_backbone_needs_num_classes() -> None:
    with pytest.raises(ValueError, match=r"num_classes cannot be read off ResNet: .* Pass num_classes="):
        AIM(timm.create_model("resnet10t", num_classes=0), [2, 3])


def test_leaving_out_the_deepest_stage_warns() -> None:
    pattern = r"\[2\] leaves out the deepest stage, 3, .*=\[2, 3\] includes.*ResNet50\+AIM\(2\) is stages=\[1, 2, 3\]"
    with pytest.warns(UserWarning, match=pattern) as caught:
        AIM(TinyNet(), [2])
    assert caught[0].filename == __file__


def test_named_nodes_do_not_warn() -> None:
    AIM(TinyNet(), ["block1"])


@pytest.fixture(scope="module")
def model() -> AIM:
    return aim(backbone=TinyNet()).eval()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 64, 64).byte(), TypeError, r"float .*\(N, 3, H, W\), got torch.uint8; .*float\(\) / 255"),
        ([[0.0]], TypeError, r"images must be a float tensor .*, got list"),
        (torch.zeros(3, 64, 64), ValueError, r"images .*, got \(3, 64, 64\); .* images.unsqueeze\(0\)"),
        (torch.zeros(1, 64, 64, 3), ValueError, r"images .*, got 64 channels; .*permute\(0, 3.*example_input="),
        (torch.zeros(1, 1, 64, 64), ValueError, r"images .*, got 1 channels"),
        (torch.zeros(1, 3, 31, 64), ValueError, r"images of 31 x 64 are smaller .* deepest map; .*at least 32 pixels"),
        (torch.zeros(1, 3, 64, 16), ValueError, r"images of 64 x 16 are smaller"),
    ],
)
def test_wrong_images(model: AIM, images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model(images)


def test_smallest_images_that_fit(model: AIM) -> None:
    assert model(torch.zeros(1, 3, 32, 32)).masks[3].shape == (1, 1, 1, 1)


@pytest.mark.parametrize("masks", [{}, {2: torch.ones(1)}, {2: torch.ones(1), 3: torch.ones(1), 1: torch.ones(1)}])
def test_masks_for_other_stages(model: AIM, masks: dict[int, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"masks must be given for the stages \[2, 3\], got \["):
        model(torch.zeros(1, 3, 64, 64), masks)


def test_masks_of_another_shape(model: AIM) -> None:
    """(N, H, W) masks, the natural slip, and another grid: name the stage and the shape it takes."""
    for wrong in (torch.ones(2, 4, 4), torch.ones(2, 1, 3, 3), torch.ones(2, 16, 4, 4)):
        with pytest.raises(ValueError, match=r"mask.* stage 2.*\(2, 1, 4, 4\)"):
            model(torch.zeros(2, 3, 64, 64), {2: wrong, 3: torch.ones(1)})


def test_block_widths_of_the_hand_written_net() -> None:
    """The numbers that the tests above lean on."""
    assert [tap.channels for tap in AIM(TinyNet(), [0, 1, 2, 3]).taps] == [8, 12, 16, 20]
    assert isinstance(conv_block(3, 4)[0], nn.Conv2d)


# ---- Common mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "pattern"),
    [
        (lambda state: {"model": state, "epoch": 3}, r"pass the part that holds the weights, perhaps state\['model'\]"),
        (lambda state: {f"module.{k}": v for k, v in state.items()}, r"begins with 'module\.'; load \{k\.removeprefix"),
        (lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}, r"begins with '_orig_mod\.'"),
    ],
)
def test_checkpoints_that_are_wrapped_or_prefixed(wrap: Callable[[dict], dict], pattern: str) -> None:
    model = aim()
    with pytest.raises(RuntimeError, match=pattern):
        model.load_state_dict(wrap(model.state_dict()))


def test_one_node_under_two_names_is_a_repetition() -> None:
    with pytest.raises(ValueError, match=r"stages must not repeat: \[3, 'block3'\] are all the node 'block3'"):
        AIM(TinyNet(), [3, "block3"])


def test_double_precision_images_for_a_single_precision_model() -> None:
    with pytest.raises(TypeError, match=r"got float64 for a torch\.float32 model; call images\.float\(\)"):
        aim()(torch.zeros(1, 3, 64, 64, dtype=torch.float64))


def test_headless_model_that_ends_in_an_identity_has_no_classes() -> None:
    model = torchvision.models.mobilenet_v3_small()
    model.classifier[3] = nn.Identity()
    with pytest.raises(ValueError, match=r"num_classes cannot be read off MobileNetV3.*Pass num_classes="):
        AIM(model)


def test_wrapped_and_unlike_backbones() -> None:
    with pytest.raises(TypeError, match=r"wrapped in DataParallel; pass its \.module, and wrap AIM instead"):
        AIM(nn.DataParallel(TinyNet()))
    with pytest.raises(TypeError, match="example_input must be a tensor of images"):
        AIM(TinyNet(), example_input=[1])


def test_a_model_that_cannot_run_can_be_printed() -> None:
    model = aim()
    model.backbone.half()
    assert "cost unknown" in repr(model)
