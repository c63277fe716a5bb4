"""All the parts of a run, put together from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..data import Batch
from ..health import MaskHealth
from ..loss import AIMLoss
from ..model import AIM
from ..tau import TauScheduler
from .checkpoints import seed_generators
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
from .loop import Progress
from .models import PlainLoss, build_criterion, build_model, build_optimizer, variant_of
from .settings import Selection, Settings

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
