"""A run from its settings to its result: build or resume, train, select, test and save.

The loop is that of ``examples/train_plain_pytorch.py``, with Fabric around it and checkpoints in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError
from torch.optim import Optimizer

import aimwrap

from .._files import is_unfinished, locked, read_json, remove_unfinished, replacing, write_json
from .._text import first_line, printable, with_progress
from ..backbones.create import is_import_path
from ..backbones.plain import PlainClassifier, save_plain
from ..data import ReleaseDataset
from ..data.release import likely_ids
from ..health import MaskHealth
from ..model import AIM
from ..second_look import SecondLook
from ..sharing.card import prepared_as
from .checkpoints import (
    UNFIT,
    DivergedError,
    checkpoint_folder,
    checkpoints_in,
    keep_if_best,
    load_best,
    resume,
    save_checkpoint,
)
from .data import OLD, SeededBatch, check_files, read_splits
from .distributed import share_buffers
from .evaluation import evaluate
from .report import format_results
from .run import RANDOM, Report, Result, Run, are_others, keep_maps, weights_of
from .second_look import train_exchanged, train_second_look
from .settings import LoggerName, Selection, Settings, differences
from .watching import check_loggers, log_epochs, logging, write_masks

SETTINGS, LOG, RESULT, MODEL = "settings.json", "log.jsonl", "result.json", "model"
EXCHANGED, SECOND_LOOK = "exchanged", "second-look"

Model = AIM | SecondLook | PlainClassifier


class RunFolderError(ValueError):
    """The folder to write into holds something else."""


class ProcessError(RuntimeError):
    """One of several processes met an error that the others may not have met, such as a damaged image."""


def run_training(
    settings: Settings,
    folder: Path,
    fabric: Fabric,
    *,
    workers: int = 2,
    report: Report = lambda line, seconds: None,
    say: Callable[[str], None] = lambda text: None,
    quiet: bool = True,
    loggers: Collection[LoggerName] = (),
    keep_masks: int = 0,
) -> Result:
    """Train, or continue an interrupted run with the same settings.

    Args:
        settings: all that decides the result.
        folder: where to write; new, empty, or of the same run.
        fabric: launched; to be called in all its processes.
        workers: processes that read images, for each process that trains.
        report: is called with each epoch's line of the log, and its seconds.
        say: is called with messages for the user.
        quiet: no progress bars.
        loggers: to give each epoch's numbers and a picture: among tensorboard, csv, wandb and mlflow.
        keep_masks: number of test images whose masks are written after each epoch, into ``masks``.

    Returns:
        The result, the same in every process.

    Raises:
        ImportError: if a logger's package is missing.
        BlockingIOError: if another process is writing into the folder.
        RunFolderError: if the folder holds a run with other settings or images, or something else.
        CheckpointError: if a checkpoint is damaged, another run's, or cannot be written.
        DivergedError: if the loss or a weight is not finite.
        ProcessError: in one of several processes, where a single one would raise OSError or ValueError.
        FileNotFoundError: if the data is not there.
        OSError: if a logger fails.
        ValueError: if the settings do not fit each other, the data, the backbone or the number of processes.
    """
    check_loggers(loggers)
    _check_folder(folder, settings)
    saved = (folder / MODEL).is_dir() or not checkpoints_in(checkpoint_folder(folder))  # else it is saved again
    if saved and (folder / RESULT).is_file() and (folder / SETTINGS).is_file():
        result = _result_in(folder, read_splits(settings).fingerprint, weights_of(settings))
        remove_unfinished(folder)  # of a process that was killed when it had written the result
        remove_unfinished(checkpoint_folder(folder), "lock-")
        unused = [name for name, given in (("--logger", loggers), ("--keep-masks", keep_masks)) if given]
        idle = f"; {' and '.join(unused)} changed nothing, and works with another folder (--out)" if unused else ""
        say(f"{folder} is trained already; its result is in {RESULT}{idle}")
        return result
    if settings.pretrained and not is_import_path(settings.backbone):
        say(f"starting from the weights {weights_of(settings)}; without a network, {RANDOM}")
    more: dict[str, Any] = {"workers": workers, "loggers": loggers, "keep_masks": keep_masks}
    run = Run(settings, folder, fabric, report=report, quiet=quiet, **more)
    fabric.barrier()  # no process writes before all have checked the folder
    try:
        checkpoint_folder(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error}); name another folder for the run") from error
    with locked(checkpoint_folder(folder) / f"lock-{fabric.global_rank}"):
        if fabric.is_global_zero:  # who writes; the others would see what it is writing
            _check_folder(folder, settings)  # again, since another command may have begun a run in the meantime
            _begin(run)
        if run.lacks is not None:
            say(run.lacks)
        assert run.network.preprocessing is not None
        prepared = f"images are prepared to {prepared_as(run.network.preprocessing)}, before the network"
        release = run.splits.train.release
        for text in () if quiet else (run.classes, prepared, *release.notes, *likely_ids(release)):
            say(printable(text))
        if resume(run):
            say(f"continuing after epoch {run.progress.epoch}, step {run.progress.step_of_epoch} of the next one")
        _write_log(run)  # its last line may be missing: it is written after the checkpoint
        try:
            if run.progress.step == 0:
                shown, taken = not quiet and fabric.is_global_zero, run.evaluated.preprocessing
                assert taken is not None
                found = check_files(run.splits, taken, fabric.global_rank, fabric.world_size, shown)
                if found and shown:
                    say(found)
            if settings.cache_features and run.progress.epoch < settings.epochs:
                keep_maps(run, say)
            with logging(run):
                train(run)
                for model in {run.network, run.evaluated} if run.kept else ():
                    del vars(model)["forward_backbone"]
                run.kept.clear()
                return _finish(run)
        except (OSError, ValueError) as error:
            if fabric.world_size == 1:
                raise
            raise ProcessError(f"process {fabric.global_rank} of {fabric.world_size}: {error}") from error


def train(run: Run) -> None:
    """Train a run, in place, from its progress to its last epoch.

    Raises:
        DivergedError: if the loss or a weight is not finite.
        CheckpointError: if a checkpoint cannot be written.
    """
    settings, progress, fabric = run.settings, run.progress, run.fabric
    for epoch in range(progress.epoch, settings.epochs):
        started = time.perf_counter()
        run.model.train()
        run.order.epoch, run.order.first_step = epoch, progress.step_of_epoch
        batches = iter(_with_bar(run, epoch))
        while parts := tuple(islice(batches, settings.accumulate)):
            set_rates(run.optimizer, rate_factor(progress.step, run.order.steps_per_epoch, settings))
            run.optimizer.zero_grad()
            for number, batch in enumerate(parts, start=1):
                # Processes exchange gradients once per step, with the last part.
                with fabric.no_backward_sync(run.model, enabled=number < len(parts)):
                    _see(run, batch)
            if settings.clip is not None:
                fabric.clip_gradients(run.model, run.optimizer, max_norm=settings.clip)
            run.optimizer.step()
            if run.average is not None:
                run.average.update_parameters(run.network)
            progress.step_of_epoch, progress.step = progress.step_of_epoch + 1, progress.step + 1
            if _checkpoint_is_due(run):
                save_checkpoint(run)
        line = _end_of_epoch(run, epoch)
        _write_log(run)
        run.report(line, time.perf_counter() - started)


def rate_factor(step: int, steps_per_epoch: int, settings: Settings) -> float:
    """The factor of every learning rate at a step: a linear rise over ``warmup_epochs``, then ``schedule``.

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
    """Set every group's rate to its initial rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


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


def _checkpoint_is_due(run: Run) -> bool:
    """Within an epoch; its end has its own checkpoint."""
    progress, every = run.progress, run.settings.checkpoint_steps
    within = progress.step_of_epoch < run.order.steps_per_epoch
    return every is not None and within and progress.step % every == 0


def _with_bar(run: Run, epoch: int) -> Iterable[SeededBatch]:
    """The epoch's batches, with a progress bar in the first process."""
    if run.quiet or not run.fabric.is_global_zero:
        return run.batches
    tau = "" if run.schedule is None else f", tau {torch.as_tensor(run.schedule.tau).mean():.2f}"
    description = f"seed {run.settings.seed}, epoch {epoch + 1}/{run.settings.epochs}{tau}"
    return with_progress(run.batches, description, total=len(run.order))


def _end_of_epoch(run: Run, epoch: int) -> dict[str, Any]:
    """Anneal, validate, keep the best and save; returns the epoch's line of the log."""
    for model in {run.network, run.evaluated}:
        share_buffers(model)
    loss, hits, images = run.progress.sums_of_all()
    if not math.isfinite(loss):
        raise DivergedError(
            f"the training loss of epoch {epoch + 1} is {loss / images}: lower the learning rates, or clip the "
            "gradients, and start in another folder"
        )
    training = {"loss": loss / images, "average": hits / images}
    line: dict[str, Any] = {"epoch": epoch + 1, "step": run.progress.step, "train": training}
    if run.schedule is not None:
        line["tau"] = run.schedule.tau
        run.schedule.step()
    if run.splits.val is not None:
        line["validation"] = _scores(run, run.evaluated, run.splits.val, run.health, run.rule)
    findings = [] if run.health is None else run.health.report()
    line["mask_findings"] = [finding.message for finding in findings]
    keep_if_best(run, epoch, line.get("validation"))
    run.progress.end_epoch(line)
    write_masks(run, line)  # before the checkpoint: a run that is interrupted here repeats the epoch
    save_checkpoint(run)
    log_epochs(run)
    return line


def _scores(
    run: Run,
    model: Model,
    images: ReleaseDataset,
    health: MaskHealth | None = None,
    rule: Selection | None = None,
) -> dict[str, Any]:
    batches = run.validation if rule and run.validation else run.batches_of(images)
    return evaluate(model, images, batches, run.splits, run.fabric, health, run.activation_maps, rule)


def _finish(run: Run) -> Result:
    """Test the selected weights and save them; the file of the result comes last, and marks the run as done."""
    epoch = load_best(run)
    if run.fabric.is_global_zero:
        _save_model(run, run.evaluated, MODEL, {})  # before the test, which a damaged image may end
    scores = _scores(run, run.evaluated, run.splits.test)
    selected = run.progress.history[epoch - 1]
    result = Result(
        run.variant,
        run.settings.seed,
        run.rule,
        epoch,
        run.splits.tested_on,
        scores,
        selected.get("validation"),
        selected["mask_findings"],
        str(run.folder),
        list(run.network.departures) if isinstance(run.network, AIM) else None,
        run.weights,
        run.splits.fingerprint,
        run.classes,
    )
    if run.fabric.is_global_zero:
        _save_model(run, run.evaluated, MODEL, scores)
    if run.settings.exchange:
        result = result._replace(exchange=_tested(run, *train_exchanged(run), EXCHANGED))
    if run.settings.second_look:
        result = result._replace(second_look=_tested(run, *train_second_look(run), SECOND_LOOK))
    if run.fabric.is_global_zero:
        write_json(run.folder / RESULT, result._asdict())
    run.fabric.barrier()
    return result


def _tested(run: Run, model: AIM | SecondLook, epoch: int, name: str) -> dict[str, Any]:
    """Test and save a model of the second part, in all processes; returns what the result says of it."""
    scores, val = _scores(run, model, run.splits.test), run.splits.val
    validation = None if val is None else _scores(run, model, val)
    if run.fabric.is_global_zero:
        _save_model(run, model, name, scores)
    return {"epoch": epoch, "scores": scores, "validation": validation, "folder": str(run.folder / name)}


def _save_model(run: Run, model: Model, name: str, scores: dict[str, Any]) -> None:
    folder = run.folder / name
    if not checkpoints_in(checkpoint_folder(run.folder)):
        raise RunFolderError(f"{run.folder} was removed in mid-run; give the same command again to start over")
    try:
        if isinstance(model, PlainClassifier):
            save_plain(model, folder, run.settings.backbone)
        else:
            shown = {name.replace("_", " "): value for name, value in scores.items() if isinstance(value, float)}
            model.save_pretrained(folder, metrics={f"{run.splits.tested_on} {name}": shown[name] for name in shown})
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"the model could not be saved into {folder} ({error}); the checkpoints are unchanged: make room, give the "
            "same command again, and it is saved without training again"
        ) from error


def _begin(run: Run) -> None:
    """Write the settings, and remove the unfinished files of an interrupted run."""
    for folder in (run.folder, checkpoint_folder(run.folder)):
        remove_unfinished(folder)
    if _has_work(run.folder) and (run.folder / SETTINGS).is_file():
        return
    splits, preprocessing = run.splits, run.network.preprocessing
    assert preprocessing is not None
    resolved = {
        "variant": run.variant,
        "weights": run.weights,
        "selection": run.rule,
        "tested_on": splits.tested_on,
        "anneal_epochs": run.settings.epochs_to_anneal if run.schedule is not None else None,
        "steps_per_epoch": run.order.steps_per_epoch,
        "images": {"train": len(splits.train), "val": len(splits.val or ()), splits.tested_on: len(splits.test)},
        "data": splits.fingerprint,
        "preprocessing": preprocessing._asdict(),
        "lacks": run.lacks,
        "processes": run.fabric.world_size,
        "device": str(run.fabric.device),
        "aimwrap": aimwrap.__version__,
        "torch": str(torch.__version__),
    }
    write_json(run.folder / SETTINGS, {"settings": run.settings.to_json(), "resolved": resolved})


def _check_folder(folder: Path, settings: Settings) -> None:
    files = [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]
    if files:
        raise RunFolderError(f"{files[0]} is a file; name a folder to write the run into")
    path = folder / SETTINGS
    if not path.is_file():
        others = [one for one in folder.glob("*") if one.name != "checkpoints" and not is_unfinished(one)]
        if others and not checkpoints_in(checkpoint_folder(folder)):
            raise RunFolderError(
                f"{folder} is not empty and holds no run: name a new folder, or that of an interrupted run"
            )
        return
    try:
        before = Settings.from_json(read_json(path)["settings"])
    except UNFIT as error:
        raise RunFolderError(f"{path} cannot be read ({error}); name another folder for a new run") from error
    other = differences(before, settings)
    if other and _has_work(folder):
        listed = "; ".join(f"{name} was {was!r} and is {now!r}" for name, (was, now) in other.items())
        raise RunFolderError(
            f"{folder} holds a run with other settings: {listed}. Give the settings that it was started with to "
            "continue, or name another folder for a new run"
        )


def _result_in(folder: Path, fingerprint: dict[str, str], weights: str | None) -> Result:
    """The result of a run that is done, which must be of these images, and of a backbone with these weights."""
    try:
        found, kept = (read_json(folder / name) for name in (RESULT, SETTINGS))
        known = found.get("data") or kept["resolved"]["data"]
        known = known if isinstance(known, dict) else {OLD: known}  # as older versions wrote it
        other = are_others(found.get("weights"), kept["resolved"]["torch"], weights)
        format_results([result := Result(**found)])  # to see that nothing is missing
        for name in ("second_look", "exchange"):
            if kept["settings"].get(name, False) != (getattr(result, name) is not None):
                raise ValueError(f"its {name} does not fit the settings")
    except UNFIT as error:
        message = f"{folder / RESULT} was changed by hand ({first_line(error)}); remove it, and give the command again"
        raise RunFolderError(message) from error
    if changed := [name for name in known if known[name] != fingerprint.get(name)]:
        what = "other names of classes or places" if changed == ["names"] else "other images"
        raise RunFolderError(f"{folder} holds the result of {what}; name another folder for a run on these")
    if other:
        raise RunFolderError(f"{folder} holds the result of {result.weights}, not of {weights}; name another folder")
    return result


def _has_work(folder: Path) -> bool:
    """Whether there is something to continue; a run that failed before may be given other settings."""
    return bool(checkpoints_in(checkpoint_folder(folder))) or (folder / RESULT).is_file()


def _write_log(run: Run) -> None:
    if run.fabric.is_global_zero:
        lines = [json.dumps(line) for line in run.progress.history]
        with replacing(run.folder / LOG) as path:
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
