"""The second part of a run with ``exchange`` or ``second_look``: a linear layer, on features that are computed once.

Nothing before this layer is trained, so an epoch is one pass over a table in memory. Nothing is kept for a run that is
interrupted here: it begins this part again, from the selected weights of the first look.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from .._numerics import predicted_classes, wide_dtype
from .._text import with_progress
from ..base import fresh_linear, parameter_groups
from ..data import ReleaseDataset, collate, transforms
from ..data.release import ImageLoader, groups_of
from ..exchange import exchange_backgrounds
from ..model import AIM
from ..second_look import SecondLook
from .checkpoints import DivergedError
from .data import OF_EXCHANGE, OF_SECOND_LOOK, batches_of, mixed, seed_generators
from .distributed import gathered
from .evaluation import class_accuracy, computed, group_accuracy, score_of
from .run import Run, new_second_look
from .settings import Selection

Part = Literal["second", "exchange"]  # which the names of its settings begin with
_NAMES: dict[Part, str] = {"second": "second look", "exchange": "exchanged classifier"}
_PURPOSES: dict[Part, int] = {"second": OF_SECOND_LOOK, "exchange": OF_EXCHANGE}


def train_second_look(run: Run) -> tuple[SecondLook, int]:
    """Train a second look at a run's evaluated model, which is left as it is; to be called in all processes.

    In shuffled batches, copies of each image show another one's margin, as :meth:`SecondLook.features` says; an epoch
    takes an image as it is or one of its copies, at random. The epoch is selected without copies.

    Returns:
        It, with the weights of the selected epoch, and that epoch, from 1. The same in every process.

    Raises:
        DivergedError: if a weight is not finite.
    """
    settings, first, val = run.settings, run.evaluated, run.splits.val
    assert isinstance(first, AIM) and first.preprocessing is not None
    seed = mixed(settings.seed, OF_SECOND_LOOK)
    seed_generators(seed)  # the same new layer, whatever was drawn before
    second = new_second_look(settings, first)

    def with_copies(images: Tensor, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mixed(seed, batch))
        return second.features(images, settings.second_copies, generator=generator).flatten(1)

    features = _features(run, with_copies, _not_augmented(run), _to_exchange(run, seed))
    to_select_by = None if val is None else _features(run, lambda images, _: second.features(images), val)
    return second, _trained(run, "second", second.classifier, features, to_select_by)


def train_exchanged(run: Run) -> tuple[AIM, int]:
    """Train the classifier of a run's evaluated model, which is left as it is, again, on exchanged backgrounds.

    In shuffled batches, each image is pasted on others of its batch, by its own mask; an epoch takes an image as it is
    or one of its copies, at random. The masks see copies as they see any image. The epoch is selected without copies.

    Returns:
        A copy of the model with the new classifier, and the epoch, as :func:`train_second_look`.

    Raises:
        DivergedError: as there.
    """
    settings, val = run.settings, run.splits.val
    seed = mixed(settings.seed, OF_EXCHANGE)
    seed_generators(seed)
    model = copy.deepcopy(run.evaluated).eval()
    assert isinstance(model, AIM)
    model.classifier = fresh_linear(model.classifier.in_features, model.num_classes).to(model.classifier.weight)

    def with_copies(images: Tensor, batch: int) -> Tensor:
        inputs, masks = _inputs(model, images)
        generator = torch.Generator().manual_seed(mixed(seed, batch))
        copies = (exchange_backgrounds(images, masks, generator=generator) for _ in range(settings.exchange_copies))
        return torch.cat([inputs, *(_inputs(model, pasted)[0] for pasted in copies)], dim=1)

    features = _features(run, with_copies, _not_augmented(run), _to_exchange(run, seed))
    to_select_by = None if val is None else _features(run, lambda images, _: _inputs(model, images)[0], val)
    return model, _trained(run, "exchange", model.classifier, features, to_select_by)


def _to_exchange(run: Run, seed: int) -> list[list[int]]:
    """Shuffled batches: even parts of batches of two may be a single image, which has no other to be pasted on."""
    return batches_of(len(run.splits.train), max(3, run.settings.batch_size), seed, epoch=0)


def _inputs(model: AIM, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the model's classifier reads, (N, D), and the merged mask."""
    found = model.forward_masks(model.forward_backbone(images))
    means = model.top_down.means([*found.features.values()], [*found.selections.values()], model.pooling)
    return means[1], found.merged_mask


def _not_augmented(run: Run) -> ReleaseDataset:
    train, preprocessing = run.splits.train, run.evaluated.preprocessing
    assert preprocessing is not None
    return ReleaseDataset(train.release, train.split, transforms.eval_transform(preprocessing))


def _trained(run: Run, part: Part, classifier: nn.Linear, features: Tensor, to_select_by: Tensor | None) -> int:
    """Give the classifier, in all processes, the weights of the epoch that is selected; returns that epoch."""
    found: Any = None
    if run.fabric.is_global_zero:  # the others would compute the same
        found = _train(run, part, classifier, features, to_select_by)
    epoch, weights = run.fabric.broadcast(found)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        name = _NAMES[part]
        raise DivergedError(f"the {name}'s weights are not finite: lower {part}_lr, and start in another folder")
    classifier.load_state_dict(weights)
    return int(epoch)


@torch.no_grad()
def _features(
    run: Run,
    features_of: Callable[[Tensor, int], Tensor],
    images: ReleaseDataset,
    batches: list[list[int]] | None = None,
) -> Tensor:
    """The features of a split, (N, D) in its order, on the CPU of the first process; empty in the others.

    Processes share the batches, not the images of each: so the features are the same bits in any number of processes.

    Args:
        run: for its processes and loaders.
        features_of: a batch of images and its number.
        images: the split.
        batches: the numbers of the images in each, larger batches first; by default the split in its order.
    """
    assert isinstance(run.evaluated, AIM)
    rank, processes, weight = run.fabric.global_rank, run.fabric.world_size, run.evaluated.classifier.weight
    batches = batches or [batch.tolist() for batch in torch.arange(len(images)).split(run.settings.batch_size)]
    turns = range(rank, math.ceil(len(batches) / processes) * processes, processes)
    mine = [batches[min(number, len(batches) - 1)] for number in turns]  # perhaps one more, left out below
    loader = ImageLoader(images, batch_sampler=mine, num_workers=run.workers, collate_fn=collate, pin_memory=run.pin)
    bar = f"seed {run.settings.seed}, features of the {images.split} split"
    found = weight.new_empty(0, device="cpu")
    shown = loader if run.quiet or rank else with_progress(loader, bar, total=len(mine))
    for number, batch in zip(turns, shown, strict=True):
        with run.fabric.autocast():
            rows = features_of(batch.image.to(weight, non_blocking=True), min(number, len(batches) - 1)).to(weight)
        parts = gathered(F.pad(rows, (0, 0, 0, len(batches[0]) - len(rows))))  # others may be smaller
        if rank == 0:
            found = found if len(found) else rows.new_empty((len(images), rows.shape[1]), device="cpu")
            for members, part in zip(batches[number : number + processes], parts, strict=False):
                found[members] = part[: len(members)].cpu()
    return found


def _train(
    run: Run, part: Part, classifier: nn.Linear, features: Tensor, to_select_by: Tensor | None
) -> tuple[int, dict[str, Tensor]]:
    """Train the layer; returns the epoch that the run's rule selects, and its weights.

    Args:
        run: for its settings and labels.
        part: of the run.
        classifier: trained in place.
        features: (N, versions * D); each epoch takes one of an image's versions at random.
        to_select_by: of the validation split, (N, D).
    """
    settings, device = run.settings, run.fabric.device
    labels = run.splits.train.labels
    rate, epochs = (getattr(settings, f"{part}_{name}") for name in ("lr", "epochs"))
    seed = mixed(settings.seed, _PURPOSES[part])
    versions = features.view(len(labels), -1, classifier.in_features)
    optimizer = AdamW(parameter_groups(classifier, rate), rate, weight_decay=settings.weight_decay)
    best, selected = -math.inf, (0, dict[str, Tensor]())
    for epoch in range(epochs):
        started, loss_sum, hits = time.perf_counter(), 0.0, 0
        generator = torch.Generator().manual_seed(mixed(seed, epoch))
        drawn = torch.randint(versions.shape[1], (len(labels),), generator=generator)
        for batch in batches_of(len(labels), settings.batch_size, seed, epoch):
            logits, of_batch = classifier(versions[batch, drawn[batch]].to(device)), labels[batch].to(device)
            loss = F.cross_entropy(logits.to(wide_dtype(logits)), of_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(batch)
            hits += int((predicted_classes(logits) == of_batch).sum())
        line: dict[str, Any] = {"part": _NAMES[part], "epoch": epoch + 1, "mask_findings": []}
        line["train"] = {"loss": loss_sum / len(labels), "average": hits / len(labels)}
        if to_select_by is not None:
            line["validation"] = _validated(run, classifier, to_select_by)
        # Survival is of masks, which this part does not change.
        rule: Selection = "validation average" if run.rule == "validation survival" else run.rule
        score = score_of(rule, line.get("validation"))
        if score >= best:  # of equal epochs the later one, as for the first look
            best = score
            selected = epoch + 1, {name: weight.cpu().clone() for name, weight in classifier.state_dict().items()}
        run.report(line, time.perf_counter() - started)
    return selected


@torch.no_grad()
def _validated(run: Run, classifier: nn.Linear, features: Tensor) -> dict[str, float | None]:
    """The accuracies that an epoch is selected by, in this process alone."""
    assert run.splits.val is not None
    accuracy, by_class = (kind(run.splits, sync_on_compute=False) for kind in (group_accuracy, class_accuracy))
    logits, labels = classifier(features.to(run.fabric.device)).cpu(), run.splits.val.labels
    accuracy.update(logits, labels, groups_of(run.splits.val))
    by_class.update(logits, labels, labels)
    return computed(accuracy) | {"worst_class": computed(by_class)["worst_group"]}
