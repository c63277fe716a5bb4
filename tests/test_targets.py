"""Targets that are not one class: several classes, one logit, soft labels, mixup and CutMix, in loss and measures."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, SecondLook, area_curve, background_bias, explain
from aimwrap.metrics import GroupAccuracy, average_accuracy, energy_pointing_game, group_accuracies

K = 5
NUMBERS = torch.arange(8) % K
SEVERAL = (torch.arange(8)[:, None] * torch.tensor([1, 3, 5, 7, 11]) % 4 > 1).double()  # several classes, one, or none
SOFT = SEVERAL + 0.25
SOFT /= SOFT.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def model() -> AIM:
    """Its decisions differ between classes and areas."""
    torch.manual_seed(0)
    model = AIM(TinyNet(K), [2, 3], tau=0.25, mask_width=4).eval()
    nn.init.normal_(model.classifier.weight)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def output_of(model: AIM, images: Tensor) -> AIMOutput:
    """In double precision: two ways to sum differ in float32 by about 1e-6."""
    with torch.no_grad():
        output: AIMOutput = copy.deepcopy(model).double()(images.double())
    return output


def binary(logits: Tensor, target: Tensor, positive: Tensor | float = 1.0) -> Tensor:
    """Binary cross entropy by its definition, each element's."""
    return -(positive * target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log())


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of soft labels, by its definition, each image's."""
    return -(target * logits.log_softmax(1)).sum(1)


POSITIVE = torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0])
KINDS: dict[str, tuple[nn.Module | None, Tensor, Callable[[Tensor], Tensor]]] = {
    "several classes": (nn.BCEWithLogitsLoss(), SEVERAL, lambda x: binary(x, SEVERAL).mean()),
    "several classes, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=POSITIVE),
        SEVERAL,
        lambda x: binary(x, SEVERAL, POSITIVE).mean(),
    ),
    "several classes, summed": (
        BinaryCrossEntropy(sum_classes=True),
        SEVERAL,
        lambda x: binary(x, SEVERAL).sum(1).mean(),
    ),
    "soft labels": (None, SOFT, lambda x: cross_entropy(x, SOFT).mean()),
    "soft labels, timm's loss": (SoftTargetCrossEntropy(), SOFT, lambda x: cross_entropy(x, SOFT).mean()),
    "soft labels, smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        SOFT,
        lambda x: cross_entropy(x, 0.9 * SOFT + 0.1 / K).mean(),
    ),
    "soft labels, weighted": (
        nn.CrossEntropyLoss(weight=POSITIVE),
        SOFT,
        lambda x: cross_entropy(x, POSITIVE * SOFT).mean(),
    ),
    "one class and some without": (
        nn.CrossEntropyLoss(ignore_index=4),
        NUMBERS,
        lambda x: cross_entropy(x, F.one_hot(NUMBERS, K)).where(NUMBERS != 4, 0).sum() / (NUMBERS != 4).sum(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_transcription(kind: str, model: AIM, images: Tensor) -> None:
    loss, target, of = KINDS[kind]
    output = output_of(model, images)
    areas = [(mask.mean((1, 2, 3)) - 0.25).square().mean() for mask in output.masks.values()]
    expected = 6 * sum(areas) + of(output.logits) + sum(of(logits) for logits in output.stage_logits.values())
    assert abs(AIMLoss(tau=0.25, classification_loss=loss)(output, target) - expected) < 1e-6


def test_the_loss_of_one_logit_is_that_of_a_transcription(images: Tensor) -> None:
    output = output_of(AIM(TinyNet(1), [2, 3], num_classes=1, mask_width=4), images)
    yes = torch.tensor([0.0, 1, 1, 0, 0.5, 1, 0, 0.25])[:, None]  # shares too, as mixup makes them
    parts = AIMLoss(tau=0.25, classification_loss=nn.BCEWithLogitsLoss()).components(output, yes)
    assert abs(parts.final_classification - binary(output.logits, yes).mean()) < 1e-6
    for stage, logits in output.stage_logits.items():
        assert abs(parts.stage_classification[stage] - binary(logits, yes).mean()) < 1e-6


def mixed_by_torchvision(kind: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with the one before it."""
    _, target = kind(alpha=1.0, num_classes=K)(images, NUMBERS)
    return target, NUMBERS.roll(1)


def mixed_by_timm(arguments: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with its mirror image in the batch."""
    _, target = Mixup(**arguments, label_smoothing=0.0, num_classes=K)(images.clone(), NUMBERS)
    return target, NUMBERS.flip(0)


@pytest.mark.parametrize(
    ("mix", "how"),
    [
        (mixed_by_torchvision, v2.MixUp),
        (mixed_by_torchvision, v2.CutMix),
        (mixed_by_timm, {"mixup_alpha": 1.0}),
        (mixed_by_timm, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}),
        (mixed_by_timm, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mode": "elem"}),
    ],
)
def test_the_labels_of_two_mixed_images_count_by_their_shares(mix: Any, how: Any, model: AIM, images: Tensor) -> None:
    """In every classifier's loss, to 1e-6; image by image, since timm may mix each by another share."""
    torch.manual_seed(0)
    np.random.seed(0)
    target, partners = mix(how, images)
    output, criterion = output_of(model, images), AIMLoss(tau=0.25)
    for number in range(8):
        one = AIMOutput(
            *({k: v[[number]] for k, v in x.items()} if isinstance(x, dict) else x[[number]] for x in output)
        )
        own, other = NUMBERS[[number]], partners[[number]]
        share = target[number, own].item() if own != other else 1.0
        assert own == other or 0 < share < 1
        found = criterion.components(one, target[[number]])
        first, second = criterion.components(one, own), criterion.components(one, other)
        for name in ("final_classification", "total"):
            by_shares = share * getattr(first, name) + (1 - share) * getattr(second, name)
            assert abs(getattr(found, name) - by_shares) < 1e-6


WRONG: list[tuple[Tensor, int, str]] = [
    (SEVERAL.long(), K, r"shape \(8, 5\), got int64 of \(8, 5\); write labels.float\(\)"),
    (SEVERAL.bool(), K, r"got bool of \(8, 5\); write labels.float\(\)"),
    (NUMBERS, K, r"got int64 of \(8,\); write nn.functional.one_hot\(labels, 5\).float\(\)"),
    (2 * SEVERAL - 1, K, "got -1 to 1; write a loss of your own that leaves out what is not known, such as -1 or NaN"),
    (SEVERAL.masked_fill(SEVERAL == 0, torch.nan), K, "got nan to nan; write a loss of your own"),
    (SEVERAL[:, 0], 1, r"shape \(8, 1\), got float64 of \(8,\); write labels.float\(\)\[:, None\]"),
    (SEVERAL[:, :1].long(), 1, r"got int64 of \(8, 1\); write labels.float\(\)"),
    (torch.full((8, 1), 2.0), 1, "got 2 to 2; write a loss of your own"),
]


@pytest.mark.parametrize(("target", "classes", "message"), WRONG)
def test_what_binary_cross_entropy_does_not_take_is_refused(target: Tensor, classes: int, message: str) -> None:
    """torch takes -1 and 2 in silence, and says of whole numbers that a type can't be cast."""
    output = AIMOutput(torch.zeros(8, classes), {3: torch.zeros(8, classes)}, {3: torch.ones(8, 1, 2, 2)})
    criterion = AIMLoss(tau=0.25, classification_loss=nn.BCEWithLogitsLoss())
    with pytest.raises(ValueError, match=f"labels of binary cross entropy must be floats from 0 to 1 .*{message}"):
        criterion(output, target)
    with pytest.raises(TypeError, match="labels must be a tensor, got list"):
        criterion(output, target.tolist())


class OfKnown(nn.BCEWithLogitsLoss):
    """Leaves out labels of -1."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        known = (target >= 0).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, target.clamp(min=0), reduction="none")
        return (known * loss).sum() / known.sum()


def test_a_loss_of_ones_own_may_leave_labels_out(model: AIM, images: Tensor) -> None:
    output = output_of(model, images)
    unknown = SEVERAL.clone()
    unknown[2:, 1:] = -1
    parts = AIMLoss(tau=0.25, classification_loss=OfKnown()).components(output, unknown)
    expected = (
        binary(output.logits[:2], SEVERAL[:2]).sum() + binary(output.logits[2:, :1], SEVERAL[2:, :1]).sum()
    ) / 16
    assert abs(parts.final_classification - expected) < 1e-6


def test_a_loss_with_torchs_own_forward_is_checked_as_torchs(model: AIM, images: Tensor) -> None:
    """A subclass with settings of its own was trained on -1 in silence."""
    criterion = AIMLoss(tau=0.25, classification_loss=type("Named", (nn.BCEWithLogitsLoss,), {})())
    with pytest.raises(
        ValueError, match=r"binary cross entropy must be floats from 0 to 1 .* got -1 to -1; write a loss"
    ):
        criterion(output_of(model, images), -torch.ones_like(SEVERAL))


@pytest.mark.parametrize("loss", [nn.BCELoss(), nn.KLDivLoss(reduction="batchmean"), nn.NLLLoss()])
def test_losses_of_probabilities_are_refused(loss: nn.Module) -> None:
    """Of logits, two of them fall without end, in silence."""
    with pytest.raises(ValueError, match=r"must take logits: CrossEntropyLoss does, \w+Loss not"):
        AIMLoss(tau=0.25, classification_loss=loss)


@pytest.mark.parametrize("target", [SEVERAL, SEVERAL.long(), SEVERAL.bool()])
def test_cross_entropy_of_several_classes_names_the_other_loss(target: Tensor) -> None:
    output = AIMOutput(torch.zeros(8, K), {3: torch.zeros(8, K)}, {3: torch.ones(8, 1, 2, 2)})
    way_out = re.escape("have several classes, pass classification_loss=nn.BCEWithLogitsLoss() and labels.float()")
    with pytest.raises(ValueError, match=way_out):
        AIMLoss(tau=0.25)(output, target)


def test_a_second_look_takes_losses_of_torch(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    output = second(images)
    with pytest.raises(TypeError, match=r"SecondLookOutput; .* a second look takes losses of torch"):
        AIMLoss(tau=0.25)(output, SEVERAL)
    F.binary_cross_entropy_with_logits(output.logits, SEVERAL.float()).backward()
    features = second.features(images)
    by_hand = (output.logits.sigmoid() - SEVERAL).T.float() @ features / SEVERAL.numel()
    torch.testing.assert_close(second.classifier.weight.grad, by_hand)


def exactly(logits: Tensor, labels: Tensor) -> Tensor:
    """All classes of an image."""
    return ((logits > 0) == labels).all(1)


@pytest.mark.parametrize("looks", ["one", "two"])
def test_the_area_curve_of_several_classes_is_what_predict_says(looks: str, model: AIM, images: Tensor) -> None:
    torch.manual_seed(0)
    chosen = model if looks == "one" else SecondLook(model).eval()
    labels = (chosen.predict(images, 0.5).logits > 0).float()
    labels[:3, 0] = 1 - labels[:3, 0]  # so that five of eight are right at 0.5
    batches = [(images[:4], labels[:4], NUMBERS[:4] % 2), (images[4:], labels[4:], NUMBERS[4:] % 2)]
    curve = area_curve(chosen, batches, areas=[0.1, 0.5], right=exactly)
    assert curve.points[1].accuracy == 5 / 8 and curve.images == 8
    for point in (*curve.points, curve.own):
        right = exactly(chosen.predict(images, point.asked).logits, labels)
        assert point.accuracy == right.double().mean().item()
        worst = min(right[group == NUMBERS % 2].double().mean().item() for group in (0, 1))
        assert point.worst_group == pytest.approx(worst)
    of_one = area_curve(chosen, batches, areas=[0.5], right=lambda logits, y: (logits[:, 0] > 0) == y[:, 0])
    assert of_one.points[0].accuracy == 5 / 8


def test_the_default_of_the_area_curve_is_the_largest_logit(model: AIM, images: Tensor) -> None:
    batches = [(images, NUMBERS)]
    assert area_curve(model, batches) == area_curve(model, batches, right=lambda x, y: x.argmax(1) == y)


def test_logits_that_are_not_finite_are_never_right(model: AIM, images: Tensor) -> None:
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.classifier.bias, torch.nan)
    curve = area_curve(
        broken, [(images, SEVERAL)], areas=[0.5], right=lambda x, _: torch.ones(len(x), dtype=torch.bool)
    )
    assert curve.own.accuracy == 0


@pytest.mark.parametrize(
    ("right", "came"),
    [
        (lambda x, y: (x > 0) == y, r"torch.bool of \(8, 5\)"),
        (lambda x, y: x.argmax(1), r"torch.int64 of \(8,\)"),
        (lambda x, y: 0.5, "float"),
    ],
)
def test_right_says_so_of_each_image(right: Any, came: str, model: AIM, images: Tensor) -> None:
    with pytest.raises(TypeError, match=rf"right must return a bool tensor of shape \(8,\), got {came}"):
        area_curve(model, [(images, SEVERAL)], areas=[0.5], right=right)


@pytest.mark.parametrize("labels", [SEVERAL, SEVERAL.long(), SEVERAL.bool(), SOFT])
def test_functions_of_one_class_refuse_several_with_the_remedy(labels: Tensor, model: AIM, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must be .* several classes, right= says which predictions are right"):
        area_curve(model, [(images, labels)], areas=[0.5])
    with pytest.raises(ValueError, match=r"several classes, measure one: labels\[:, 0\].long\(\)"):
        background_bias(model, [(images, labels)], progress=False)
    logits, groups, remedy = (
        torch.zeros(8, K),
        NUMBERS % 2,
        r"pass \(\(logits > 0\) == labels\).all\(1\) as predictions",
    )
    for measured in (group_accuracies, GroupAccuracy(2).update):
        with pytest.raises(ValueError, match=rf"labels must be \(8,\), one value per label, got \(8, 5\): .*{remedy}"):
            measured(logits, labels, groups, *([2] if measured is group_accuracies else []))


def test_one_column_is_taken_out_and_not_its_argmax(model: AIM, images: Tensor) -> None:
    """The largest of one is always the first: all labels would be class 0."""
    with pytest.raises(ValueError, match=r"got torch.float64 of \(8, 1\); labels\[:, 0\].long\(\) makes them$"):
        area_curve(model, [(images, SEVERAL[:, :1])], areas=[0.5])
    with pytest.raises(ValueError, match=r"got \(8, 1\): take labels\[:, 0\] of one column"):
        average_accuracy(torch.zeros(8, 1), SEVERAL[:, :1])


def test_accuracy_by_group_of_several_classes() -> None:
    """As the message says it: images 0 and 1 are right in every class, and image 2 in two of three."""
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -2.0, -1.0], [1.0, 1.0, -1.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    right = ((logits > 0) == labels).all(1)
    assert group_accuracies(right, torch.ones(3).long(), torch.tensor([0, 1, 1]), 2).tolist() == [1.0, 0.5]


def test_each_class_of_an_image_is_explained_by_itself(model: AIM, images: Tensor) -> None:
    """A pair of image and class has its own map, which no other class moves, and its own object."""
    image, k = SEVERAL.nonzero(as_tuple=True)
    explanation = explain(model, images)
    maps = explanation.contributions[image, k]
    torch.testing.assert_close(maps.sum((1, 2)) + explanation.bias[k], explanation.logits[image, k])
    other = copy.deepcopy(model)
    nn.init.zeros_(other.classifier.weight[1:])
    assert torch.equal(explain(other, images).contributions[:, 0], explanation.contributions[:, 0])
    objects = torch.zeros(8, K, 64, 64)
    objects[:, :, :32] = 1
    whole = maps.clamp(min=0).sum((1, 2))
    upper = energy_pointing_game(maps, objects[image, k], resolution=(2, 1))
    torch.testing.assert_close(upper, maps.clamp(min=0)[:, : maps.shape[1] // 2].sum((1, 2)) / whole, equal_nan=True)
