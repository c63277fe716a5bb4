"""The second part of a run with ``second_look``: its linear layer, on features that are computed once.

Nothing before this layer is trained, so an epoch is one pass over a table in memory. Nothing is kept for a run that is
interrupted here: it begins this part again, from the selected weights of the first look.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from .._numerics import predicted_classes, wide_dtype
from .._text import with_progress
from ..base import parameter_groups
from ..data import ReleaseDataset, collate, transforms
from ..data.release import ImageLoader, groups_of
from ..model import AIM
from ..second_look import SecondLook
from .checkpoints import DivergedError
from .data import OF_SECOND_LOOK, batches_of, mixed, seed_generators
from .distributed import gathered
from .evaluation import computed, group_accuracy, score_of
from .run import Run


def train_second_look(run: Run) -> tuple[SecondLook, int]:
    """Train a second look at a run's evaluated model, which is left as it is; to be called in all processes.

    Returns:
        It, with the weights of the selected epoch, and that epoch, from 1. The same in every process.

    Raises:
        DivergedError: if a weight is not finite.
    """
    settings, first = run.settings, run.evaluated
    assert isinstance(first, AIM) and first.preprocessing is not None
    seed_generators(mixed(settings.seed, OF_SECOND_LOOK))  # the same new layer, whatever was drawn before
    second = SecondLook(first, margin=settings.margin, least=settings.least)
    train, val = run.splits.train, run.splits.val
    train = ReleaseDataset(train.release, train.split, transforms.eval_transform(first.preprocessing))  # not augmented
    features = _features(run, second, train)
    to_select_by = None if val is None else _features(run, second, val)
    found: Any = None
    if run.fabric.is_global_zero:  # the others would compute the same
        found = _train(run, second.classifier, features, to_select_by)
    epoch, weights = run.fabric.broadcast(found)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise DivergedError("the second look's weights are not finite: lower second_lr, and start in another folder")
    second.classifier.load_state_dict(weights)
    return second, epoch


def _features(run: Run, second: SecondLook, images: ReleaseDataset) -> Tensor:
    """The classifier's input for a split, (N, D) in its order, on the CPU of the first process; empty in the others.

    Processes share the batches, not the images of each: so the features are the same bits in any number of processes.
    """
    rank, processes, weight = run.fabric.global_rank, run.fabric.world_size, second.classifier.weight
    batches = torch.arange(len(images)).split(run.settings.batch_size)
    turns = range(rank, math.ceil(len(batches) / processes) * processes, processes)
    mine = [batches[min(number, len(batches) - 1)].tolist() for number in turns]  # perhaps one more, cut off below
    loader = ImageLoader(
        images,
        batch_sampler=mine,
        num_workers=run.workers,
        collate_fn=collate,
        pin_memory=run.pin,
        generator=torch.Generator(),
    )
    bar = f"seed {run.settings.seed}, second look at the {images.split} split"
    found = []
    for batch in loader if run.quiet or rank else with_progress(loader, bar, total=len(mine)):
        with run.fabric.autocast():
            rows = second.features(batch.image.to(weight, non_blocking=True)).to(weight)
        rows = torch.cat(gathered(F.pad(rows, (0, 0, 0, len(batches[0]) - len(rows)))))  # the last one may be smaller
        found += [rows.cpu()] if rank == 0 else []
    return torch.cat(found)[: len(images)] if found else weight.new_empty(0)


def _train(
    run: Run, classifier: nn.Linear, features: Tensor, to_select_by: Tensor | None
) -> tuple[int, dict[str, Tensor]]:
    """Train the layer; returns the epoch that the run's rule selects, and its weights."""
    settings, device = run.settings, run.fabric.device
    labels = run.splits.train.labels
    groups = parameter_groups(classifier, settings.second_lr)
    optimizer = AdamW(groups, settings.second_lr, weight_decay=settings.weight_decay)
    best, selected = -math.inf, (0, dict[str, Tensor]())
    for epoch in range(settings.second_epochs):
        started, loss_sum, hits = time.perf_counter(), 0.0, 0
        seed = mixed(settings.seed, OF_SECOND_LOOK)
        for batch in batches_of(len(labels), settings.batch_size, seed, epoch):
            logits, of_batch = classifier(features[batch].to(device)), labels[batch].to(device)
            loss = F.cross_entropy(logits.to(wide_dtype(logits)), of_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(batch)
            hits += int((predicted_classes(logits) == of_batch).sum())
        line: dict[str, Any] = {"second_look": True, "epoch": epoch + 1, "mask_findings": []}
        line["train"] = {"loss": loss_sum / len(labels), "average": hits / len(labels)}
        if to_select_by is not None:
            line["validation"] = _validated(run, classifier, to_select_by)
        score = score_of(run.rule, line.get("validation"))
        if score >= best:  # of equal epochs the later one, as for the first look
            best = score
            selected = epoch + 1, {name: weight.cpu().clone() for name, weight in classifier.state_dict().items()}
        run.report(line, time.perf_counter() - started)
    return selected


@torch.no_grad()
def _validated(run: Run, classifier: nn.Linear, features: Tensor) -> dict[str, float | None]:
    """The accuracies that an epoch is selected by, in this process alone."""
    assert run.splits.val is not None
    accuracy = group_accuracy(run.splits, sync_on_compute=False)
    logits = classifier(features.to(run.fabric.device)).cpu()
    accuracy.update(logits, run.splits.val.labels, groups_of(run.splits.val))
    return computed(accuracy)
