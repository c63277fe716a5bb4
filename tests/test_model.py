"""AIM: the paper's forward replayed by straight code, what the masks guarantee, and what wrapping promises."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BACKBONES, NUM_CLASSES, HeadConvNet, TinyNet, conv_block, copied, small_aim

from aimwrap import AIM, AIMLoss, AIMOutput, MaskedFeatures, MaskEstimator, TauScheduler

HEADS = ["paper", "feature-preserving"]
every_head = pytest.mark.parametrize("head", HEADS)


def aim(head: str = "paper", stages: tuple = (2, 3), backbone: nn.Module | None = None, **arguments: object) -> AIM:
    settings = {"width": 8, "mask_width": 4, "head": head} | arguments
    return small_aim(stages, **settings) if backbone is None else AIM(backbone, list(stages), **settings)


def lively(model: AIM) -> AIM:
    """Spread the fresh parameters, so that no term of a transcription is too small to be missed."""
    for module in (model.top_down, model.mask_estimators, model.stage_classifiers, model.classifier):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def balanced(model: AIM, images: Tensor) -> AIM:
    """Move each estimator's bias so that about half of the positions of these images have a positive logit."""
    twin = copy.deepcopy(model)
    for stage, logits in twin.forward_masks(twin.forward_backbone(images)).mask_logits.items():
        ordered = logits.detach().flatten().sort().values
        middle = len(ordered) // 2
        model.mask_estimators[f"stage_{stage}"].how_much.bias.data -= ordered[middle - 1 : middle + 1].mean()
    return model


# ---- The paper, transcribed: loops allowed, no code of aimwrap but the parameters -----------------------------------


def norm_over_channels(x: Tensor, norm: nn.Module) -> Tensor:
    deviation = x - x.mean(1, keepdim=True)
    scaled = deviation / torch.sqrt((deviation**2).mean(1, keepdim=True) + 1e-6)
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def nearest(x: Tensor, like: Tensor) -> Tensor:
    rows = [i * x.shape[2] // like.shape[2] for i in range(like.shape[2])]
    columns = [j * x.shape[3] // like.shape[3] for j in range(like.shape[3])]
    return x[:, :, rows][:, :, :, columns]


def estimate(estimator: MaskEstimator, x: Tensor) -> Tensor:
    """A = M(S(x)), eq. 1."""

    def conv(layer: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), layer.weight, layer.bias)

    x = F.relu(norm_over_channels(conv(estimator.stem, x), estimator.stem_norm))
    for block in estimator.blocks:
        inner = F.relu(norm_over_channels(conv(block.conv1, x), block.norm1))
        x = F.relu(x + norm_over_channels(conv(block.conv2, inner), block.norm2))
    where = F.conv2d(x, estimator.where.weight)
    deviation = where - where.mean((2, 3), keepdim=True)
    where = 4 * deviation / torch.sqrt(deviation.square().mean((2, 3), keepdim=True) + 1e-5)
    context = x.flatten(2).mean(2)
    context = context - context.mean(1, keepdim=True)
    context = context / torch.sqrt(context.square().mean(1, keepdim=True) + 1e-5)
    how_much = context @ estimator.how_much.weight.T + estimator.how_much.bias
    return (where + how_much[:, :, None, None]).clamp(-6, 6)


def transform(layers: nn.Module, x: Tensor) -> Tensor:
    """T(S(x)): 1x1, 3x3, LayerNorm, GELU."""
    x = F.conv2d(x, layers.align.weight, layers.align.bias)
    x = norm_over_channels(F.conv2d(x, layers.refine.weight, layers.refine.bias, padding=1), layers.norm)
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def average(masked: Tensor, mask: Tensor, pooling: str) -> Tensor:
    rows = []
    for image, open_cells in zip(masked, mask, strict=True):
        count = max(1, int(open_cells.sum())) if pooling == "active" else open_cells.numel()
        rows.append(image.flatten(1).sum(1) / count)
    return torch.stack(rows)


def transcribed(model: AIM, maps: dict[str, Tensor], training: bool, pooling: str) -> dict[str, object]:
    """Section 3 from the backbone's maps on; ``training`` draws from torch's generator, shallow to deep."""
    stages = list(model.stages)
    own = [maps[str(stage)] for stage in stages]
    if model.head == "paper":
        evidence = own
        features = [transform(layers, x) for layers, x in zip(model.top_down.transforms, own, strict=True)]
    else:
        evidence = [torch.cat([x, nearest(y, x)], 1) for x, y in itertools.pairwise(own)] + [own[-1]]
        features = [nearest(maps["final map"], own[-1])]
        for x in own[-2::-1]:
            features = [nearest(features[0], x), *features]
    estimators = list(model.mask_estimators.values())
    attention = [estimate(m, x) for m, x in zip(estimators, evidence, strict=True)]
    masks = []
    for a in attention:
        if training:
            uniform = torch.rand(a.shape)
            a = a + torch.log(uniform) - torch.log(1 - uniform)
        masks.append((a >= 0).float())  # B, eq. 2
    masked = [t * b for t, b in zip(features, masks, strict=True)]  # O, eq. 3
    classifiers = list(model.stage_classifiers.values())
    stage_logits = [  # eq. 4, before any merging
        average(o, b, pooling) @ f.weight.T + f.bias for o, b, f in zip(masked, masks, classifiers, strict=True)
    ]
    fused, merged = masked[-1], masks[-1]
    for o, b in zip(masked[-2::-1], masks[-2::-1], strict=True):
        fused, merged = o + nearest(fused, o), torch.maximum(b, nearest(merged, b))
    if model.head != "paper":
        fused, merged = masked[0], masks[0]
    logits = average(fused, merged, pooling) @ model.classifier.weight.T + model.classifier.bias  # eq. 5
    return {"attention": attention, "masks": masks, "stage_logits": stage_logits, "logits": logits, "merged": merged}


@pytest.mark.parametrize("size", [(64, 64), (97, 61)])
@pytest.mark.parametrize("pooling", ["active", "all"])
@pytest.mark.parametrize("stages", [(3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("training", [True, False])
@every_head
def test_equals_a_transcription_of_the_paper(
    head: str, training: bool, stages: tuple[int, ...], pooling: str, size: tuple[int, int]
) -> None:
    images = torch.randn(3, 3, *size)
    model = balanced(lively(aim(head, stages, pooling=pooling)).train(training), images)
    plain = copy.deepcopy(model)
    torch.manual_seed(11)
    output = model(images)
    maps = plain.forward_backbone(images)
    torch.manual_seed(11)
    expected = transcribed(plain, maps, training, pooling)
    for got, wanted in zip(output.masks.values(), expected["masks"], strict=True):
        assert 0 < wanted.mean() < 1
        assert torch.equal(got, wanted)
    for got, wanted in zip(output.stage_logits.values(), expected["stage_logits"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, expected["logits"], rtol=1e-4, atol=1e-5)
    torch.manual_seed(11)
    features = plain.forward_masks(maps)
    assert torch.equal(features.merged_mask, expected["merged"])
    for got, wanted in zip(features.mask_logits.values(), expected["attention"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)  # standardising magnifies rounding


# ---- What the masks guarantee ---------------------------------------------------------------------------------------


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


def test_contributions_of_positions_sum_to_the_logits() -> None:
    """Nothing non-linear stands between the fused map and the logits."""
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


# ---- What trains the masks ------------------------------------------------------------------------------------------


def mask_gradients(model: AIM, loss: AIMLoss) -> dict[str, Tensor]:
    """Gradients on the estimators after one batch, under one seed."""
    torch.manual_seed(3)
    images = torch.randn(4, 3, 64, 64).double()
    model.zero_grad()
    loss(model.double().train()(images), torch.arange(4) % NUM_CLASSES).backward()
    return {name: p.grad.clone() for name, p in model.mask_estimators.named_parameters()}


@pytest.mark.parametrize("pooling", ["active", "all"])
@every_head
def test_labels_order_positions_and_the_area_loss_opens_them(head: str, pooling: str) -> None:
    """The classification losses pull at no estimator's openness; its order of positions they train as ever."""
    model = lively(aim(head, (1, 2, 3), pooling=pooling))
    twin = lively(aim(head, (1, 2, 3), pooling=pooling, labels_move_area=True))
    twin.load_state_dict(model.state_dict())
    labels_only = AIMLoss(model.tau, mask_weight=0)
    area_only = AIMLoss(model.tau, stage_weight=0, final_weight=0)
    from_labels, as_the_paper = mask_gradients(model, labels_only), mask_gradients(twin, labels_only)
    for name, gradient in from_labels.items():
        if "how_much" in name:
            assert gradient.abs().max() < 1e-5 * as_the_paper[name].abs().max()
        else:
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, as_the_paper[name], rtol=1e-3, atol=1e-6)
    from_area = mask_gradients(model, area_only)
    assert all(from_area[name].abs().max() > 0 for name in from_area if "how_much" in name)
    for name, gradient in mask_gradients(twin, area_only).items():
        assert torch.equal(gradient, from_area[name])


@every_head
def test_what_trains_the_area_changes_no_value(head: str) -> None:
    model = lively(aim(head)).train()
    twin = aim(head, labels_move_area=True).train()
    twin.load_state_dict(model.state_dict())
    images, outputs = torch.randn(2, 3, 64, 64), []
    for each in (model, twin):
        torch.manual_seed(7)
        outputs.append(each(images))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    for stage in model.stages:
        assert torch.equal(outputs[0].masks[stage], outputs[1].masks[stage])
        assert torch.equal(outputs[0].stage_logits[stage], outputs[1].stage_logits[stage])


@every_head
def test_a_mask_and_its_selection_are_one_mask(head: str) -> None:
    model = lively(aim(head)).train()
    features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 97, 61)))
    for stage in model.stages:
        assert torch.equal(features.masks[stage], features.selections[stage])


# ---- Numbers that cannot overflow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("logit_range", [6.0, math.inf])
@pytest.mark.parametrize("bias", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_head
def test_autocast_with_extreme_logits_stays_finite(
    head: str, dtype: torch.dtype, bias: float, logit_range: float
) -> None:
    model = aim(head, logit_range=logit_range).train()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, bias)
    with torch.autocast("cpu", dtype=dtype):
        output = model(torch.randn(2, 3, 64, 64))
        loss = AIMLoss(model.tau)(output, torch.tensor([0, 1]))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
    assert all(logits.isfinite().all() for logits in (output.logits, *output.stage_logits.values()))
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@every_head
def test_whole_model_in_another_dtype(head: str, dtype: torch.dtype) -> None:
    model = aim(head).to(dtype).train()
    output = model(torch.randn(2, 3, 64, 64, dtype=dtype))
    AIMLoss(model.tau)(output, torch.tensor([0, 1])).backward()
    assert output.logits.dtype == output.masks[2].dtype == dtype
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# ---- Wrapping -------------------------------------------------------------------------------------------------------


def test_new_modules_take_dtype_and_mode_of_the_backbone() -> None:
    for training in (True, False):
        model = aim(backbone=HeadConvNet().bfloat16().train(training))
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert {module.training for module in model.modules()} == {training}


def test_new_modules_take_the_device_of_the_backbone() -> None:
    model = aim(backbone=HeadConvNet().to("meta"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_copy_isolates_the_backbone_and_sharing_is_the_default() -> None:
    backbone = HeadConvNet()
    before = copy.deepcopy(backbone.state_dict())
    isolated, shared = aim(backbone=backbone, copy=True), aim(backbone=backbone)
    for model in (isolated, shared):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        AIMLoss(model.tau)(model.train()(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
        same = all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert same == (model is isolated)


@every_head
def test_wrapping_twice_does_not_entangle_the_heads(head: str) -> None:
    backbone = HeadConvNet()
    first, second = aim(head, backbone=backbone), aim(head, backbone=backbone)
    assert set(first.backbone.parameters()) == set(second.backbone.parameters())
    assert not set(first.mask_estimators.parameters()) & set(second.mask_estimators.parameters())


def test_frozen_parameters_stay_frozen_and_the_head_trains() -> None:
    backbone = HeadConvNet().requires_grad_(False)
    model = aim(backbone=backbone).train()
    AIMLoss(model.tau)(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("backbone."))


@every_head
def test_a_few_steps_of_training_lower_the_loss(head: str) -> None:
    model = aim(head).train()
    criterion = AIMLoss(model.tau)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % NUM_CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_stages_sort_and_tau_with_them() -> None:
    model = aim(stages=(3, 1, 2), tau=[0.3, 0.1, 0.2])
    assert model.stages == (1, 2, 3)
    assert model.tau == (0.1, 0.2, 0.3)
    assert list(model.mask_estimators) == ["stage_1", "stage_2", "stage_3"]
    assert [tap.channels for tap in model.taps] == [12, 16, 20]
    assert list(model.eval()(torch.randn(1, 3, 64, 64)).masks) == [1, 2, 3]


def test_one_tau_is_spread_over_the_stages() -> None:
    assert aim(tau=0.35).tau == (0.35, 0.35)
    assert aim(tau=[0.35, 0.5]).tau == (0.35, 0.5)
    assert aim().tau == (0.25, 0.25)


def test_node_names_as_stages() -> None:
    model = aim(stages=("block3.0", "block1"), tau=(0.4, 0.2)).eval()
    output = model(torch.randn(2, 3, 64, 64))
    assert list(output.masks) == list(output.stage_logits) == ["block1", "block3.0"]
    assert model.tau == (0.2, 0.4)
    assert model.variant == "HeadConvNet+AIM [block1+block3.0, 20%, 40%]"
    twin = aim(stages=("block3.0", "block1"))
    twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("tau", "shown"), [(0.25, "25%"), ([0.2, 0.35], "20%, 35%"), ([0.3, 0.3], "30%"), (0.125, "12.5%"), (1.0, "100%")]
)
def test_variant_shows_the_areas(tau: object, shown: str) -> None:
    assert aim(tau=tau).variant == f"HeadConvNet+AIM [3, {shown}]"


def test_variant_counts_as_the_paper_does() -> None:
    """ResNet's stem is a stage of the paper's five, ConvNeXt has four."""
    with torch.device("meta"):
        resnet = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    convnext = BACKBONES["tv_convnext"]()
    assert AIM(resnet, [2, 3]).variant == "ResNet+AIM [3, 25%]"
    assert AIM(resnet, [1, 2, 3], 0.35).variant == "ResNet+AIM [2, 35%]"
    assert AIM(resnet, [3]).variant == "ResNet+AIM [4, 25%]"
    assert AIM(convnext, [2, 3]).variant == "ConvNeXt+AIM [2, 25%]"
    assert AIM(resnet, [1, 3]).variant == "ResNet+AIM [layer2+layer4, 25%]"  # a gap: the count would hide it


@pytest.mark.parametrize(
    ("head", "fewest_parameters", "fewest_macs"),
    [("paper", 1.9e6, 0.1e9), (None, 1e6, 0.05e9)],
)
@pytest.mark.slow
def test_convnext_tiny_of_the_acceptance_list(head: str | None, fewest_parameters: float, fewest_macs: float) -> None:
    chosen = {} if head is None else {"head": head}
    model = AIM(timm.create_model("convnext_tiny", num_classes=200), stages=[2, 3], tau=0.25, **chosen)
    cost = model.cost()
    assert model.num_classes == 200
    assert model.variant == "convnext_tiny+AIM [2, 25%]"
    assert fewest_parameters <= cost.head_parameters <= 3.7e6
    assert fewest_macs <= cost.head_macs <= 1.0e9
    assert cost.image_size == (224, 224)
    with torch.no_grad():
        output = model.eval()(torch.zeros(1, 3, 224, 224))
    assert [tuple(mask.shape) for mask in output.masks.values()] == [(1, 1, 14, 14), (1, 1, 7, 7)]
    assert output.logits.shape == (1, 200)


def test_the_head_of_the_study_is_the_default() -> None:
    assert AIM(TinyNet(), [2, 3]).head == "feature-preserving"


def test_resnet50_of_the_acceptance_list() -> None:
    with torch.device("meta"):
        backbone = torchvision.models.resnet50()
    model = AIM(backbone, stages=[2, 3], tau=0.25)
    assert model.num_classes == 1000
    assert model.variant == "ResNet+AIM [3, 25%]"
    output = model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert [tuple(mask.shape) for mask in output.masks.values()] == [(1, 1, 14, 14), (1, 1, 7, 7)]


def test_number_of_classes() -> None:
    assert aim(backbone=TinyNet(11)).num_classes == 11
    model = aim(backbone=TinyNet(11), num_classes=3)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)
    assert aim(backbone=timm.create_model("resnet10t", num_classes=0), num_classes=4).num_classes == 4


def test_initialisation_of_the_classifiers() -> None:
    model = aim(width=256)
    for classifier in (model.classifier, *model.stage_classifiers.values()):
        assert (classifier.bias == 0).all()
        assert classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_arguments_reach_their_modules() -> None:
    model = aim(width=24, mask_width=12, mask_norm="batch", logit_spread=2.0, logit_range=7.0)
    assert model.top_down.transforms[0].refine.out_channels == model.classifier.in_features == 24
    for estimator in model.mask_estimators.values():
        assert estimator.stem.out_channels == 12
        assert isinstance(estimator.stem_norm, nn.BatchNorm2d)
        assert (estimator.logit_spread, estimator.logit_range) == (2.0, 7.0)
    preserving = aim("feature-preserving", width=24)
    assert preserving.classifier.in_features == 40
    assert [e.stem.in_channels for e in preserving.mask_estimators.values()] == [16 + 20, 20]


def test_print_is_a_report() -> None:
    model = aim("feature-preserving", tau=[0.2, 0.35], pooling="all")
    text = model.extra_repr()
    assert "HeadConvNet+AIM [3, 20%, 35%], feature-preserving head, 7 classes, mean over all positions" in text
    assert "stage 2: block2, 16 channels, stride 16, tau 0.2" in text
    assert "stage 3: block3, 20 channels, stride 32, tau 0.35" in text
    assert "parameters, backbone alone" in text and "GMACs at 224 x 224" in text
    assert text.splitlines()[0] in repr(model)


def test_printing_changes_nothing() -> None:
    model = aim().train()
    flags, generator = [module.training for module in model.modules()], torch.get_rng_state()
    repr(model)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(generator, torch.get_rng_state())


def test_grey_and_many_channel_images() -> None:
    for channels in (1, 5):
        model = aim(backbone=TinyNet(in_channels=channels)).eval()
        assert model.in_channels == channels
        assert model(torch.randn(2, channels, 64, 64)).logits.shape == (2, 7)


# ---- Copies, checkpoints, compilers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@every_head
def test_a_loaded_model_still_switches_to_evaluation(head: str, how: str) -> None:
    """Dropout and BatchNorm of the backbone, and the masks' noise."""
    model = aim(head, backbone=TinyNet(dropout=0.5)).train()
    twin = copied(model, how)
    images = torch.randn(2, 3, 64, 64)
    assert twin.variant == model.variant and twin.taps == model.taps and repr(twin) == repr(model)
    assert not torch.equal(twin(images).logits, twin(images).logits)
    twin.load_state_dict(model.state_dict())
    model.eval()
    twin.eval()
    assert torch.equal(twin(images).logits, twin(images).logits)
    assert torch.equal(twin(images).logits, model(images).logits)


def test_checkpoint_of_the_backbone_itself() -> None:
    pattern = r"the backbone's own checkpoint; load it with model.backbone.load_state_dict\(state_dict, strict=False\)"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(HeadConvNet().state_dict())


def test_checkpoint_of_other_stages() -> None:
    state = aim(stages=(1, 2, 3)).state_dict()
    pattern = r"it has stage_1, stage_2, stage_3, this model \(HeadConvNet\+AIM \[3, 25%\]\) has stage_2, stage_3"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(state)


def test_checkpoint_of_the_other_head() -> None:
    for head, other in (HEADS, HEADS[::-1]):
        expected = f"another variant.* the {other} head; build the model with head=.{other}"
        with pytest.raises(RuntimeError, match=expected):
            aim(head).load_state_dict(aim(other).state_dict())


def test_checkpoint_of_another_number_of_classes() -> None:
    pattern = r"does not fit HeadConvNet.* with 7 classes; build the model the same way\n(.*\n)*.*size mismatch"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(aim(num_classes=9).state_dict())


def test_load_state_dict_returns_what_torch_returns() -> None:
    model = aim()
    state = model.state_dict()
    state.pop("classifier.bias")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["classifier.bias"] and unexpected == []


def steps(model: nn.Module, criterion: nn.Module, images: Tensor) -> list[float]:
    losses = []
    for training in (True, False):
        model.train(training)
        torch.manual_seed(3)
        loss = criterion(model(images), torch.tensor([0, 1]))
        loss.backward()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("head", ["paper", "feature-preserving"])
def test_compiles_with_aot_autograd_in_train_and_eval(head: str) -> None:
    torch._dynamo.reset()
    model = aim(head, backbone=TinyNet())
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 64, 64)
    eager = steps(model, AIMLoss(model.tau), images)
    assert steps(compiled, AIMLoss(model.tau), images) == pytest.approx(eager, rel=1e-4)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)


def test_moving_tau_compiles_nothing_anew() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    criterion = AIMLoss(tau=(0.2, 0.3))
    schedule = TauScheduler(criterion, anneal_epochs=5)
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    masks = {2: torch.ones(2, 1, 4, 4), 3: torch.ones(2, 1, 2, 2)}
    output = AIMOutput(torch.zeros(2, 3), {2: torch.zeros(2, 3), 3: torch.zeros(2, 3)}, masks)
    losses = []
    for _ in range(6):
        losses.append(compiled(output, torch.tensor([0, 1])).item())
        schedule.step()
    assert len(graphs) == 1
    assert losses == sorted(losses) and losses[0] < losses[-1]


def test_compiled_loop_of_model_and_criterion_compiles_once_per_mode() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model = aim(backbone=TinyNet()).train()
    criterion = AIMLoss(model.tau)
    schedule = TauScheduler(criterion, anneal_steps=3)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return criterion(model(images), labels)

    compiled = torch.compile(loss_of, fullgraph=True, backend=backend)
    for _ in range(4):
        compiled(torch.randn(2, 3, 64, 64), torch.tensor([0, 1])).backward()
        schedule.step()
    assert len(graphs) == 1


# ---- What wrong input gets ------------------------------------------------------------------------------------------


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
        ({"tau": 0.0}, ValueError, r"tau must lie in \(0, 1\], got 0.0"),
        ({"tau": [0.2, 1.2]}, ValueError, r"tau must lie in \(0, 1\], got \[0.2, 1.2\]"),
        ({"tau": [0.2]}, ValueError, r"tau must be one float or one per stage: 2 stage\(s\), 1 value\(s\)"),
        ({"tau": [0.2, 0.3, 0.4]}, ValueError, r"tau must be one float or one per stage: 2 stage\(s\), 3 value\(s\)"),
        ({"head": "fpn"}, ValueError, r"head must be one of 'paper', 'feature-preserving', got 'fpn'"),
        ({"pooling": "max"}, ValueError, r"pooling must be one of 'active', 'all', got 'max'"),
        ({"mask_norm": "group"}, ValueError, r"mask_norm must be one of .*, got 'group'"),
        ({"logit_spread": 0}, ValueError, r"logit_spread must be positive"),
        ({"logit_range": 0}, ValueError, r"logit_range must be positive"),
        ({"width": 0}, ValueError, r"width must be positive, got 0"),
        ({"mask_width": -4}, ValueError, r"mask_width must be positive, got -4"),
        ({"temperature": 0.0}, ValueError, r"temperature must be positive, got 0.0"),
        ({"num_classes": 0}, ValueError, r"num_classes must be at least 1, got 0"),
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


# ---- What people slip on ---------------------------------------------------------------------------------------------


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
