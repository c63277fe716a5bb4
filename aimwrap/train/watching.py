"""What a run writes to look at, where it was asked for: numbers and pictures for loggers, masks after each epoch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import torch
from safetensors.torch import save_file
from torch import Tensor

from .._files import read_json, replacing, write_json
from .._text import first_line
from ..analysis.look import Look, look
from ..backbones.pooled import PooledClassifier
from ..data.release import ReleaseDataset
from ..masks.grid import mask_grid
from ..model import AIM
from ..sharing.files import read_weights
from .run import Run
from .settings import LoggerName

MASKS, LOGGERS = "masks", "loggers.json"  # in the folder of a run
SHOWN = 8


def check_loggers(names: Iterable[LoggerName]) -> None:
    """Raise an ImportError if a logger's package is missing, and a ValueError if there is no such logger."""
    for name in names:
        if name not in get_args(LoggerName):
            raise ValueError(f"loggers must be among {', '.join(get_args(LoggerName))}, got {name!r}")
        if find_spec(name) is None:  # csv is Python's own
            raise ImportError(f"--logger {name} needs {name}: pip install {name}")


@contextmanager
def logging(run: Run) -> Iterator[None]:
    """Open a run's loggers, which get what an interrupted run has not logged, and close them at the end."""
    status = "failed"
    try:
        log_epochs(run)
        yield
        status = "success"
    finally:
        for name, logger in run.opened.items():
            try:
                logger.finalize(status)
                if name == "wandb":  # else the next seed would go on in this run
                    logger.experiment.finish(exit_code=int(status == "failed"))
            except Exception as error:  # which would hide the one before, or a result that is there
                warnings.warn(f"--logger {name} was not closed ({first_line(error)})", stacklevel=2)


def log_epochs(run: Run) -> None:
    """Give each logger the epochs that it lacks, with a picture of the model as it is now; in the first process alone.

    A file says how far each logger is, since a run may be killed at any time.
    """
    if not (run.loggers and run.fabric.is_global_zero):
        return
    from ..lightning import log_picture

    path, lines = run.folder / LOGGERS, run.progress.history
    known = read_json(path) if path.is_file() else {}
    if not lines:  # a run whose checkpoints were removed begins again
        known = {name: own for name, own in known.items() if not own["epochs"]}
    picture = _picture(run) if lines and run.progress.step_of_epoch == 0 else None
    for name in run.loggers:
        own = known.setdefault(name, {"run": None, "epochs": 0})
        try:
            logger = run.opened[name] = run.opened.get(name) or _opened(run, name, own)
            for line in lines[own["epochs"] :]:
                numbers = dict(_scalars(line))
                step = int(numbers.pop("step"))
                if name == "mlflow":  # which does not take every name of a group
                    numbers = {quote(key.replace(",", "_"), "/ ").replace("%", "_"): numbers[key] for key in numbers}
                if name == "wandb":  # its own steps must rise, also in a continued run: two for each epoch
                    logger.experiment.log({}, step=2 * line["epoch"], commit=False)
                if picture is not None and line is lines[-1]:
                    log_picture(logger, *picture, step)
                logger.log_metrics(numbers, step)
            logger.save()
            known[name] = {"run": logger.version, "epochs": max(own["epochs"], len(lines))}
            write_json(path, known)
        except Exception as error:  # of the logger's own kinds
            way_out = "correct this, or leave the logger out, and give the same command again to continue"
            raise OSError(f"--logger {name} failed ({first_line(error)}); {way_out}") from error


def _opened(run: Run, name: LoggerName, own: dict[str, Any]) -> Any:
    """A logger of Lightning, which goes on with what it has of the run."""
    from lightning.pytorch import loggers

    logger: Any
    if name == "tensorboard":  # what was logged after these epochs is hidden
        first = (own["epochs"] + 1) * run.order.steps_per_epoch
        logger = loggers.TensorBoardLogger(run.folder, name, "", default_hp_metric=False, purge_step=first)
    elif name == "csv":
        own["epochs"] = 0  # it begins a new file
        logger = loggers.CSVLogger(run.folder, name, "")
    elif name == "wandb":
        project, silent = os.environ.get("WANDB_PROJECT", "aimwrap"), {"silent": True} if run.quiet else {}
        logger = loggers.WandbLogger(str(run.folder), run.folder, id=own["run"], project=project, settings=silent)
    else:
        project, uri = os.environ.get("MLFLOW_EXPERIMENT_NAME", "aimwrap"), import_module(name).get_tracking_uri()
        logger = loggers.MLFlowLogger(project, str(run.folder), uri, run_id=own["run"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Experiment logs directory", UserWarning)
        logger.experiment  # noqa: B018  # so that it fails now, and not after an epoch
    if own["run"] is None:
        logger.log_hyperparams(run.settings.to_json())
    return logger


def write_masks(run: Run, line: Mapping[str, Any]) -> None:
    """Write each stage's masks of some test images, spread evenly, after an epoch, as :func:`kept_masks` reads them."""
    model, shown = run.evaluated, run.splits.test
    if not (run.keep_masks and isinstance(model, AIM) and run.fabric.is_global_zero):
        return
    numbers = spread_evenly(run.keep_masks, len(shown))
    _, seen = _look_at(run, model, shown, numbers)
    masks = {str(stage): mask.byte().cpu().contiguous() for stage, mask in seen.output.masks.items()}
    (run.folder / MASKS).mkdir(exist_ok=True)
    with replacing(run.folder / MASKS / f"epoch-{line['epoch']:04d}.safetensors") as path:
        save_file({**masks, "images": torch.tensor(numbers)}, path)


def spread_evenly(count: int, images: int) -> list[int]:
    """Numbers of so many images of a split, or of all where it has fewer.

    >>> spread_evenly(4, 11)
    [0, 2, 5, 8]
    """
    count = min(count, images)
    return [number * images // count for number in range(count)]


def kept_masks(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Read what a run kept.

    Args:
        folder: of the run.

    Returns:
        By epoch: by stage (N, 1, h, w) uint8, and ``"images"``, (N,) their numbers in the test split. Empty if the run
        kept none.
    """
    files = sorted((folder / MASKS).glob("epoch-*.safetensors"))
    return {int(path.stem.removeprefix("epoch-")): read_weights(path, None) for path in files}


def _scalars(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of nested dicts, by path.

    >>> list(_scalars({"train": {"loss": 0.5}, "tau": (0.5, 0.25), "mask_findings": []}))
    [('train/loss', 0.5), ('tau/0', 0.5), ('tau/1', 0.25)]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            yield f"{above}{name}", value
        elif isinstance(value, list | tuple):  # a list in what was read from a checkpoint
            yield from _scalars({str(number): one for number, one in enumerate(value)}, f"{above}{name}/")


def _picture(run: Run) -> tuple[str, Tensor] | None:
    """Its name, and validation images seen through each mask, or a plain model's activation map; None without one."""
    model, shown = run.evaluated, run.splits.val or run.splits.test
    subject = model if isinstance(model, AIM) else run.activation_maps
    if subject is None:
        return None
    images, seen = _look_at(run, subject, shown, range(min(SHOWN, len(shown))))
    if seen.merged_mask is not None:
        return "masks", mask_grid(images, {**seen.output.masks, "merged": seen.merged_mask}, model.preprocessing)
    heatmaps = seen.heatmap.clamp(min=0)[:, None]
    light = heatmaps / heatmaps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return "activation maps", mask_grid(images, light, model.preprocessing)


def _look_at(
    run: Run, subject: AIM | PooledClassifier, images: ReleaseDataset, numbers: Iterable[int]
) -> tuple[Tensor, Look]:
    """Some images, (N, 3, H, W), and what the model makes of them, in evaluation mode."""
    model = run.evaluated
    shown = torch.stack([images[number].image for number in numbers])
    shown = shown.to(run.fabric.device, next(model.parameters()).dtype)
    model.eval()
    with run.fabric.autocast():
        return shown, look(subject, shown)
