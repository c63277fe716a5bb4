"""The training loop: that of ``examples/train_plain_pytorch.py``, with Fabric around it and checkpoints in it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from .._text import with_progress
from .checkpoints import DivergedError, keep_if_best, save_checkpoint
from .data import SeededBatch
from .distributed import share_buffers
from .evaluation import evaluate
from .run import Run, rate_factor, set_rates
from .tensorboard import log_to_tensorboard


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
