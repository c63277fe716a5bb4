"""explain(): shares that add up to the logits, zeros where nothing may count, the model left as it was."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BACKBONES, NUM_CLASSES, HeadConvNet, lively, lively_aim, with_heads_in_turn

from aimwrap import AIM, Explanation, explain
from aimwrap.attribution import LogitsView

QUICK = ["tiny", "head_conv", "parameters", "resnet10t"]  # others: slow


@functools.cache
def wrapped(name: str, head: str, stages: tuple[int, ...], pooling: str) -> AIM:
    torch.manual_seed(0)
    model = AIM(BACKBONES[name](), list(stages), head=head, width=8, mask_width=4, pooling=pooling, copy=True)
    return lively(model).eval()


def nearest(x: Tensor, like: Tensor) -> Tensor:
    rows = [i * x.shape[2] // like.shape[2] for i in range(like.shape[2])]
    columns = [j * x.shape[3] // like.shape[3] for j in range(like.shape[3])]
    return x[:, :, rows][:, :, :, columns]


def support(masks: list[Tensor], head: str) -> Tensor:
    """The union of the masks, each resized partner by partner; with our head the finest mask alone."""
    if head == "feature-preserving":
        return masks[0]
    merged = masks[-1]
    for mask in masks[-2::-1]:
        merged = torch.maximum(mask, nearest(merged, mask))
    return merged


@settings(max_examples=20)
@given(
    name=st.sampled_from(QUICK),
    head=st.sampled_from(["paper", "feature-preserving"]),
    stages=st.sampled_from([(2, 3), (1, 2, 3)]),
    pooling=st.sampled_from(["active", "all"]),
    size=st.sampled_from([(64, 64), (97, 97), (97, 130)]),
    seed=st.integers(0, 1000),
)
def test_contributions_are_exact(
    name: str, head: str, stages: tuple[int, ...], pooling: str, size: tuple[int, int], seed: int
) -> None:
    check_exact(wrapped(name, head, stages, pooling), head, size, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), with_heads_in_turn(sorted(BACKBONES)))
def test_contributions_are_exact_at_299_pixels(name: str, head: str) -> None:
    check_exact(wrapped(name, head, (1, 2, 3), "active"), head, (299, 299), 0)


def check_exact(model: AIM, head: str, size: tuple[int, int], seed: int) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    got = explain(model, images)
    output = model(images)
    assert torch.equal(got.logits, output.logits)
    rebuilt = got.contributions.sum((2, 3)) + got.bias
    scale = got.contributions.abs().sum((2, 3)) + got.bias.abs()
    assert ((rebuilt - got.logits).abs() <= 1e-5 * scale).all()
    assert (got.contributions[(got.merged_mask == 0).expand_as(got.contributions)] == 0).all()
    assert torch.equal(got.merged_mask, support(list(output.masks.values()), head))
    torch.testing.assert_close(
        torch.stack(list(got.stage_contributions.values())).sum(0), got.contributions, rtol=1e-4, atol=1e-6
    )
    assert list(got.stage_contributions) == list(got.masks) == list(got.mask_probabilities) == list(model.stages)
    for stage in model.stages:
        assert torch.equal(got.masks[stage], output.masks[stage])
        assert torch.equal(got.masks[stage] == 1, got.mask_probabilities[stage] >= 0.5)


def test_a_hand_computed_share() -> None:
    """Contribution of a position = classifier weights . fused features there / number of active positions."""
    model, images = lively_aim(stages=(1, 2, 3)), torch.randn(2, 3, 97, 61)
    features = model.forward_masks(model.forward_backbone(images))
    got = explain(model, images, classes=[4])
    active = features.merged_mask.sum((2, 3))
    for n, y, x in ((0, 3, 2), (1, 0, 0), (1, 5, 3)):
        by_hand = (features.fused[n, :, y, x] * model.classifier.weight[4]).sum() / active[n, 0]
        torch.testing.assert_close(got.contributions[n, 0, y, x], by_hand)


def test_a_stages_share_is_what_its_closing_takes_away() -> None:
    """With mean over all positions the shares do not depend on each other: close one stage, lose its share."""
    model, images = lively_aim(stages=(1, 2, 3), pooling="all"), torch.randn(2, 3, 97, 61)
    got = explain(model, images)
    for closed in model.stages:
        without = model(images, {**got.masks, closed: torch.zeros(1, 1, 1, 1)}).logits
        share = got.stage_contributions[closed]
        torch.testing.assert_close(got.logits - without, share.sum((2, 3)), rtol=1e-3, atol=1e-5)
        assert share.abs().sum() > 0


def test_the_feature_preserving_heads_finest_stage_brings_everything() -> None:
    got = explain(lively_aim("feature-preserving"), torch.randn(2, 3, 64, 64))
    assert torch.equal(got.stage_contributions[2], got.contributions)
    assert (got.stage_contributions[3] == 0).all()


def test_classes_are_chosen() -> None:
    model, images = lively_aim(), torch.randn(2, 3, 64, 64)
    everything = explain(model, images)
    assert everything.contributions.shape[1] == NUM_CLASSES
    for classes in ([5, 0], torch.tensor([5, 0]), (5, 0)):
        some = explain(model, images, classes)
        assert some.logits.shape == (2, NUM_CLASSES)
        torch.testing.assert_close(some.contributions, everything.contributions[:, [5, 0]])
        assert torch.equal(some.bias, everything.bias[[5, 0]])
        for stage in model.stages:
            share = everything.stage_contributions[stage][:, [5, 0]]
            torch.testing.assert_close(some.stage_contributions[stage], share)


def test_empty_masks_leave_the_bias() -> None:
    model = lively_aim()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, -1e4)
    got = explain(model, torch.randn(2, 3, 64, 64))
    assert (got.contributions == 0).all() and (got.merged_mask == 0).all()
    assert torch.equal(got.logits, got.bias.expand(2, -1))


def test_the_model_is_left_as_it_was() -> None:
    model = lively_aim().train()
    model.backbone.eval()  # a frozen backbone's norms, as users keep them
    modes = [module.training for module in model.modules()]
    generator, state = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    got = explain(model, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(tensor.requires_grad for tensor in (got.logits, got.contributions, got.bias))


def test_modes_come_back_after_an_error() -> None:
    model = lively_aim().train()
    with pytest.raises(TypeError, match="images must be a float tensor"):
        explain(model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    got = explain(lively_aim().to(dtype), torch.randn(2, 3, 64, 64, dtype=dtype))
    assert got.contributions.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    scale = got.contributions.abs().sum((2, 3)) + got.bias.abs()
    assert ((got.contributions.sum((2, 3)) + got.bias - got.logits).abs() <= tolerance * scale).all()


def test_autocast_does_not_round_the_shares() -> None:
    """The map may come in half precision; what is made of it does not."""
    model, images = lively_aim(pooling="all"), torch.randn(2, 3, 97, 97)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = explain(model, images)
        fused = model.forward_masks(model.forward_backbone(images)).fused.float()
    by_hand = torch.einsum("kd,ndhw->nkhw", model.classifier.weight, fused) / fused[0, 0].numel()
    torch.testing.assert_close(got.contributions, by_hand, rtol=1e-5, atol=1e-7)


def test_wrappers_are_looked_through() -> None:
    model, images = lively_aim(), torch.randn(1, 3, 64, 64)
    for outer in (nn.DataParallel(model), torch.compile(model, backend="eager"), LogitsView(model)):
        assert torch.equal(explain(outer, images).contributions, explain(model, images).contributions)


def test_heatmap_of_the_predicted_class_is_the_class_activation_map() -> None:
    from aimwrap.metrics import class_activation_map

    model, images = lively_aim(pooling="all"), torch.randn(2, 3, 64, 64)
    got: Explanation = explain(model, images)
    predicted = got.logits.argmax(1)
    fused = model.forward_masks(model.forward_backbone(images)).fused
    cam = class_activation_map(fused, model.classifier.weight, predicted)
    torch.testing.assert_close(got.contributions[torch.arange(2), predicted] * fused[0, 0].numel(), cam)


@pytest.mark.parametrize("classes", [[7], [-1], [0, 99]])
def test_classes_that_do_not_exist(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"classes must be in 0..6, got (7|-1|99)"):
        explain(lively_aim(), torch.randn(1, 3, 64, 64), classes)


@pytest.mark.parametrize("classes", [3, [0.5], [[1]], [True, False], [], "cat", {1, 2}])
def test_classes_of_another_kind(classes: object) -> None:
    with pytest.raises(ValueError, match="classes must be a list of class numbers"):
        explain(lively_aim(), torch.randn(1, 3, 64, 64), classes)


def test_models_that_have_no_exact_explanation() -> None:
    with pytest.raises(TypeError, match=r"model must be an AIM, got HeadConvNet; wrap the backbone: AIM\("):
        explain(HeadConvNet(), torch.randn(1, 3, 64, 64))
    model = lively_aim()
    model.classifier = nn.Sequential(nn.LayerNorm(8), model.classifier)
    with pytest.raises(TypeError, match=r"model\.classifier must be one nn.Linear, got Sequential"):
        explain(model, torch.randn(1, 3, 64, 64))


def test_parts_sum_to_the_fused_map() -> None:
    for head in ("paper", "feature-preserving"):
        model = lively_aim(head, (1, 2, 3))
        features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 97, 61)))
        parts = model.top_down.parts(list(features.masked.values()))
        torch.testing.assert_close(sum(parts), features.fused)
        assert torch.equal(parts[0], features.masked[1])
    one_jump = F.interpolate(features.masked[3], size=parts[2].shape[-2:], mode="nearest")
    assert parts[2].shape == one_jump.shape
