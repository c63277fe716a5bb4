"""One run from its settings to its result: begin or go on, train, select, test and save."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError

import aimwrap

from .._files import is_unfinished, remove_unfinished, replacing
from ..backbones.plain import save_plain
from ..model import AIM
from .checkpoints import checkpoint_folder, checkpoints_in, load_best, resume
from .evaluation import evaluate
from .loop import train
from .run import Report, Run, build_run
from .settings import Settings, differences
from .tensorboard import check_tensorboard

SETTINGS, LOG, RESULT, MODEL = "settings.json", "log.jsonl", "result.json", "model"


class Result(NamedTuple):
    """What a run ends with, as its ``result.json`` has it.

    Attributes:
        variant: what the model is, in words.
        seed: of the run.
        selection: the rule by which the epoch was selected.
        epoch: that was selected, from 1.
        tested_on: the split that the scores are of.
        scores: see ``aimwrap.train.evaluation.evaluate``.
        validation: the same on the validation split, of the selected epoch; None where there is none.
        mask_findings: what :class:`~aimwrap.MaskHealth` said at the last epoch's end.
        folder: of the run; the model lies in its ``model``.
    """

    variant: str
    seed: int
    selection: str
    epoch: int
    tested_on: str
    scores: dict[str, Any]
    validation: dict[str, Any] | None
    mask_findings: list[str]
    folder: str


class RunFolderError(ValueError):
    """The folder to write into holds something else."""


class ProcessError(RuntimeError):
    """One of several processes stumbled over what the others may not have seen, such as a damaged picture."""


def run_training(
    settings: Settings,
    folder: Path,
    fabric: Fabric,
    *,
    workers: int = 2,
    report: Report = lambda line, seconds: None,
    say: Callable[[str], None] = lambda text: None,
    quiet: bool = True,
    tensorboard: bool = False,
) -> Result:
    """Train, or go on where a killed run with the same settings stood.

    Args:
        settings: all that decides the result.
        folder: where to write; new, empty, or of the same run.
        fabric: launched; to be called in all its processes.
        workers: processes that read images, for each process that trains.
        report: is told each epoch's line of the log, and its seconds.
        say: is told what people may want to know.
        quiet: no progress bars.
        tensorboard: whether to write for TensorBoard.

    Returns:
        The result, the same in every process.

    Raises:
        ImportError: if TensorBoard is asked for and missing.
        RunFolderError: if the folder holds a run with other settings, or something else.
        CheckpointError: if a checkpoint is damaged, another run's, or cannot be written.
        DivergedError: if the loss is no longer a number.
        ProcessError: in one of several processes, for what a single one would raise as OSError or ValueError.
        FileNotFoundError: if the data is not there.
        ValueError: if the settings do not fit each other, the data, the backbone or the number of processes.
    """
    if tensorboard:
        check_tensorboard()
    _check_folder(folder, settings)
    if (folder / RESULT).is_file():
        say(f"{folder} is trained already; its result is in {RESULT}")
        return Result(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
    run = build_run(settings, folder, fabric, workers=workers, report=report, quiet=quiet, tensorboard=tensorboard)
    fabric.barrier()  # nobody writes before all have looked
    if fabric.is_global_zero:
        _begin(run)
    if run.lacks is not None:
        say(run.lacks)
    if resume(run):
        say(f"going on behind epoch {run.progress.epoch}, step {run.progress.step_of_epoch} of the next one")
    _write_log(run)
    told = run.report

    def report_and_write(line: dict[str, Any], seconds: float) -> None:
        _write_log(run)
        told(line, seconds)

    run.report = report_and_write
    try:
        train(run)
        return _finish(run)
    except (OSError, ValueError) as error:
        if fabric.world_size == 1:
            raise
        raise ProcessError(f"process {fabric.global_rank} of {fabric.world_size}: {error}") from error


def _finish(run: Run) -> Result:
    """Test the selected weights and save them; the result's file comes last, and says that the run is done."""
    last = run.progress.history[-1]
    epoch = load_best(run)
    scores = evaluate(
        run.evaluated,
        run.splits.test,
        run.test_batches,
        run.splits,
        run.fabric,
        activation_maps=run.activation_maps,
    )
    result = Result(
        run.variant,
        run.settings.seed,
        run.rule,
        epoch,
        run.splits.tested_on,
        scores,
        run.progress.history[epoch - 1].get("validation"),
        last["mask_findings"],
        str(run.folder),
    )
    if run.fabric.is_global_zero:
        _save_model(run, scores)
        _write_json(run.folder / RESULT, result._asdict())
    run.fabric.barrier()
    return result


def _save_model(run: Run, scores: dict[str, Any]) -> None:
    try:
        _write_model(run, scores)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"the model could not be saved into {run.folder / MODEL} ({error}); the checkpoints are untouched: make "
            "room, give the same command again, and it is saved without training again"
        ) from error


def _write_model(run: Run, scores: dict[str, Any]) -> None:
    shown = {name: value for name, value in scores.items() if isinstance(value, float)}
    model = run.evaluated
    if isinstance(model, AIM):
        metrics = {f"{run.splits.tested_on} {name.replace('_', ' ')}": value for name, value in shown.items()}
        model.save_pretrained(
            run.folder / MODEL, metrics=metrics, class_names=model.class_names, preprocessing=model.preprocessing
        )
    else:
        save_plain(model, run.folder / MODEL, run.settings.backbone)


def _begin(run: Run) -> None:
    """Write what the run is, resolved, and clear away what a killed one left half written."""
    try:
        checkpoint_folder(run.folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{run.folder} cannot be made ({error}); name another folder for the run") from error
    for folder in (run.folder, checkpoint_folder(run.folder)):
        remove_unfinished(folder)
    preprocessing = run.network.preprocessing
    assert preprocessing is not None
    if not _has_work(run.folder):
        resolved = {
            "variant": run.variant,
            "selection": run.rule,
            "tested_on": run.splits.tested_on,
            "anneal_epochs": run.settings.epochs_to_anneal if run.schedule is not None else None,
            "steps_per_epoch": run.order.steps_per_epoch,
            "images": {
                "train": len(run.splits.train),
                "val": 0 if run.splits.val is None else len(run.splits.val),
                run.splits.tested_on: len(run.splits.test),
            },
            "data": run.splits.fingerprint,
            "preprocessing": preprocessing._asdict(),
            "lacks": run.lacks,
            "processes": run.fabric.world_size,
            "device": str(run.fabric.device),
            "aimwrap": aimwrap.__version__,
            "torch": str(torch.__version__),
        }
        _write_json(run.folder / SETTINGS, {"settings": run.settings.to_json(), "resolved": resolved})


def _check_folder(folder: Path, settings: Settings) -> None:
    files = [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]
    if files:
        raise RunFolderError(f"{files[0]} is a file; name a folder to write the run into")
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(
            not is_unfinished(other) for other in folder.iterdir() if other.name != "checkpoints"
        ):
            raise RunFolderError(
                f"{folder} is not empty and holds no run: name a new folder, or the one of a killed run"
            )
        return
    try:
        before = Settings.from_json(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); name another folder to begin anew") from error
    other = differences(before, settings)
    if other and _has_work(folder):
        listed = "; ".join(f"{name} was {was!r} and is {now!r}" for name, (was, now) in other.items())
        raise RunFolderError(
            f"{folder} holds a run with other settings: {listed}. Give the settings that it was begun with to go on, "
            "or name another folder to begin anew"
        )


def _has_work(folder: Path) -> bool:
    """Whether a run has come so far that going on is worth something: what failed before that may be put right."""
    return bool(checkpoints_in(checkpoint_folder(folder))) or (folder / RESULT).is_file()


def _write_log(run: Run) -> None:
    if run.fabric.is_global_zero:
        lines = [json.dumps(line) for line in run.progress.history]
        with replacing(run.folder / LOG) as path:
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
