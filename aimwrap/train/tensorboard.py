"""Curves, and pictures of where the model looks, for TensorBoard, where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..model import AIM
from ..preprocessing import Preprocessing
from ..resizing import resize_to
from .run import Run

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
