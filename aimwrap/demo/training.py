"""The demo's variants, trained with one budget: the same images, epochs, batches and optimiser.

BatchNorm keeps its ImageNet statistics in every variant: estimating them again on a few hundred images costs plain
training dozens of points, so doing it on one side only would decide the comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from .._text import with_progress
from ..analysis.look import Look, look_at, look_at_map
from ..data import DigitsOnPhotographs
from ..loss import AIMLoss
from ..model import AIM
from ..taps import Stage
from ..tau import TauScheduler
from ..top_down import Head
from .backbone import MEAN_AND_STD

STAGES = (2, 3)
OPEN_MASKS: dict[Stage, Tensor] = dict.fromkeys(STAGES, torch.ones(1, 1, 1, 1))
PLAIN = "plain, fine-tuned"
PROBE = "linear probe, frozen"


def aim_name(head: Head, *, held_open: bool = False) -> str:
    """The name of AIM's rows, which says the head."""
    return f"AIM{' held open' if held_open else ''}, frozen ({head} head)"


@dataclass(frozen=True)
class Settings:
    """What all variants share.

    Attributes:
        epochs: passes over the training images.
        anneal_share: share of the epochs in which AIM's tau falls from 1 to its target.
        batch_size: images per step.
        learning_rate: of new modules, in every variant.
        backbone_learning_rate: of the backbone, where it is fine-tuned.
        tau: area that AIM's masks are to keep.
        image_size: in pixels.
        train_images, test_images: sizes of the sets.
        quiet: no progress bars.
    """

    epochs: int = 8
    anneal_share: float = 0.5
    batch_size: int = 8
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4
    tau: float = 0.25
    image_size: int = 160
    train_images: int = 320
    test_images: int = 240
    quiet: bool = False


class Split(NamedTuple):
    """A stacked data set: normalised images (N, 3, H, W), labels and places (N,), object masks (N, 1, H, W)."""

    images: Tensor
    labels: Tensor
    places: Tensor
    object_masks: Tensor


class Outcome(NamedTuple):
    """A trained variant: its name, with the head where it is AIM, what it makes of the test images, and its seconds.

    The seconds are those of training, and of the features that it needed.
    """

    variant: str
    look: Look
    seconds: float


def load_splits(tie: float, seed: int, settings: Settings) -> tuple[Split, Split]:
    """Draw the training set, tied, and the test set, untied."""
    sizes = {"train": settings.train_images, "test": settings.test_images}
    splits = []
    for name in ("train", "test"):
        data = DigitsOnPhotographs(name, tie, seed, settings.image_size, num_images=sizes[name])
        images, labels, places, object_masks = data.stacked()
        images = ((images - MEAN_AND_STD) / MEAN_AND_STD).contiguous(memory_format=torch.channels_last)
        splits.append(Split(images, labels, places, object_masks))
    return splits[0], splits[1]


def batch_order(num_images: int, settings: Settings, seed: int) -> list[list[Tensor]]:
    """The images' indices, by epoch and batch: drawn once, so that every variant sees the same batches."""
    generator = torch.Generator().manual_seed(seed)
    return [
        list(torch.randperm(num_images, generator=generator).split(settings.batch_size)) for _ in range(settings.epochs)
    ]


def train(
    loss_of_batch: Callable[[Tensor], Tensor],
    optimizer: Optimizer,
    num_images: int,
    name: str,
    settings: Settings,
    seed: int,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """The loop that every variant goes through; ``loss_of_batch`` is given the indices of a batch (B,)."""
    epochs = batch_order(num_images, settings, seed)
    for batches in epochs if settings.quiet else with_progress(epochs, name, "epoch"):
        for batch in batches:
            optimizer.zero_grad()
            loss_of_batch(batch).backward()
            optimizer.step()
        after_epoch()


@torch.no_grad()
def final_maps(backbone: nn.Module, images: Tensor) -> Tensor:
    """The map that the network's own classifier pools, after its head convolution: (N, D, h, w)."""
    return torch.cat([backbone.forward_features(batch) for batch in images.split(64)])  # type: ignore[operator]


def train_plain(
    backbone: nn.Module, splits: tuple[Split, Split], settings: Settings, seed: int, frozen: bool = False
) -> Outcome:
    """Train a new classifier on the network's pooled final map, and the network with it, unless it is frozen."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    images, labels, *_ = splits[0]
    classifier = nn.Linear(backbone.num_features, 2)  # type: ignore[arg-type]
    groups = [{"params": classifier.parameters(), "lr": settings.learning_rate}]
    fixed = final_maps(backbone, images).mean(dim=(2, 3)) if frozen else None
    if not frozen:
        groups.append({"params": backbone.parameters(), "lr": settings.backbone_learning_rate})

    def loss_of_batch(batch: Tensor) -> Tensor:
        if fixed is not None:
            return F.cross_entropy(classifier(fixed[batch]), labels[batch])
        maps: Tensor = backbone.forward_features(images[batch])  # type: ignore[operator]
        return F.cross_entropy(classifier(maps.mean(dim=(2, 3))), labels[batch])

    name = PROBE if frozen else PLAIN
    train(loss_of_batch, AdamW(groups), len(labels), name, settings, seed)
    look = look_at_map(final_maps(backbone, splits[1].images), classifier)
    return Outcome(name, look, time.perf_counter() - started)


def train_aim_frozen(
    backbone: nn.Module, splits: tuple[Split, Split], settings: Settings, seed: int, head: Head
) -> tuple[Outcome, Outcome]:
    """Train AIM on a frozen backbone twice: with its masks held open (the control), and as it is meant.

    The backbone's maps do not change, so they are computed once.
    """
    started = time.perf_counter()
    labels = splits[0].labels
    model = AIM(backbone, STAGES, settings.tau, num_classes=2, head=head)
    train_maps, test_maps = (backbone_maps(model, split.images) for split in splits)
    seconds_for_maps = time.perf_counter() - started
    outcomes = []
    for masks in (OPEN_MASKS, None):
        started = time.perf_counter() - seconds_for_maps
        torch.manual_seed(seed)
        model = AIM(backbone, STAGES, settings.tau, num_classes=2, head=head)
        name = aim_name(head, held_open=masks is not None)
        criterion = AIMLoss(tau=model.tau)
        schedule = TauScheduler(criterion, max(1, round(settings.anneal_share * settings.epochs)))
        optimizer = AdamW(new_parameters(model), settings.learning_rate)
        model.train()

        def loss_of_batch(batch: Tensor) -> Tensor:
            maps = {name: values[batch] for name, values in train_maps.items()}
            output = model.forward_head(model.forward_masks(maps, masks))  # noqa: B023
            return criterion(output, labels[batch])  # type: ignore[no-any-return] # noqa: B023

        train(loss_of_batch, optimizer, len(labels), name, settings, seed, schedule.step)
        with torch.no_grad():
            look = look_at(model, model.eval().forward_masks(test_maps, masks))
        outcomes.append(Outcome(name, look, time.perf_counter() - started))
    return outcomes[0], outcomes[1]


def new_parameters(model: AIM) -> list[nn.Parameter]:
    """All parameters that AIM adds to the backbone."""
    return [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone.")]


@torch.no_grad()
def backbone_maps(model: AIM, images: Tensor) -> dict[str, Tensor]:
    """The backbone's tapped maps of all images, by name."""
    model.eval()
    batches = [model.forward_backbone(batch) for batch in images.split(64)]
    return {name: torch.cat([maps[name] for maps in batches]) for name in batches[0]}
