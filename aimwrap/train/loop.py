"""The training loop: that of ``examples/train_plain_pytorch.py``, with Fabric around it and checkpoints in it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from .._text import with_progress
from .checkpoints import DivergedError, keep_if_best, save_checkpoint
from .data import SeededBatch
from .distributed import share_buffers
from .evaluation import evaluate
from .logs import log_to_tensorboard
from .run import Run
from .settings import Settings


def rate_factor(step: int, steps_per_epoch: int, settings: Settings) -> float:
    """What every learning rate is multiplied by at an optimiser step.

    It rises linearly over ``warmup_epochs`` and then follows ``schedule``.

    Args:
        step: steps done since the beginning of the run.
        steps_per_epoch: how many an epoch has.
        settings: of the run.

    Returns:
        From 0 to 1.

    >>> settings = Settings(data="cub", root="data/cub", epochs=4, warmup_epochs=1)
    >>> [round(rate_factor(step, 2, settings), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "step":
        return float(settings.step_factor ** (step // steps_per_epoch // settings.step_epochs))
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(1, settings.epochs * steps_per_epoch - warmup)
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Move every group's rate to its own, times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs done.
        step_of_epoch: optimiser steps done of the one that it is in.
        step: all optimiser steps done.
        history: the log's line of each epoch that is done.
        best: epoch, score and file of the best weights so far; None before there are any.
        sums: of this epoch and process: loss and hits over images, and images; float64 (3,).
    """

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note a batch, without waiting for a GPU: the mean loss of its images, their logits and labels."""
        hits = (logits.argmax(1) == labels).sum()
        seen = torch.stack([loss.double() * len(labels), hits.double(), hits.new_tensor(len(labels)).double()])
        self.sums = self.sums.to(seen.device) + seen

    def end_step(self) -> None:
        """Note a step of the optimiser."""
        self.step_of_epoch += 1
        self.step += 1

    def sums_of_all(self) -> list[float]:
        """The sums over all processes."""
        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def training_scores(self) -> dict[str, float]:
        """The epoch's mean loss and accuracy in training, over all processes."""
        loss, hits, images = self.sums_of_all()
        return {"loss": loss / images, "average": hits / images}

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Begin the next epoch."""
        self.history.append(line)
        self.epoch += 1
        self.step_of_epoch = 0
        self.sums = torch.zeros_like(self.sums)

    def state_dict(self) -> dict[str, Any]:
        """Plain values; to be called in all processes."""
        names = ("epoch", "step_of_epoch", "step", "history", "best")
        return {**{name: getattr(self, name) for name in names}, "sums": self.sums_of_all()}

    def load_state_dict(self, state: dict[str, Any], rank: int) -> None:
        """Stand where another process stood; the first of them takes over what all had seen of the epoch."""
        for name in ("epoch", "step_of_epoch", "step", "history", "best"):
            setattr(self, name, state[name])
        self.sums = torch.tensor(state["sums"] if rank == 0 else [0.0] * 3, dtype=torch.float64)


def train(run: Run) -> None:
    """Train from where the run stands to its last epoch.

    Args:
        run: all that is trained and what it is trained with; it is moved on in place.

    Raises:
        DivergedError: if the loss or the weights are not finite.
        CheckpointError: if a checkpoint cannot be written.
    """
    settings, progress, fabric = run.settings, run.progress, run.fabric
    for epoch in range(progress.epoch, settings.epochs):
        started = time.perf_counter()
        run.model.train()
        run.order.epoch, run.order.first_step = epoch, progress.step_of_epoch
        for parts in _steps(run, epoch):
            set_rates(run.optimizer, rate_factor(progress.step, run.order.steps_per_epoch, settings))
            run.optimizer.zero_grad()
            for number, batch in enumerate(parts, start=1):
                # Gradients travel between processes once per step, with the last part's.
                with fabric.no_backward_sync(run.model, enabled=number < len(parts)):
                    _see(run, batch)
            if settings.clip is not None:
                fabric.clip_gradients(run.model, run.optimizer, max_norm=settings.clip)
            run.optimizer.step()
            if run.average is not None:
                run.average.update_parameters(run.network)
            progress.end_step()
            if _checkpoint_is_due(run):
                save_checkpoint(run)
        line = _end_of_epoch(run, epoch)
        run.report(line, time.perf_counter() - started)


def _see(run: Run, batch: SeededBatch) -> None:
    """Add the gradients of a part of this process's images of a step."""
    fabric, progress = run.fabric, run.progress
    images = batch.images.image.to(fabric.device, non_blocking=True)
    labels = batch.images.label.to(fabric.device, non_blocking=True)
    seeds = batch.seeds.to(fabric.device, non_blocking=True)
    output = run.model(images, noise_seeds=seeds)  # AIMOutput(logits, stage_logits, masks)
    loss = run.criterion(output, labels)
    # A part with more images has to count for more; DistributedDataParallel averages over processes.
    fabric.backward(loss * len(labels) * fabric.world_size / run.order.size_of(progress.step_of_epoch))
    if run.health is not None:
        run.health.update(output, training=True)
    progress.add(loss.detach(), output.logits.detach(), labels)


def _end_of_epoch(run: Run, epoch: int) -> dict[str, Any]:
    """Anneal, validate, keep the best and save; returns the epoch's line of the log."""
    for model in {run.network, run.evaluated}:
        share_buffers(model)
    training = run.progress.training_scores()
    if not math.isfinite(training["loss"]):
        raise DivergedError(
            f"the training loss of epoch {epoch + 1} is {training['loss']}: lower the learning rates, or clip the "
            "gradients, and begin anew in another folder"
        )
    line: dict[str, Any] = {"epoch": epoch + 1, "step": run.progress.step, "train": training}
    if run.schedule is not None:
        line["tau"] = run.schedule.tau
        run.schedule.step()
    if run.validation_batches is not None:
        assert run.splits.val is not None
        line["validation"] = evaluate(
            run.evaluated,
            run.splits.val,
            run.validation_batches,
            run.splits,
            run.fabric,
            run.health,
            run.activation_maps,
        )
    findings = [] if run.health is None else run.health.report()
    line["mask_findings"] = [finding.message for finding in findings]
    keep_if_best(run, epoch, line.get("validation"))
    run.progress.end_epoch(line)
    save_checkpoint(run)
    log_to_tensorboard(run, line)
    return line


def _checkpoint_is_due(run: Run) -> bool:
    """Within an epoch, whose end has one of its own."""
    progress, every = run.progress, run.settings.checkpoint_steps
    within = progress.step_of_epoch < run.order.steps_per_epoch
    return every is not None and within and progress.step % every == 0


def _steps(run: Run, epoch: int) -> Iterator[tuple[SeededBatch, ...]]:
    """The parts of each step of the epoch."""
    batches = iter(_shown(run, epoch))
    while parts := tuple(islice(batches, run.settings.accumulate)):
        yield parts


def _shown(run: Run, epoch: int) -> Iterable[SeededBatch]:
    """The epoch's batches, with a bar in the first process."""
    if run.quiet or not run.fabric.is_global_zero:
        return run.batches
    tau = "" if run.schedule is None else f", tau {torch.as_tensor(run.schedule.tau).mean():.2f}"
    description = f"seed {run.settings.seed}, epoch {epoch + 1}/{run.settings.epochs}{tau}"
    return with_progress(run.batches, description, total=len(run.order))
