"""``AIM(backbone, **PAPER)`` against section 3 of the paper, transcribed in plain torch: no module or function of
aimwrap, only its parameters by name, and noise drawn in the same order.

Where the paper is silent, the transcription does as our documented choices: BatchNorm in the mask estimators, LayerNorm
over channels with timm's epsilon, and an average over positions before each classifier.
"""

import copy
import inspect
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import aim, balanced, lively

from aimwrap import AIM, PAPER, AIMLoss, _choices, active_area_loss
from aimwrap._choices import DEPARTURES

# ---- The transcription -----------------------------------------------------------------------------------------------


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + norm.eps)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def soft_attention(m: nn.Module, x: Tensor, training: bool) -> Tensor:
    """Eq. 1: "begins with a 3x3 convolutional layer, followed by three residual blocks"."""

    def conv3x3(layer: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=1)

    x = F.relu(batch_norm(conv3x3(m.stem, x), m.stem_norm, training))
    for block in m.blocks:
        inner = F.relu(batch_norm(conv3x3(block.conv1, x), block.norm1, training))
        x = F.relu(x + batch_norm(conv3x3(block.conv2, inner), block.norm2, training))
    context = x.mean((2, 3), keepdim=True).expand_as(x)  # "global average pooling", "expanded and concatenated"
    weight = torch.cat([m.where.weight, m.how_much.weight[:, :, None, None]], 1)
    return F.conv2d(torch.cat([x, context], 1), weight, m.how_much.bias)  # "Finally, a 1x1 convolutional layer"


def gumbel(a: Tensor, training: bool, temperature: float) -> Tensor:
    """Eq. 2: the hard value, the soft gradient; without noise in evaluation."""
    if training:
        eps = torch.finfo(torch.float32).eps
        uniform = torch.rand(a.shape).clamp(eps, 1 - eps)
        a = a + torch.log(uniform) - torch.log1p(-uniform)
    soft = torch.sigmoid(a / temperature)
    return (a >= 0).float() - soft.detach() + soft


def process(t: nn.Module, x: Tensor) -> Tensor:
    """T: "1) a 1x1 convolutional layer [...] 2) a 3x3 convolutional layer [...] 4) Layer Normalization and GELU"."""
    x = F.conv2d(F.conv2d(x, t.align.weight, t.align.bias), t.refine.weight, t.refine.bias, padding=1)
    x = x - x.mean(1, keepdim=True)
    x = x / torch.sqrt(x.square().mean(1, keepdim=True) + 1e-6)
    x = x * t.norm.weight[:, None, None] + t.norm.bias[:, None, None]
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def section_3(model: AIM, maps: dict[str, Tensor], training: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Final logits, each stage's logits and each stage's mask, shallow to deep."""
    own = [maps[str(stage)] for stage in model.stages]
    attention = [soft_attention(m, x, training) for m, x in zip(model.mask_estimators.values(), own, strict=True)]
    b = [gumbel(a, training, model.temperature) for a in attention]
    o = [process(t, x) * mask for t, x, mask in zip(model.top_down.transforms, own, b, strict=True)]  # eq. 3
    heads = zip(model.stage_classifiers.values(), o, strict=True)
    stage_logits = [F.linear(x.mean((2, 3)), f.weight, f.bias) for f, x in heads]  # eq. 4, "before merging"
    final = o[-1]
    for finer in o[-2::-1]:  # "up-sampled through nearest-neighbor interpolation [...] element-wise summation"
        final = finer + F.interpolate(final, finer.shape[-2:], mode="nearest")
    return F.linear(final.mean((2, 3)), model.classifier.weight, model.classifier.bias), stage_logits, b  # eq. 5


def equation_7(logits: Tensor, stage_logits: list[Tensor], masks: list[Tensor], labels: Tensor, tau: float) -> Tensor:
    total = F.cross_entropy(logits, labels)
    for stage, mask in zip(stage_logits, masks, strict=True):
        total = total + F.cross_entropy(stage, labels) + 6 * (mask.mean((1, 2, 3)) - tau).square().mean()  # eq. 6
    return total


# ---- The comparison --------------------------------------------------------------------------------------------------


def papers(stages: tuple[int, ...], images: Tensor, training: bool = True, **changes: object) -> AIM:
    """The paper's model with masks that are partly open on these images, in float64 so that rounding hides nothing."""
    arguments = {"width": 16, "mask_width": 8, **PAPER, **changes}
    return balanced(lively(aim(stages=stages, **arguments)).double().train(training), images)


def compared(model: AIM, images: Tensor, labels: Tensor, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, masks, loss and the gradient of every parameter: the library's, and the transcription's."""
    plain = copy.deepcopy(model)
    torch.manual_seed(1)
    output = model(images)
    loss = AIMLoss(tau=model.tau)(output, labels)
    loss.backward()
    torch.manual_seed(1)
    maps = plain.forward_backbone(images)
    logits, stage_logits, masks = section_3(plain, maps, training)
    expected_loss = equation_7(logits, stage_logits, masks, labels, model.tau[0])
    expected_loss.backward()
    got = {"logits": output.logits, "loss": loss}
    expected = {"logits": logits, "loss": expected_loss}
    for stage, own, mask in zip(model.stages, stage_logits, masks, strict=True):
        got |= {f"logits of stage {stage}": output.stage_logits[stage], f"mask {stage}": output.masks[stage]}
        expected |= {f"logits of stage {stage}": own, f"mask {stage}": mask}
    got |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    expected |= {f"gradient of {name}": p.grad for name, p in plain.named_parameters()}
    return got, expected


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert (got[name] is None) == (value is None), name
        if value is not None:
            largest = float((got[name] - value).detach().abs().max())
            assert largest <= 1e-5 * max(1.0, float(value.detach().abs().max())), f"{name} differs by {largest:.1e}"


@pytest.mark.parametrize("size", [(64, 64), (97, 61)])
@pytest.mark.parametrize("stages", [(3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_is_section_3(training: bool, stages: tuple[int, ...], size: tuple[int, int]) -> None:
    images, labels = torch.randn(4, 3, *size).double(), torch.tensor([0, 1, 2, 3])
    model = papers(stages, images, training)
    assert model.departures == ()
    got, expected = compared(model, images, labels, training)
    assert all(0 < got[f"mask {stage}"].mean() < 1 for stage in stages)
    assert sum(value is not None for value in expected.values()) > 40
    assert_equal(got, expected)


OURS = {
    "head": "feature-preserving",
    "mask_padding": "replicate",
    "mask_context": "normalised",
    "logit_spread": 4.0,
    "logit_range": 0.1,
    "labels_move_area": False,
    "pooling": "active",
}


@pytest.mark.parametrize("argument", [name for name in OURS if name != "head"])  # another head has no transforms
def test_each_departure_is_seen(argument: str) -> None:
    images, labels = torch.randn(4, 3, 97, 61).double(), torch.tensor([0, 1, 2, 3])
    model = papers((2, 3), images, **{argument: OURS[argument]})
    assert model.departures == (DEPARTURES[argument],)
    with pytest.raises(AssertionError, match=r"^(logits|loss|mask|gradient)"):
        assert_equal(*compared(model, images, labels, training=True))


def test_the_context_trains_what_is_below_it() -> None:
    """Detached alone, without a norm, the context gives the same outputs and other gradients."""
    images, labels = torch.randn(4, 3, 64, 64).double(), torch.tensor([0, 1, 2, 3])
    model = papers((2, 3), images)
    for estimator in model.mask_estimators.values():
        estimator.how_much.register_forward_pre_hook(lambda _, given: given[0].detach())
    got, expected = compared(model, images, labels, training=True)
    with pytest.raises(AssertionError, match=r"^gradient of"):
        assert_equal(got, expected)


def test_our_defaults_are_named() -> None:
    assert set(aim("feature-preserving").departures) == set(DEPARTURES.values())
    assert DEPARTURES.keys() == OURS.keys() == PAPER.keys() - {"mask_norm"}
    defaults = inspect.signature(AIM).parameters
    assert {name: defaults[name].default for name in PAPER} == _choices.OURS
    assert aim(**PAPER).variant == "HeadConvNet+AIM [3, 25%]"
    assert aim(**PAPER | {"pooling": "active"}).variant == "HeadConvNet+AIM [3, 25%], paper head"
    assert "not as in the paper: nothing" in repr(aim(**PAPER))
    with pytest.raises(TypeError):
        PAPER["pooling"] = "active"  # type: ignore[index]


def test_the_other_reading_of_equation_7() -> None:
    """The last stage's classifier is the final one: one classification loss fewer."""
    images, labels = torch.randn(4, 3, 64, 64).double(), torch.tensor([0, 1, 2, 3])
    output = papers((2, 3), images)(images)
    areas = sum(6 * active_area_loss(mask, 0.25) for mask in output.masks.values())
    deeper, final = (F.cross_entropy(x, labels) for x in (output.stage_logits[3], output.logits))
    loss = AIMLoss(0.25, stage_weight=[0, 1])(output, labels)
    torch.testing.assert_close(loss, areas + deeper + final)
    with pytest.raises(ValueError, match="stage_weight must be one float or one per stage"):
        AIMLoss(0.25, stage_weight=[1, 1, 1])(output, labels)
    with pytest.raises(ValueError, match="stage_weight must not be negative"):
        AIMLoss(0.25, stage_weight=[1, -1])
