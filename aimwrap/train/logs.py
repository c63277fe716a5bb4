"""What a training says to people: a line per epoch, and its results as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..model import AIM
from ..preprocessing import Preprocessing
from ..resizing import resize_to
from .evaluation import EXPLAINED
from .run import Run
from .training import Result

_SHOWN = (
    *("average", "worst_group", "weighted_average"),
    *("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall"),
)
_WHAT = {
    "average": "accuracy",
    "weighted_average": "accuracy, weighted by training groups",
    "energy_pointing_matched": "energy pointing, matched grid",
}


def format_epoch(line: Mapping[str, Any], seconds: float) -> str:
    """One epoch in a line.

    >>> format_epoch({"epoch": 3, "tau": (0.5, 0.25), "train": {"loss": 1.25, "average": 0.5}}, 12.0)
    'epoch 3: tau 0.5 0.25, train loss 1.250, accuracy 0.500; 12 s'
    """
    parts = []
    if "tau" in line:
        tau = line["tau"] if isinstance(line["tau"], list | tuple) else [line["tau"]]
        parts.append(f"tau {' '.join(f'{value:.3g}' for value in dict.fromkeys(tau))}")
    parts.append(f"train loss {line['train']['loss']:.3f}, accuracy {line['train']['average']:.3f}")
    validation = line.get("validation")
    if validation is not None:
        areas = "".join(f", area of stage {stage} {area:.3f}" for stage, area in validation.get("area", {}).items())
        parts.append(
            f"validation {_text(validation['average'])}, worst group {_text(validation['worst_group'])}{areas}"
        )
    return f"epoch {line['epoch']}: {', '.join(parts)}; {seconds:.0f} s"


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The mean and the standard deviation of each score over the seeds, for ``summary.json``.

    Args:
        results: of runs that differ in their seed alone.

    Returns:
        By score, with the seeds and what was trained; a deviation of one seed is None.
    """
    scores = {}
    for name, values in _columns(results).items():
        defined = [value for value in values if value is not None]
        scores[name] = {
            "mean": statistics.fmean(defined) if defined else None,
            "deviation": statistics.stdev(defined) if len(defined) > 1 else None,
            "seeds": len(defined),
        }
    first = results[0]
    return {
        "variant": first.variant,
        "seeds": [result.seed for result in results],
        "selection": first.selection,
        "epochs": [result.epoch for result in results],
        "tested_on": first.tested_on,
        "scores": scores,
    }


def format_results(results: Sequence[Result]) -> str:
    """All seeds' scores, mean ± deviation, and the rule by which the epochs were selected."""
    found = summary(results)
    first = results[0]
    lines = [f"{first.variant}, on the split {first.tested_on}, seed{'s' if len(results) > 1 else ''} "]
    lines[0] += ", ".join(str(seed) for seed in found["seeds"])
    width = max(len(_name(name)) for name in found["scores"])
    for name, score in found["scores"].items():
        mean = _text(score["mean"])
        deviation = "" if score["deviation"] is None else f" ± {score['deviation']:.3f}"
        chance = first.scores.get("chance") if name == "energy_pointing" else None
        beside = "" if chance is None else f" (chance {chance:.3f})"
        lines.append(f"  {_name(name):<{width}}  {mean}{deviation}{beside}")
    rule = EXPLAINED[first.selection]  # type: ignore[index]  # written by a run, as one of these
    lines.append(f"Selected by {first.selection}: {rule}. Epoch {', '.join(map(str, found['epochs']))}.")
    if first.tested_on == "val" and first.selection != "last":
        lines.append("There is no test split, so these are the images that the epoch was selected on: they flatter.")
    findings = {finding for result in results for finding in result.mask_findings}
    lines += [f"Masks at the end: {finding}" for finding in sorted(findings)]
    return "\n".join(lines)


def _columns(results: Sequence[Result]) -> dict[str, list[float | None]]:
    columns = {name: [r.scores[name] for r in results] for name in _SHOWN if name in results[0].scores}
    for stage in results[0].scores.get("area", {}):
        columns[f"area of stage {stage}"] = [result.scores["area"][stage] for result in results]
    return columns


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _name(score: str) -> str:
    return _WHAT.get(score, score.replace("_", " "))


PICTURES = 8
SHADE = 0.25  # of the brightness that positions outside the merged mask keep


def check_tensorboard() -> None:
    """Say at the beginning that TensorBoard is missing, and not behind the first epoch.

    Raises:
        ImportError: naming the extra.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401  # only asked whether it is there
    except ImportError as error:
        raise ImportError('--tensorboard needs tensorboard: pip install "aimwrap[train]"') from error


def log_to_tensorboard(run: Run, line: Mapping[str, Any]) -> None:
    """Add an epoch's scores, and what the merged mask leaves of the first images; in the first process alone.

    A plain model's images are as bright as the predicted class's activation map, where it has one.

    Args:
        run: behind the epoch.
        line: the epoch's, of the log.
    """
    if not (run.tensorboard and run.fabric.is_global_zero):
        return
    from torch.utils.tensorboard import SummaryWriter

    # What a run wrote that was killed behind its last checkpoint is hidden.
    writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=line["epoch"])
    for name, value in _scalars(line):
        writer.add_scalar(name, value, line["epoch"])
    if isinstance(run.evaluated, AIM):
        writer.add_images("masks", _masked(run, run.evaluated), line["epoch"])
    elif run.activation_maps is not None:
        writer.add_images("activation maps", _lit(run, run.evaluated, run.activation_maps), line["epoch"])
    writer.close()


def _scalars(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of nested dicts, by path.

    >>> list(_scalars({"train": {"loss": 0.5}, "tau": (0.5, 0.25), "mask_findings": []}))
    [('train/loss', 0.5), ('tau/0', 0.5), ('tau/1', 0.25)]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            yield f"{above}{name}", float(value)
        elif isinstance(value, tuple):
            yield from _scalars({str(number): one for number, one in enumerate(value)}, f"{above}{name}/")


@torch.no_grad()
def _masked(run: Run, model: AIM) -> Tensor:
    """(N, 3, H, W) in [0, 1]: the first images of the validation split, dark where the merged mask is closed."""
    images, preprocessing = _first_images(run, model)
    with run.fabric.autocast():
        merged = model.forward_masks(model.forward_backbone(images)).merged_mask.float()
    return seen_through(images, merged, preprocessing).cpu()


@torch.no_grad()
def _lit(run: Run, model: PlainClassifier, activation_maps: PooledClassifier) -> Tensor:
    """(N, 3, H, W) in [0, 1]: the same images, dark where nothing speaks for the predicted class."""
    images, preprocessing = _first_images(run, model)
    with run.fabric.autocast():
        heatmaps = activation_maps.maps(images, model(images).logits.argmax(1)).float().clamp(min=0)[:, None]
    highest = heatmaps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return seen_through(images, heatmaps / highest, preprocessing).cpu()


def _first_images(run: Run, model: AIM | PlainClassifier) -> tuple[Tensor, Preprocessing]:
    """Images of the validation split as the model takes them, which is put into evaluation mode."""
    shown = run.splits.val or run.splits.test
    images = torch.stack([shown[number].image for number in range(min(PICTURES, len(shown)))])
    assert model.preprocessing is not None
    model.eval()
    return images.to(run.fabric.device, next(model.parameters()).dtype), model.preprocessing


def seen_through(images: Tensor, masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images as people see them, darkened where the mask is closed.

    Args:
        images: (N, 3, H, W), normalised.
        masks: (N, 1, h, w), from 0 to 1.
        preprocessing: how they were normalised.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    mean, std = (images.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    shown = (images * std + mean).clamp(0, 1)
    return shown * (SHADE + (1 - SHADE) * resize_to(masks, images))
