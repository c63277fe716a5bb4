"""All the parts of a run, put together from its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..data import Batch
from ..health import MaskHealth
from ..loss import AIMLoss
from ..model import AIM
from ..tau import TauScheduler
from .data import (
    BatchOrder,
    SeededBatch,
    Splits,
    evaluation_loader,
    prepared,
    read_splits,
    seed_of_process,
    training_loader,
)
from .distributed import synchronise_batch_norms
from .evaluation import chosen_rule, lacking_objects, objects_are_known
from .generators import seed_generators
from .models import PlainLoss, build_criterion, build_model, build_optimizer, variant_of
from .settings import Selection, Settings


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


Report = Callable[[dict[str, Any], float], None]


@dataclass
class Run:
    """What is trained, with what, and how far it is.

    Attributes:
        settings: all that decides the result.
        folder: where it is written.
        fabric: device, precision and processes.
        splits: the data, with transforms.
        network: the model itself.
        model: the same behind Fabric, and ``DistributedDataParallel`` where there are several processes: what training
            calls.
        average: the moving average of the weights, or None.
        criterion: the loss.
        schedule: of tau; None for a plain run.
        health: of the masks; None for a plain run.
        optimizer: as Fabric has it.
        order: which images when.
        batches: this process's training batches, in that order.
        validation_batches: this process's part of the validation split, or None.
        test_batches: of the split that the result is measured on.
        rule: which epoch's weights are kept.
        variant: what the model is, in words.
        activation_maps: of a plain model, where they are measured or shown and it has them; else None.
        lacks: what a reader of the results may miss, and why there is none.
        progress: how far it is.
        report: is told each epoch's line of the log, and its seconds.
        quiet: no progress bars.
        tensorboard: whether to write for TensorBoard.
    """

    settings: Settings
    folder: Path
    fabric: Fabric
    splits: Splits
    network: AIM | PlainClassifier
    model: _FabricModule
    average: AveragedModel | None
    criterion: AIMLoss | PlainLoss
    schedule: TauScheduler | None
    health: MaskHealth | None
    optimizer: Optimizer
    order: BatchOrder
    batches: Iterable[SeededBatch]
    validation_batches: Iterable[Batch] | None
    test_batches: Iterable[Batch]
    rule: Selection
    variant: str
    report: Report
    activation_maps: PooledClassifier | None = None
    lacks: str | None = None
    progress: Progress = field(default_factory=Progress)
    quiet: bool = False
    tensorboard: bool = False

    @property
    def evaluated(self) -> AIM | PlainClassifier:
        """What is validated, tested and saved: the average of the weights if there is one, else the network."""
        return self.network if self.average is None else cast("AIM | PlainClassifier", self.average.module)


def reset_loss_scale(fabric: Fabric) -> None:
    """Begin with a fresh scale of the loss in float16, where a seed before this one has left its own."""
    precision = fabric.strategy.precision
    if precision.state_dict():
        precision.load_state_dict(torch.amp.GradScaler(fabric.device.type).state_dict())


def build_run(
    settings: Settings,
    folder: Path,
    fabric: Fabric,
    *,
    workers: int,
    report: Report,
    quiet: bool,
    tensorboard: bool,
) -> Run:
    """Put a run together, at its beginning.

    Args:
        settings: all that decides the result.
        folder: where to write.
        fabric: launched.
        workers: processes that read images, for each process that trains.
        report: is told each epoch's line of the log, and its seconds.
        quiet: no progress bars.
        tensorboard: whether to write for TensorBoard.

    Raises:
        ValueError: if the settings do not fit the data set, the backbone or the number of processes.
    """
    seed_generators(settings.seed)  # the same new layers in every process
    splits = read_splits(settings)
    rule = chosen_rule(settings.selection, splits)
    network = build_model(settings, len(splits.classes))
    network.class_names = splits.classes
    if settings.sync_batchnorm:
        synchronise_batch_norms(network, fabric)
    if settings.precision == "64-true":
        network.double()  # here, since the moving average is a copy
    assert network.preprocessing is not None
    splits = prepared(splits, settings, network.preprocessing)
    rank, processes = fabric.global_rank, fabric.world_size
    order = BatchOrder(
        len(splits.train), settings.batch_size, settings.seed, rank, processes, accumulate=settings.accumulate
    )
    pin = fabric.device.type == "cuda"

    criterion = build_criterion(settings, network).to(fabric.device)
    average = None
    if settings.ema is not None:
        average = AveragedModel(network, fabric.device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    compiled: nn.Module = cast("nn.Module", torch.compile(network)) if settings.compile else network
    reset_loss_scale(fabric)
    model, optimizer = fabric.setup(compiled, build_optimizer(settings, network))
    aim_loss = criterion if isinstance(criterion, AIMLoss) else None
    seed_generators(seed_of_process(settings.seed, rank))  # from here on each process drops out its own

    def batches_of(split: str) -> Iterable[Batch]:
        images = splits.val if split == "val" and splits.val is not None else splits.test
        return evaluation_loader(images, settings.batch_size, rank, processes, workers, pin)

    run = Run(
        settings=settings,
        folder=folder,
        fabric=fabric,
        splits=splits,
        network=network,
        model=model,
        average=average,
        criterion=criterion,
        schedule=None if aim_loss is None else TauScheduler(aim_loss, anneal_epochs=settings.epochs_to_anneal),
        health=None if aim_loss is None else MaskHealth(aim_loss),
        optimizer=optimizer,
        order=order,
        batches=training_loader(splits.train, order, workers, pin),
        validation_batches=None if splits.val is None else batches_of("val"),
        test_batches=batches_of("test"),
        rule=rule,
        variant=variant_of(settings, network),
        report=report,
        quiet=quiet,
        tensorboard=tensorboard,
    )
    lacking = lacking_objects(splits.test)
    if isinstance(run.evaluated, PlainClassifier) and (objects_are_known(splits.test) or tensorboard):
        try:
            run.activation_maps = PooledClassifier(run.evaluated.backbone, "the model")
        except ValueError as error:
            lacking = str(error) if objects_are_known(splits.test) else lacking
    run.lacks = None if lacking is None else f"energy pointing is left out: {lacking}"
    return run
