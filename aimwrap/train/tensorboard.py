"""Curves, and images of where the model looks, for TensorBoard, where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..analysis.look import look
from ..model import AIM
from ..preprocessing import Preprocessing
from ..resizing import resize_to
from .run import Run

SHOWN = 8
SHADE = 0.25  # of the brightness that positions outside the merged mask keep


def check_tensorboard() -> None:
    """Say at the beginning that TensorBoard is missing, and not after the first epoch.

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
        run: after the epoch.
        line: the epoch's, of the log.
    """
    if not (run.tensorboard and run.fabric.is_global_zero):
        return
    from torch.utils.tensorboard import SummaryWriter

    # What a run wrote that was interrupted after its last checkpoint is hidden.
    writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=line["epoch"])
    for name, value in _scalars(line):
        writer.add_scalar(name, value, line["epoch"])
    lit = _lit(run)
    if lit is not None:
        name = "masks" if isinstance(run.evaluated, AIM) else "activation maps"
        writer.add_images(name, lit, line["epoch"])
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


def _lit(run: Run) -> Tensor | None:
    """(N, 3, H, W) in [0, 1]: the first images of the validation split, dark where the merged mask is closed.

    Of a plain model, dark where nothing speaks for the predicted class; None where it has no activation map.
    """
    model = run.evaluated
    subject = model if isinstance(model, AIM) else run.activation_maps
    if subject is None:
        return None
    shown = run.splits.val or run.splits.test
    images = torch.stack([shown[number].image for number in range(min(SHOWN, len(shown)))])
    images = images.to(run.fabric.device, next(model.parameters()).dtype)
    model.eval()
    with run.fabric.autocast():
        seen = look(subject, images)
    light = seen.merged_mask
    if light is None:
        heatmaps = seen.heatmap.clamp(min=0)[:, None]
        light = heatmaps / heatmaps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    assert model.preprocessing is not None
    return seen_through(images, light, model.preprocessing).cpu()


def seen_through(images: Tensor, masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images in their own colours, darkened where the mask is closed.

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
