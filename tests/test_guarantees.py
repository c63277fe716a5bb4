"""The guarantees of the masks: what is outside a mask cannot change any logit."""

import functools
from collections.abc import Sequence

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import HEADS, HeadConvNet, aim, average, every_head, lively, nearest

from aimwrap import AIM, AIMLoss, MaskedFeatures


def random_masks(model: AIM, maps: dict[str, Tensor], density: float = 0.5) -> dict[int, Tensor]:
    return {stage: (torch.rand_like(maps[str(stage)][:, :1]) < density).float() for stage in model.stages}


def shown(features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Which positions of a map (N, D, h, w) show anywhere in the first mask, through the chain of all of them."""
    numbers = torch.arange(1.0, features[0, 0].numel() + 1).reshape(1, 1, *features.shape[2:])
    seen = numbers
    for mask in reversed(masks):
        seen = nearest(seen, mask)
    return torch.stack([torch.isin(numbers[0], image) for image in seen * masks[0]])


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["active", "all"])
@every_head
def test_features_outside_a_stages_mask_change_no_bit(head: str, pooling: str, stage: int) -> None:
    """Of any logits, for any finite features, including huge and negative ones; and inside the mask they do count."""
    model = lively(aim(head, (1, 2, 3), pooling=pooling)).eval()
    maps = model.forward_backbone(torch.randn(2, 3, 97, 61))
    masks = random_masks(model, maps, density=0.5 if head == "paper" else {1: 0.1, 2: 0.2, 3: 0.4}[stage])
    index = [1, 2, 3].index(stage)

    def logits_with(disturbed: Tensor) -> list[Tensor]:
        def disturb(module: nn.Module, args: object, result: list[Tensor]) -> list[Tensor]:
            features = list(result)
            noise = torch.randn_like(features[index])
            noise *= torch.tensor([1e6, 1.0])[torch.randint(2, noise.shape)]
            features[index] = torch.where(disturbed, noise, features[index])
            return features

        handle = model.top_down.register_forward_hook(disturb)
        output = model.forward_head(model.forward_masks(maps, masks))
        handle.remove()
        return [*output.stage_logits.values(), output.logits]

    features = model.forward_masks(maps, masks).features[stage]
    chain = list(masks.values())[index:] if head == "feature-preserving" else [masks[stage]]
    inside = shown(features, chain)
    assert inside.any() and not inside.all()
    before, outside, within = logits_with(torch.zeros(1)[0] > 0), logits_with(~inside), logits_with(inside)
    assert all(torch.equal(a, b) for a, b in zip(before, outside, strict=True))
    assert not torch.equal(before[index], within[index])
    if head == "paper" or stage == 1:
        assert not torch.equal(before[-1], within[-1])


@every_head
def test_looking_at_features_without_gradients_takes_none_away(head: str) -> None:
    model = aim(head, (1, 2, 3))
    features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 64, 64)))
    with torch.no_grad():
        assert not features.fused.requires_grad
    assert features.fused.requires_grad and len(repr(features)) < 1000 and features == features


@every_head
def test_means_are_those_of_the_masked_maps(head: str) -> None:
    """What the classifiers read, made on the shortest way, against the maps of eq. 3 themselves."""
    model = lively(aim(head, (1, 2, 3))).eval()
    maps = model.forward_backbone(torch.randn(2, 3, 97, 61))
    for density in (0.0, 0.1, 0.5, 1.0):
        features = model.forward_masks(maps, random_masks(model, maps, density))
        for pooling in ("active", "all"):
            stages, final = model.top_down.means(
                list(features.features.values()), list(features.selections.values()), pooling
            )
            for mean, masked, mask in zip(stages, features.masked.values(), features.masks.values(), strict=True):
                torch.testing.assert_close(mean, average(masked, mask, pooling))
            torch.testing.assert_close(final, average(features.fused, features.merged_mask, pooling))


@given(
    sizes=st.tuples(st.integers(33, 130), st.integers(33, 130)),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    head=st.sampled_from(HEADS),
    batch=st.integers(1, 3),
)
def test_merged_mask_is_the_support_of_the_fused_map(
    sizes: tuple[int, int], density: float, head: str, batch: int
) -> None:
    model = positive_model(head)
    maps = model.forward_backbone(torch.randn(batch, 3, *sizes))
    features = model.forward_masks(maps, random_masks(model, maps, density))
    support = (features.fused != 0).any(dim=1, keepdim=True).float()
    assert torch.equal(support, features.merged_mask)
    for stage, masked in features.masked.items():
        assert torch.equal((masked != 0).any(dim=1, keepdim=True).float(), features.masks[stage])


@functools.cache
def positive_model(head: str) -> AIM:
    """Biases keep the backbone's last map above zero, so that only masks make zeros."""
    torch.manual_seed(0)
    backbone = HeadConvNet()
    for parameter in (*backbone.head_conv.parameters(), *backbone.block3[1].parameters()):
        parameter.data.abs_().add_(0.5)
    return lively(aim(head, (1, 2, 3), backbone)).eval()


@pytest.mark.parametrize("pooling", ["active", "all"])
@every_head
def test_empty_masks_give_the_bias_and_finite_gradients(head: str, pooling: str) -> None:
    model = lively(aim(head, pooling=pooling)).train()
    masks = {stage: torch.zeros(1, 1, 1, 1) for stage in model.stages}
    output = model(torch.randn(2, 3, 64, 64), masks)
    assert torch.equal(output.logits, model.classifier.bias.expand(2, -1))
    for logits, classifier in zip(output.stage_logits.values(), model.stage_classifiers.values(), strict=True):
        assert torch.equal(logits, classifier.bias.expand(2, -1))
    AIMLoss(model.tau)(output, torch.tensor([0, 1])).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_head
def test_masks_that_close_by_themselves_give_finite_gradients_everywhere(head: str) -> None:
    model = aim(head).eval()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, -1e4)
    output = model(torch.randn(2, 3, 64, 64))
    assert all((mask == 0).all() for mask in output.masks.values())
    assert torch.equal(output.logits, model.classifier.bias.expand(2, -1))
    AIMLoss(model.tau)(output, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_head
def test_given_masks_are_used_broadcast_and_leave_the_estimators_alone(head: str) -> None:
    model = aim(head).train()
    ran: list[int] = []
    for estimator in model.mask_estimators.values():
        estimator.register_forward_hook(lambda *_: ran.append(1))
    images = torch.randn(2, 3, 64, 64)
    output = model(images, {3: torch.ones(1, 1, 1, 1), 2: torch.zeros(1, dtype=torch.int64)})
    assert ran == []
    assert list(output.masks) == [2, 3]
    assert output.masks[3].shape == (2, 1, 2, 2) and (output.masks[3] == 1).all()
    assert output.masks[2].shape == (2, 1, 4, 4) and (output.masks[2] == 0).all()
    assert output.masks[2].dtype == torch.float32


def test_forward_is_its_three_steps() -> None:
    model, images = aim().eval(), torch.randn(2, 3, 64, 64)
    maps = model.forward_backbone(images)
    features = model.forward_masks(maps)
    output = model.forward_head(features)
    assert set(maps) == {"2", "3"}
    assert isinstance(features, MaskedFeatures)
    assert list(features.mask_logits) == list(features.masks) == list(features.masked) == [2, 3]
    assert torch.equal(output.logits, model(images).logits)
    assert list(model.forward_masks(maps, {2: torch.ones(1), 3: torch.ones(1)}).mask_logits) == []


def test_stage_logits_see_their_own_stage_only() -> None:
    """Before merging: closing one stage's mask changes no bit of another's logits (eq. 4)."""
    model, images = lively(aim("paper", (1, 2, 3))).eval(), torch.randn(2, 3, 64, 64)
    opened = dict.fromkeys(model.stages, torch.ones(1))
    reference = model(images, opened)
    for closed in model.stages:
        output = model(images, {**opened, closed: torch.zeros(1)})
        for stage in model.stages:
            same = torch.equal(output.stage_logits[stage], reference.stage_logits[stage])
            assert same == (stage != closed)
        assert not torch.equal(output.logits, reference.logits)


@every_head
def test_deeper_masks_take_part_in_the_papers_head_alone(head: str) -> None:
    model, images = lively(aim(head, (1, 2, 3))).eval(), torch.randn(2, 3, 64, 64)
    masks = random_masks(model, model.forward_backbone(images))
    deeper_closed = {stage: mask * (stage == 1) for stage, mask in masks.items()}
    logits, without = (model(images, given).logits for given in (masks, deeper_closed))
    assert torch.equal(logits, without) == (head == "feature-preserving")


def test_contributions_of_positions_sum_to_the_logits() -> None:
    """Nothing non-linear is between the fused map and the logits."""
    model = lively(aim()).eval()
    features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 64, 64)))
    shares = torch.einsum("ndhw,kd->nkhw", features.fused, model.classifier.weight)
    shares = shares / features.merged_mask.sum((2, 3), keepdim=True).clamp(min=1)
    logits = model.forward_head(features).logits
    torch.testing.assert_close(shares.sum((2, 3)) + model.classifier.bias, logits, rtol=1e-4, atol=1e-5)


@every_head
def test_training_masks_vary_and_evaluation_masks_do_not(head: str) -> None:
    model, images = aim(head), torch.randn(4, 3, 64, 64)
    model.train()
    draws = [torch.cat([m.flatten() for m in model(images).masks.values()]) for _ in range(2)]
    assert not torch.equal(*draws)
    model.eval()
    draws = [torch.cat([m.flatten() for m in model(images).masks.values()]) for _ in range(2)]
    assert torch.equal(*draws)


def test_temperature_shapes_the_gradient_only() -> None:
    gradients, masks = [], []
    for temperature in (0.3, 3.0):
        torch.manual_seed(5)
        model = aim(temperature=temperature).train()
        output = model(torch.randn(2, 3, 64, 64))
        masks.append(output.masks[3])
        through_features = torch.autograd.grad(output.logits.sum(), model.mask_estimators["stage_3"].where.weight)
        torch.manual_seed(5)
        model(torch.randn(2, 3, 64, 64)).masks[3].sum().backward()
        gradients.append((model.mask_estimators["stage_3"].how_much.bias.grad.clone(), *through_features))
    assert torch.equal(*masks)
    for one, other in zip(*gradients, strict=True):
        assert not torch.allclose(one, other)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
@every_head
def test_first_batch_has_masks_neither_all_on_nor_all_off(head: str, seed: int) -> None:
    torch.manual_seed(seed)
    output = AIM(timm.create_model("resnet10t", num_classes=2), head=head).train()(torch.randn(8, 3, 96, 96))
    for mask in output.masks.values():
        areas = mask.mean((1, 2, 3))
        assert 0.05 < areas.mean() < 0.95
        assert len(mask.flatten(1).unique(dim=0)) > 1
