"""Other methods against a tied background, on the same images and features as AIM, each from the study's `Config`.

| method | knows the groups of | source |
|---|---|---|
| balanced sampling | the training images | Idrissi et al., CLeaR 2022 (SUBG and RWG): every group drawn equally often |
| group DRO | the training images | Sagawa et al., ICLR 2020 |
| MaskTune | none | Taghanaki et al., NeurIPS 2022 |
| DFR | also untied images | Kirichenko et al., ICLR 2023 |
| AIM with DFR | also untied images | DFR's last layer on AIM's masked features |

The untied images show the training's own animals and photographs, all four groups equally often, because Stamps has no
others to spare. Plain training and AIM never see them. At a 100 % tie two groups have no training image, so balanced
sampling and group DRO then know nothing that plain training does not know.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from variants import (
    Config,
    Data,
    Outcome,
    aim_outcome,
    final_maps,
    load_split,
    looks,
    plain_outcome,
    rows_of,
    train,
    train_plain,
)

from aimwrap import AIM

NUM_GROUPS = 4
DRO_STEP = 0.01  # of the groups' weights, the official code's default
PENALTIES = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # C of the logistic regression, DFR's grid
BRIGHTEST = 2.0  # MaskTune hides what is more than so many deviations above an image's mean

Rival = Callable[[Config, tuple[Data, Data], nn.Module], Outcome]


def train_rival(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train what a config names, and run it on the test set.

    Args:
        config: with a method of :data:`RIVALS`; its rates and epochs are those of the plain network or AIM beneath.
        data: training and test, with the frozen backbone's maps where it is frozen.
        backbone: pretrained; a rate trains a copy of it.
    """
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    outcome = RIVALS[config.method](config, data, copy.deepcopy(backbone) if config.backbone_rate else backbone)
    return outcome._replace(seconds=time.perf_counter() - started)


def balanced_sampling(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    return train_plain(config, data, backbone, order=groups_equally_often(data[0]))


def group_dro(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    return train_plain(config, data, backbone, objective=WorstGroups(), order=groups_equally_often(data[0]))


def groups_equally_often(train_set: Data) -> Callable[[torch.Generator], Tensor]:
    """Draws with replacement, in which every group that has images is as likely as any other."""
    groups = 2 * train_set.labels + train_set.places
    chances = 1 / groups.bincount(minlength=NUM_GROUPS)[groups]
    return lambda generator: torch.multinomial(chances, len(groups), replacement=True, generator=generator)


class WorstGroups:
    """Group DRO's objective: the groups' mean losses, weighed by weights that rise with them."""

    def __init__(self) -> None:
        self.weights = torch.full((NUM_GROUPS,), 1 / NUM_GROUPS)

    def __call__(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        counts = groups.bincount(minlength=NUM_GROUPS)
        losses = F.cross_entropy(logits, labels, reduction="none")
        means = torch.zeros(NUM_GROUPS).index_add(0, groups, losses) / counts.clamp(min=1)
        self.weights = self.weights * (DRO_STEP * means.detach()).exp()
        self.weights = self.weights / self.weights.sum()
        return self.weights @ means


def masktune(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train plainly, hide of every training image what the class-activation map is brightest on, train one more epoch.

    For a linear classifier on averaged maps xGrad-CAM, MaskTune's saliency, is the class-activation map.
    """
    train_set, test_set = data
    plain = train_plain(config, data, backbone)
    classifier = copy.deepcopy(plain.model.classifier)
    maps = final_maps(config, backbone, train_set)
    shown = plain_outcome(backbone, classifier, maps).look.heatmap
    shown = F.interpolate(shown[:, None], train_set.images.shape[-2:], mode="bilinear")
    bound = shown.mean((2, 3), keepdim=True) + BRIGHTEST * shown.std((2, 3), keepdim=True)
    hidden = train_set._replace(images=train_set.images * (shown <= bound), maps={})
    if not config.backbone_rate:
        with torch.no_grad():
            final = torch.cat([backbone.forward_features(images) for images in hidden.images.split(50)])
        hidden = hidden._replace(maps={"final map": final})
    return train_plain(replace(config, epochs=1), (hidden, test_set), backbone, classifier=classifier)


def dfr(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train plainly, then the last layer again on untied images."""
    if config.backbone_rate:
        train_plain(config, data, backbone)
    untied = untied_images(config.seed, None if config.backbone_rate else backbone)
    classifier = last_layer(final_maps(config, backbone, untied).mean((2, 3)), untied)
    return plain_outcome(backbone, classifier, final_maps(config, backbone, data[1]))


def aim_with_dfr(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train AIM, then its last layer again on untied images, seen through its masks."""
    untied = untied_images(config.seed, None if config.backbone_rate else backbone)
    aim = replace(config, method="aim")
    model = train(aim, data, backbone).model
    assert isinstance(model, AIM)
    model.classifier = last_layer(masked_means(aim, model, untied), untied)
    return aim_outcome(aim, model.eval(), data[1])


@functools.lru_cache(maxsize=1)
def untied_images(seed: int, backbone: nn.Module | None) -> Data:
    """All four groups equally often, of the training's animals and photographs, with a frozen backbone's maps."""
    return load_split("train", 0.5, seed, backbone)


@torch.no_grad()
def masked_means(config: Config, model: AIM, data: Data) -> Tensor:
    """What AIM's classifier reads, (N, C)."""
    classifier, model.classifier = model.classifier, nn.Identity()
    batches = torch.arange(len(data.labels)).split(50)
    means = [model.forward_head(looks(config, model, rows_of(data, batch))[0]).logits for batch in batches]
    model.classifier = classifier
    return torch.cat(means)


def last_layer(features: Tensor, untied: Data) -> nn.Linear:
    """Logistic regression with an L1 penalty on standardised features, the penalty chosen on half of the images."""
    labels, groups = untied.labels.numpy(), 2 * untied.labels + untied.places
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    inputs = ((features - mean) / deviation).numpy()
    fitted = torch.arange(len(labels)) % 2 == 0

    def worst_group(penalty: float) -> float:
        right = torch.from_numpy(_regression(penalty).fit(inputs[fitted], labels[fitted]).predict(inputs[~fitted]))
        right = (right == untied.labels[~fitted]).float()
        return min(right[groups[~fitted] == group].mean().item() for group in range(NUM_GROUPS))

    best = _regression(max(PENALTIES, key=worst_group)).fit(inputs, labels)
    weight = torch.from_numpy(best.coef_[0]).float() / deviation
    bias = float(best.intercept_[0]) - (weight @ mean).item()
    layer = nn.Linear(features.shape[1], 2)
    with torch.no_grad():  # two logits whose difference is the regression's
        layer.weight.copy_(torch.stack([-weight, weight]) / 2)
        layer.bias.copy_(torch.tensor([-bias, bias]) / 2)
    return layer


def _regression(penalty: float) -> LogisticRegression:
    # scikit-learn 1.8 and newer; before, penalty="l1" was wanted
    return LogisticRegression(C=penalty, l1_ratio=1.0, solver="liblinear", max_iter=1000)


RIVALS: dict[str, Rival] = {
    "balanced sampling": balanced_sampling,
    "group DRO": group_dro,
    "MaskTune": masktune,
    "DFR": dfr,
    "AIM with DFR": aim_with_dfr,
}
