"""What a run writes to look at, where it was asked for: curves and images for TensorBoard, masks after each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .._files import replacing
from ..analysis.look import Look, look
from ..backbones.pooled import PooledClassifier
from ..data.release import ReleaseDataset
from ..masks.grid import seen_through
from ..model import AIM
from ..sharing.files import read_weights
from .run import Run

MASKS = "masks"  # in the folder of a run
SHOWN = 8


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

    if run.writer is None:  # one file for all epochs, since files of one second may be read in another order
        # What a run wrote that was interrupted after its last checkpoint is hidden.
        run.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=line["epoch"])
    writer = run.writer
    for name, value in _scalars(line):
        writer.add_scalar(name, value, line["epoch"])
    lit = _lit(run)
    if lit is not None:
        name = "masks" if isinstance(run.evaluated, AIM) else "activation maps"
        writer.add_images(name, lit, line["epoch"])
    writer.flush()


def write_masks(run: Run, line: Mapping[str, Any]) -> None:
    """Write each stage's masks of some test images after an epoch, as :func:`kept_masks` reads them.

    Args:
        run: after the epoch; it says how many images. They are spread evenly over the split.
        line: the epoch's, of the log.
    """
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
    images, seen = _look_at(run, subject, shown, range(min(SHOWN, len(shown))))
    light = seen.merged_mask
    if light is None:
        heatmaps = seen.heatmap.clamp(min=0)[:, None]
        light = heatmaps / heatmaps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    assert model.preprocessing is not None
    return seen_through(images, light, model.preprocessing).cpu()


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
