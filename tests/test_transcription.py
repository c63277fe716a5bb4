"""AIM equals a transcription of the paper: loops allowed, no code of aimwrap except the parameters."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import aim, average, balanced, every_head, lively, nearest

from aimwrap import AIM, MaskEstimator


def norm_over_channels(x: Tensor, norm: nn.Module) -> Tensor:
    deviation = x - x.mean(1, keepdim=True)
    scaled = deviation / torch.sqrt((deviation**2).mean(1, keepdim=True) + 1e-6)
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


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
    images = torch.randn(3, 3, *size).double()  # standardising magnifies rounding
    model = balanced(lively(aim(head, stages, pooling=pooling)).double().train(training), images)
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
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(output.logits, expected["logits"])
    torch.manual_seed(11)
    features = plain.forward_masks(maps)
    assert torch.equal(features.merged_mask, expected["merged"])
    for got, wanted in zip(features.mask_logits.values(), expected["attention"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
