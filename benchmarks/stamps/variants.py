"""What the study trains: plain networks, controls and AIM in all its settings, each from one `Config`.

The backbone is timm's tf_efficientnet_lite0 with ImageNet weights. Its BatchNorm keeps those statistics in every
variant, unless a config says otherwise, and a frozen backbone stays in evaluation mode: estimating them again on 1,200
images costs plain training dozens of points.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from bottom_up import BottomUp
from dataset import OBJECT_SIZE, Placement, Stamps
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from aimwrap import AIM, AIMLoss, AIMOutput, MaskEstimator, TauScheduler
from aimwrap._choices import DESIGNS, Design
from aimwrap.analysis.look import Look, look_at, look_at_map
from aimwrap.demo.backbone import MEAN_AND_STD
from aimwrap.metrics import class_activation_map
from aimwrap.output import MaskedFeatures
from aimwrap.resizing import resize_to
from aimwrap.top_down import FeaturePreservingTopDown, Pooling, pool, union

STAGES = (1, 2, 3)  # whose maps are cached, with the final one


@dataclass(frozen=True)
class Config:
    """One run; its fields are its key in the results.

    Attributes:
        method: "plain" (a linear classifier on the pooled final map), "open" (AIM with its masks held open), "aim",
            "bottom-up" (the paper's Table 2), or one of two that know the true mask: "oracle" (plain, on images whose
            background is replaced by grey: what is left to win) and "true mask" (AIM with the true mask on its
            features: what is left to win by masks on these features).
        tie, seed: of the data; the seed also initialises and orders.
        epochs, learning_rate: of the new modules; AdamW, batches of 32.
        backbone_rate: learning rate of the backbone; 0 keeps it frozen, and its maps are then cached.
        norms: "kept" holds BatchNorm at its ImageNet statistics, "adapted" lets it follow.
        second_look: the same network then sees the image without the pixels outside its own merged mask; both looks are
            trained, and the second decides.
        design: which arguments of AIM hold where no field here is one: "ours" or "paper".
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
    second_look: bool = False
    design: Design = "ours"

    @property
    def key(self) -> dict[str, Any]:
        """As it is in the results."""
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

    look: Look
    areas: dict[int, float]
    seconds: float
    model: nn.Module


Watch = Callable[[nn.Module, TauScheduler | None], None]
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]  # of logits, labels and groups
Order = Callable[[torch.Generator], Tensor]  # an epoch's images, as they follow each other


def load_data(tie: float, seed: int, backbone: nn.Module | None) -> tuple[Data, Data]:
    """The training and the test set of a seed; a frozen backbone's maps take about 400 MB and half a minute."""
    return (
        load_split("train", tie, seed, backbone),
        load_split("test", tie, seed, backbone),
    )


def load_split(
    split: Literal["train", "test"],
    tie: float,
    seed: int,
    backbone: nn.Module | None,
    *,
    placement: Placement = "anywhere",
    object_size: tuple[float, float] = OBJECT_SIZE,
) -> Data:
    """One split, normalised, and a frozen backbone's maps of it; without a backbone there are none."""
    stamps = Stamps(split, tie, seed, placement=placement, object_size=object_size)
    return data_of(*stamps.stacked(), stamps.cutouts, backbone)


def data_of(
    images: Tensor, labels: Tensor, places: Tensor, object_masks: Tensor, cutouts: Tensor, backbone: nn.Module | None
) -> Data:
    """The same of any images in [0, 1]."""
    images = ((images - MEAN_AND_STD) / MEAN_AND_STD).contiguous(memory_format=torch.channels_last)
    maps = {}
    if backbone is not None:
        tapping = AIM(backbone, list(STAGES), num_classes=2, head="feature-preserving").eval()
        maps = maps_of(tapping, images)
    return Data(images, labels, places, object_masks, cutouts, maps)


def without_background(data: Data, backbone: nn.Module) -> Data:
    """The true object on grey, in training and test: in practice this mask is not known."""
    images = data.images * data.object_masks  # normalised, 0 is mid-grey
    with torch.no_grad():
        final = torch.cat([backbone.forward_features(batch) for batch in images.split(50)])
    return data._replace(images=images, maps={"final map": final})


@torch.no_grad()
def maps_of(model: AIM, images: Tensor) -> dict[str, Tensor]:
    batches = [model.forward_backbone(batch) for batch in images.split(50)]
    return {name: torch.cat([maps[name] for maps in batches]) for name in batches[0]}


def train(config: Config, data: tuple[Data, Data], backbone: nn.Module, watch: Watch = lambda *_: None) -> Outcome:
    """Train one variant and run it on the test set; ``watch`` gets the model after every epoch, before tau moves on."""
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    if config.backbone_rate:
        backbone = copy.deepcopy(backbone)
    if config.method == "oracle":
        data = (without_background(data[0], backbone), without_background(data[1], backbone))
    outcome = VARIANTS[config.method](config, data, backbone, watch)
    return outcome._replace(seconds=time.perf_counter() - started)


def cross_entropy(logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """The plain objective, which knows no groups."""
    return F.cross_entropy(logits, labels)


def train_plain(
    config: Config,
    data: tuple[Data, Data],
    backbone: nn.Module,
    watch: Watch = lambda *_: None,
    objective: Objective = cross_entropy,
    order: Order | None = None,
    classifier: nn.Linear | None = None,
) -> Outcome:
    """A linear classifier on the pooled final map, and with it the backbone, if it has a rate.

    Args:
        config: what to train.
        data: training and test.
        backbone: trained in place, if at all.
        watch: as in :func:`train`.
        objective: the loss of a batch.
        order: of the training images; None takes each once per epoch.
        classifier: to go on with, trained in place; None makes one.
    """
    train_set, test_set = data
    groups_of = 2 * train_set.labels + train_set.places
    classifier = classifier or nn.Linear(backbone.num_features, 2)
    groups = [{"params": classifier.parameters(), "lr": config.learning_rate}]
    if config.backbone_rate:
        groups.append({"params": backbone.parameters(), "lr": config.backbone_rate})
        forward = backbone.forward_features
    else:
        pooled = train_set.maps["final map"].mean((2, 3))

    def loss_of(batch: Tensor) -> Tensor:
        vectors = forward(train_set.images[batch]).mean((2, 3)) if config.backbone_rate else pooled[batch]
        return objective(classifier(vectors), train_set.labels[batch], groups_of[batch])

    order = order or each_once(len(train_set.labels))
    _loop(config, loss_of, groups, order, backbone, lambda: watch(classifier, None))
    return plain_outcome(backbone.eval(), classifier, final_maps(config, backbone, test_set))


@torch.no_grad()
def final_maps(config: Config, backbone: nn.Module, data: Data) -> Tensor:
    """The backbone's final maps, which a frozen one has cached."""
    if not config.backbone_rate:
        return data.maps["final map"]
    return torch.cat([backbone.forward_features(images) for images in data.images.split(50)])


@torch.no_grad()
def plain_outcome(backbone: nn.Module, classifier: nn.Linear, maps: Tensor) -> Outcome:
    """What a plain network says, from its final maps."""
    plain = copy.deepcopy(backbone)
    plain.classifier = classifier
    return Outcome(look_at_map(maps, classifier), {}, 0.0, plain)


def _train_aim(config: Config, data: tuple[Data, Data], backbone: nn.Module, watch: Watch) -> Outcome:
    train_set, test_set = data
    model = build(config, backbone)
    criterion, schedule = _losses(config, model.tau)
    new = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    if config.norms == "kept":
        model.freeze_norm_statistics()
    set_modes(config, model)

    def loss_of(batch: Tensor) -> Tensor:
        first, second = looks(config, model, rows_of(train_set, batch))
        loss = criterion(model.forward_head(first), train_set.labels[batch])
        if second is not None:
            loss = loss + F.cross_entropy(model.forward_head(second).logits, train_set.labels[batch])
        return loss

    def after_epoch() -> None:
        watch(model, schedule)
        schedule.step()
        set_modes(config, model)

    order = each_once(len(train_set.labels))
    _loop(config, loss_of, _groups(config, new, model.backbone), order, model.backbone, after_epoch)
    return aim_outcome(config, model.eval(), test_set)


def aim_outcome(config: Config, model: AIM, test_set: Data) -> Outcome:
    """What AIM says about the test images."""
    found = []
    with torch.no_grad():
        for batch in torch.arange(len(test_set.labels)).split(50):
            first, second = looks(config, model, rows_of(test_set, batch))
            found.append(look_at(model, first if second is None else second))
    look = all_of(found)
    return Outcome(look, areas_of(look.output), 0.0, model)


def set_modes(config: Config, model: AIM) -> None:
    """Everything trains but a frozen backbone, whose norms a second look would move otherwise.

    ``AIM.freeze_backbone`` would not do: the backbone is shared with later runs, which may train copies of it.
    """
    model.train()
    if not config.backbone_rate:
        model.backbone.eval()


def looks(config: Config, model: AIM, data: Data) -> tuple[MaskedFeatures, MaskedFeatures | None]:
    """What the model makes of the images, and, with a second look, of the pixels that its merged mask keeps."""
    maps = data.maps if not config.backbone_rate else model.forward_backbone(data.images)
    first = model.forward_masks(maps, given_masks(config, model, data))
    if not config.second_look:
        return first, None
    with torch.set_grad_enabled(bool(config.backbone_rate) and torch.is_grad_enabled()):
        kept = data.images * resize_to(first.merged_mask, data.images)  # 0 is mid-grey
        again = model.forward_backbone(kept)
    return first, model.forward_masks(again, first.selections)


def given_masks(config: Config, model: AIM, data: Data) -> dict[Any, Tensor] | None:
    """Masks to use instead of the estimators' own, by stage: everything, or the object's own cells."""
    if config.method == "open":
        return dict.fromkeys(model.stages, torch.ones(1, 1, 1, 1))
    if config.method == "true mask":
        return {tap.stage: object_cells(data.object_masks, tap.stride) for tap in model.taps}
    return None


def object_cells(object_masks: Tensor, stride: int) -> Tensor:
    """Cells of which the object covers at least a half, and the one it covers most: (N, 1, H, W)."""
    size = object_masks.shape[-1] // stride
    share = F.adaptive_avg_pool2d(object_masks, size)
    return (share >= share.amax((2, 3), keepdim=True).clamp(max=0.5)).float()


def rows_of(data: Data, batch: Tensor) -> Data:
    """Some of the images."""
    rows = [values if isinstance(values, dict) else values[batch] for values in data]
    return Data(*rows)._replace(maps={name: values[batch] for name, values in data.maps.items()})


def part_of(outcome: Outcome, rows: slice | Tensor) -> Outcome:
    """What was said about some of the test images."""
    return outcome._replace(look=tree_map_only(Tensor, lambda values: values[rows], outcome.look))


def all_of(looks: Sequence[Look]) -> Look:
    """The batches' looks as one."""
    return tree_map(lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], looks[0], *looks[1:])


def _train_bottom_up(config: Config, data: tuple[Data, Data], backbone: nn.Module, watch: Watch) -> Outcome:
    train_set, test_set = data
    backbone = copy.deepcopy(backbone)  # frozen or not, it is run here, inside the model
    model = BottomUp(backbone, 2, config.mask_width, config.mask_norm, config.labels_move_area)
    criterion, schedule = _losses(config, (config.tau, config.tau))
    new = [*model.mask_estimators.parameters(), *model.classifier.parameters()]
    inside = nn.ModuleList([model.stage_2, model.stage_3, model.head])
    inside.requires_grad_(bool(config.backbone_rate))
    model.train()
    inside.eval()

    def features_of(data: Data) -> Any:
        return model(model.stage_2(data.images) if config.backbone_rate else data.maps["2"])

    def loss_of(batch: Tensor) -> Tensor:
        features = features_of(rows_of(train_set, batch))
        loss: Tensor = criterion(model.forward_head(features), train_set.labels[batch])
        return loss

    def after_epoch() -> None:
        watch(model, schedule)
        schedule.step()

    order = each_once(len(train_set.labels))
    _loop(config, loss_of, _groups(config, new, inside), order, inside, after_epoch)
    model.eval()
    with torch.no_grad():
        features = features_of(test_set)
        output = model.forward_head(features)
        heatmap = class_activation_map(features.fused, model.classifier.weight, output.logits.argmax(1))
    look = Look(output, heatmap, (heatmap.shape[1], heatmap.shape[2]), features.merged_mask)
    return Outcome(look, areas_of(output), 0.0, model)


def _losses(config: Config, tau: tuple[float, ...]) -> tuple[AIMLoss, TauScheduler]:
    stage_weight = 0.0 if config.method == "bottom-up" else config.stage_weight
    criterion = AIMLoss(tau=tau, mask_weight=config.mask_weight, stage_weight=stage_weight, area_per=config.area_per)
    anneal_epochs = max(1, round(config.anneal_share * config.epochs))
    return criterion, TauScheduler(criterion, anneal_epochs=anneal_epochs, start=config.tau_start)


def _groups(config: Config, new: list[nn.Parameter], backbone: nn.Module) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": new, "lr": config.learning_rate}]
    if config.backbone_rate:
        groups.append({"params": backbone.parameters(), "lr": config.backbone_rate})
    return groups


def areas_of(output: AIMOutput) -> dict[int, float]:
    """Each stage's mean active area over all images."""
    return {stage: mask.mean().item() for stage, mask in output.masks.items()}


def each_once(num_images: int) -> Order:
    """Every image, shuffled."""
    return lambda generator: torch.randperm(num_images, generator=generator)


def _loop(
    config: Config,
    loss_of: Callable[[Tensor], Tensor],
    groups: list[dict[str, Any]],
    order: Order,
    backbone: nn.Module,
    after_epoch: Callable[[], None],
) -> None:
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(config.seed)
    if config.backbone_rate:
        backbone.train()
        if config.norms == "kept":
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
    for _ in range(config.epochs):
        for batch in order(generator).split(32):
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
        after_epoch()


def build(config: Config, backbone: nn.Module) -> AIM:
    """AIM as the config wants it."""
    own = {name: getattr(config, name, value) for name, value in DESIGNS[config.design].items()}
    sizes = {"mask_width": config.mask_width, "temperature": config.temperature}
    model = AIM(backbone, list(config.stages), config.tau, num_classes=2, **own, **sizes)
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

    def evidence(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        return [(x,) for x in maps]

    def means(
        self, features: Sequence[Tensor], masks: Sequence[Tensor], pooling: Pooling
    ) -> tuple[list[Tensor], Tensor]:
        stages, _ = super().means(features, masks, pooling)
        return stages, pool(*self.fuse(self.masked(features, masks), masks), pooling)

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


VARIANTS = {
    "plain": train_plain,
    "oracle": train_plain,
    "open": _train_aim,
    "true mask": _train_aim,
    "aim": _train_aim,
    "bottom-up": _train_bottom_up,
}
