"""What the study trains: plain networks, controls and AIM in all its settings, each from one `Config`.

The backbone is timm's tf_efficientnet_lite0 with ImageNet weights. Its BatchNorm keeps those statistics in every
variant, unless a config says otherwise: estimating them anew on 1,200 images costs plain training dozens of points.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from dataset import Stamps
from torch import Tensor, nn

from aimwrap import AIM, AIMLoss, MaskEstimator, TauScheduler
from aimwrap.demo.backbone import MEAN_AND_STD
from aimwrap.metrics import class_activation_map
from aimwrap.top_down import FeaturePreservingTopDown, resize_to, union

STAGES = (1, 2, 3)  # whose maps are cached, with the final one


@dataclass(frozen=True)
class Config:
    """One run; its fields are its key in the results.

    Attributes:
        method: "plain" (a linear classifier on the pooled final map), "open" (AIM with its masks held open), "aim", or
            "oracle" (plain, on images whose background is replaced by grey: what is left to win).
        tie, seed: of the data; the seed also initialises and orders.
        epochs, learning_rate: of the new modules; AdamW, batches of 32.
        backbone_rate: learning rate of the backbone; 0 keeps it frozen, and its maps are then cached.
        norms: "kept" holds BatchNorm at its ImageNet statistics, "adapted" lets it follow.
        the rest: arguments of AIM, AIMLoss and TauScheduler; ``refinement`` is how the stages' masks become one with
            the feature-preserving head ("concatenation" is the library's own).
    """

    method: str
    tie: float
    seed: int
    epochs: int = 20
    learning_rate: float = 1e-3
    backbone_rate: float = 0.0
    norms: str = "kept"
    head: str = "feature-preserving"
    stages: tuple[int, ...] = (2, 3)
    tau: float = 0.1
    tau_start: float = 1.0
    anneal_share: float = 0.5
    pooling: str = "active"
    temperature: float = 1.0
    mask_width: int = 32
    mask_norm: str = "layer"
    mask_weight: float = 6.0
    stage_weight: float = 1.0
    area_per: str = "image"
    labels_move_area: bool = False
    refinement: str = "concatenation"

    @property
    def key(self) -> dict[str, Any]:
        """As it stands in the results."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class Data(NamedTuple):
    """One split in memory, and the frozen backbone's maps of it, by name."""

    images: Tensor
    labels: Tensor
    places: Tensor
    object_masks: Tensor
    cutouts: Tensor
    maps: dict[str, Tensor]


class Outcome(NamedTuple):
    """What a trained variant says about the test images; heatmap and mask at their own resolution."""

    logits: Tensor
    heatmap: Tensor
    merged_mask: Tensor | None
    areas: dict[int, float]
    seconds: float
    model: nn.Module


def load_data(tie: float, seed: int, backbone: nn.Module, *, with_maps: bool = True) -> tuple[Data, Data]:
    """The training and the test set of a seed; the maps take about 400 MB and half a minute."""
    tapping = AIM(backbone, list(STAGES), num_classes=2, head="feature-preserving").eval()
    splits = []
    for split in ("train", "test"):
        stamps = Stamps(split, tie, seed)
        images, labels, places, object_masks = stamps.stacked()
        images = ((images - MEAN_AND_STD) / MEAN_AND_STD).contiguous(memory_format=torch.channels_last)
        maps = maps_of(tapping, images) if with_maps else {}
        splits.append(Data(images, labels, places, object_masks, stamps.cutouts, maps))
    return splits[0], splits[1]


def without_background(data: Data, backbone: nn.Module) -> Data:
    """The true object on grey, in training and test: nobody has this mask in practice."""
    images = data.images * data.object_masks  # normalised, 0 is mid-grey
    with torch.no_grad():
        final = torch.cat([backbone.forward_features(batch) for batch in images.split(50)])
    return data._replace(images=images, maps={"final map": final})


@torch.no_grad()
def maps_of(model: AIM, images: Tensor) -> dict[str, Tensor]:
    batches = [model.forward_backbone(batch) for batch in images.split(50)]
    return {name: torch.cat([maps[name] for maps in batches]) for name in batches[0]}


def train(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train one variant and run it on the test set."""
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    if config.backbone_rate:
        backbone = copy.deepcopy(backbone)
    if config.method == "oracle":
        data = (without_background(data[0], backbone), without_background(data[1], backbone))
    run = _train_plain if config.method in ("plain", "oracle") else _train_aim
    outcome = run(config, data, backbone)
    return outcome._replace(seconds=time.perf_counter() - started)


def _train_plain(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    train_set, test_set = data
    classifier = nn.Linear(backbone.num_features, 2)
    groups = [{"params": classifier.parameters(), "lr": config.learning_rate}]
    if config.backbone_rate:
        groups.append({"params": backbone.parameters(), "lr": config.backbone_rate})
        forward = backbone.forward_features
    else:
        pooled = train_set.maps["final map"].mean((2, 3))

    def loss_of(batch: Tensor) -> Tensor:
        vectors = forward(train_set.images[batch]).mean((2, 3)) if config.backbone_rate else pooled[batch]
        return F.cross_entropy(classifier(vectors), train_set.labels[batch])

    _loop(config, loss_of, groups, len(train_set.labels), backbone)
    backbone.eval()
    with torch.no_grad():
        if config.backbone_rate:
            maps = torch.cat([backbone.forward_features(images) for images in test_set.images.split(50)])
        else:
            maps = test_set.maps["final map"]
        logits = classifier(maps.mean((2, 3)))
        heatmap = class_activation_map(maps, classifier.weight, logits.argmax(1))
    plain = copy.deepcopy(backbone)
    plain.classifier = classifier
    return Outcome(logits, heatmap, None, {}, 0.0, plain)


def _train_aim(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    train_set, test_set = data
    model = build(config, backbone)
    criterion = AIMLoss(
        tau=model.tau, mask_weight=config.mask_weight, stage_weight=config.stage_weight, area_per=config.area_per
    )
    schedule = TauScheduler(
        criterion, anneal_epochs=max(1, round(config.anneal_share * config.epochs)), start=config.tau_start
    )
    masks = dict.fromkeys(model.stages, torch.ones(1, 1, 1, 1)) if config.method == "open" else None
    new = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": new, "lr": config.learning_rate}]
    if config.backbone_rate:
        groups.append({"params": model.backbone.parameters(), "lr": config.backbone_rate})
    model.train()

    def loss_of(batch: Tensor) -> Tensor:
        if config.backbone_rate:
            maps = model.forward_backbone(train_set.images[batch])
        else:
            maps = {name: values[batch] for name, values in train_set.maps.items()}
        return criterion(model.forward_head(model.forward_masks(maps, masks)), train_set.labels[batch])

    _loop(config, loss_of, groups, len(train_set.labels), model.backbone, schedule.step)
    model.eval()
    maps = maps_of(model, test_set.images) if config.backbone_rate else test_set.maps
    with torch.no_grad():
        features = model.forward_masks(maps, masks)
        output = model.forward_head(features)
        heatmap = class_activation_map(features.fused, model.classifier.weight, output.logits.argmax(1))
    areas = {stage: mask.mean().item() for stage, mask in output.masks.items()}
    return Outcome(output.logits, heatmap, features.merged_mask, areas, 0.0, model)


def _loop(
    config: Config,
    loss_of: Callable[[Tensor], Tensor],
    groups: list[dict[str, Any]],
    num_images: int,
    backbone: nn.Module,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    optimizer = torch.optim.AdamW(groups)
    order = torch.Generator().manual_seed(config.seed)
    if config.backbone_rate:
        backbone.train()
        if config.norms == "kept":
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
    for _ in range(config.epochs):
        for batch in torch.randperm(num_images, generator=order).split(32):
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
        after_epoch()


def build(config: Config, backbone: nn.Module) -> AIM:
    """AIM as the config wants it."""
    model = AIM(
        backbone,
        list(config.stages),
        config.tau,
        num_classes=2,
        head=config.head,
        mask_width=config.mask_width,
        mask_norm=config.mask_norm,
        pooling=config.pooling,
        temperature=config.temperature,
        labels_move_area=config.labels_move_area,
    )
    if config.refinement != "concatenation":
        channels = [tap.channels for tap in model.taps]
        model.top_down = MergedMasks(channels, model.top_down.out_channels, config.refinement)
        for key, evidence in zip(list(model.mask_estimators), channels, strict=True):
            model.mask_estimators[key] = MaskEstimator(evidence, config.mask_width, config.mask_norm)
    return model


class MergedMasks(FeaturePreservingTopDown):
    """Other ways to one mask: each stage's is estimated from its own map alone, then they are merged.

    Args:
        channels: C of each stage's map, shallow to deep.
        final_channels: C of the final map.
        how: "intersection", "union" (the paper's merging), or "finest" (the finest mask, which knows nothing of deeper
            maps).
    """

    def __init__(self, channels: Sequence[int], final_channels: int, how: str) -> None:
        super().__init__(channels, final_channels)
        self.evidence_channels = tuple(channels)
        self.how = how

    def forward(self, maps: Sequence[Tensor], final: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        features, _ = super().forward(maps, final)
        return features, list(maps)

    def fuse(self, masked: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        fused, merged = masked[-1], masks[-1]
        for finer, mask in zip(reversed(masked[:-1]), reversed(masks[:-1]), strict=True):
            deeper, deeper_mask = resize_to(fused, finer), resize_to(merged, mask)
            if self.how == "intersection":
                fused, merged = finer * deeper_mask, mask * deeper_mask
            elif self.how == "union":
                fused, merged = finer + deeper * (1 - mask), union(mask, deeper_mask)
            else:
                fused, merged = finer, mask
        return fused, merged
