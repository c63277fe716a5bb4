"""The accuracy / area curve: how much of the image a trained model's decision needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import check_logits, check_numbers, check_tau
from .._numerics import predicted_classes
from .._text import table, with_progress
from ..metrics import group_accuracies
from ..metrics.groups import worst
from ..model import AIM
from ..output import Prediction
from ..second_look import SecondLook
from ..taps import Stage
from . import html
from .intervals import wilson_interval
from .readout import evaluating, inside, unwrap

Row = tuple[str, ...]
Right = Callable[[Tensor, Tensor], Tensor]  # from logits (N, K) and labels (N, ...) to (N,) bool
AREAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


class AreaPoint(NamedTuple):
    """What a model reaches with masks of one area.

    Attributes:
        asked: the share of every mask that was opened; None for the masks as the model makes them.
        area: mean area of the merged mask: what share of the positions the decision could use. It is larger than
            ``asked`` where stages open different positions, or where a map is too small for so small a share.
        stage_areas: mean area of each stage's mask.
        accuracy: share of the images that are classified correctly; none whose logits are not finite is.
        low, high: its 95 % confidence interval (Wilson 1927).
        worst_group: accuracy of the group that does worst; None without groups.
    """

    asked: float | None
    area: float
    stage_areas: dict[Stage, float]
    accuracy: float
    low: float
    high: float
    worst_group: float | None


@dataclass(frozen=True)
class AreaCurve:
    """What :func:`area_curve` measured; ``print`` it, or draw it with :func:`aimwrap.plot.plot_area_curves`.

    Attributes:
        points: one per area asked for, from the smallest to the largest.
        own: the model with its own masks.
        images: how many there were.
    """

    points: tuple[AreaPoint, ...]
    own: AreaPoint
    images: int

    def __str__(self) -> str:
        header = "asked", "area", "accuracy", ""
        rows = self._rows(header, "own", lambda p: (f"{p.accuracy:.3f}", f"[{p.low:.3f}, {p.high:.3f}]"))
        return f"{table(rows)}\nof {self.images} images"

    def _repr_html_(self) -> str:
        titles = ("area asked for", "of the merged mask", "accuracy, with 95 % interval")
        header, *rows = self._rows(titles, "the model's own", lambda p: (html.interval(p.accuracy, p.low, p.high),))
        return html.block(html.table(header, rows), html.line(f"Of {self.images} images."))

    def _rows(self, header: Row, own: str, accuracy: Callable[[AreaPoint], Row]) -> list[Row]:
        rows = [header if self.own.worst_group is None else (*header, "worst group")]
        for point in (*self.points, self.own):
            asked = own if point.asked is None else f"{point.asked:.3g}"
            group = () if point.worst_group is None else (f"{point.worst_group:.3f}",)
            rows.append((asked, f"{point.area:.3f}", *accuracy(point), *group))
        return rows


@torch.no_grad()
def area_curve(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    areas: Sequence[float] = AREAS,
    *,
    right: Right | None = None,
) -> AreaCurve:
    """Measure accuracy with masks of exact areas, and with the model's own.

    Each area opens, in every mask, the positions with the highest mask logits (:func:`~aimwrap.budgeted_mask`), as
    ``model.predict(images, area=...)`` does. The backbone and the mask estimators run once per batch, whatever the
    number of areas. All points are of the same images, so they differ by less than their separate intervals
    suggest.

    Args:
        model: a trained :class:`~aimwrap.AIM` or :class:`~aimwrap.SecondLook`, also inside ``torch.compile`` or
            ``DistributedDataParallel``. It runs in evaluation mode, and is left in the mode that it was in. A second
            look runs again at every area; areas are those of its first look's masks.
        batches: a ``DataLoader`` or a list of batches: images (N, C, H, W) as the model takes them, labels (N,), and
            perhaps groups (N,), numbers from 0, such as every pair of label and background. They are moved to the
            model's device.
        areas: shares of every mask to open, each in (0, 1]. 1.0 opens all: what the same features reach without masks.
        right: for labels that are not one class per image: which images count as right, (N,) bool, from logits (N, K)
            and labels (N, ...), both on the CPU, such as ``lambda logits, labels: ((logits > 0) == labels).all(1)``. An
            image whose largest logit is not finite is never right.

    Returns:
        A point per area, by size, and the model's own.

    Raises:
        TypeError: if the model is neither an AIM nor a second look, or an area or a batch is of the wrong type.
        ValueError: if there are no areas or no images, an area is repeated or not in (0, 1], or labels or groups do
            not fit.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> batches = [(torch.randn(8, 3, 64, 64), torch.arange(8))]
        >>> curve = area_curve(model, batches, areas=[0.25, 1.0])
        >>> [(point.asked, point.stage_areas) for point in curve.points]
        [(0.25, {2: 0.25, 3: 0.25}), (1.0, {2: 1.0, 3: 1.0})]
    """
    second = inside(model, SecondLook)
    aim = unwrap(model) if second is None else second.first
    checked = check_tau(areas, "areas")
    if not isinstance(checked, tuple):
        raise TypeError(f"areas must be a list of floats, got {areas!r}; write areas=[{areas!r}]")
    if len(set(checked)) < len(checked):
        raise ValueError(f"areas must not repeat, got {list(areas)}")
    asked: list[float | None] = [*sorted(checked), None]
    tallies = [_Tally() for _ in asked]
    num_classes = max(2, aim.num_classes) if right is None else None
    seen = 0
    groups: list[Tensor] = []
    with evaluating(aim if second is None else second):
        for batch in with_progress(batches, "areas"):
            several = "; where images have several classes, right= says which predictions are right"
            images, labels, *group = check_batch(batch, bool(groups) if seen else None, num_classes, several)
            images = images.to(next(aim.parameters()).device)
            maps = aim.forward_backbone(images)
            scores = aim._scores(maps)  # once for all areas
            if not seen:
                with torch.enable_grad():
                    check_logits(aim._decided(maps, scores, None).logits, "model")
            for area, tally in zip(asked, tallies, strict=True):
                found = aim._decided(maps, scores, None if area is None else [area] * len(scores))
                tally.add(aim, found if second is None else second._decided(images, found.masks), labels.cpu(), right)
            groups += [numbers.cpu() for numbers in group]
            seen += len(images)
    if not seen:
        raise ValueError("batches must hold at least one image, got none; a generator can be read only once")
    group_of = torch.cat(groups) if groups else None
    points = [tally.point(area, group_of) for area, tally in zip(asked, tallies, strict=True)]
    return AreaCurve(tuple(points[:-1]), points[-1], seen)


class _Tally:
    """What is kept of the images at one area."""

    def __init__(self) -> None:
        self.right: list[Tensor] = []
        self.merged: list[Tensor] = []
        self.opened: dict[Stage, list[Tensor]] = {}

    def add(self, aim: AIM, prediction: Prediction, labels: Tensor, right: Right | None) -> None:
        masks, predicted = list(prediction.masks.values()), predicted_classes(prediction.logits).cpu()
        found = predicted == labels if right is None else right(prediction.logits.cpu(), labels)
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != predicted.shape:
            came = f"{found.dtype} of {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"right must return a bool tensor of shape {tuple(predicted.shape)}, got {came}")
        self.right.append(found & (predicted >= 0))
        self.merged.append(_area_of(aim.top_down.fuse(masks, masks)[1]))
        for stage, mask in prediction.masks.items():
            self.opened.setdefault(stage, []).append(_area_of(mask))

    def point(self, asked: float | None, groups: Tensor | None) -> AreaPoint:
        right = torch.cat(self.right)
        area = torch.cat(self.merged).mean().item()
        by_stage = {stage: torch.cat(areas).mean().item() for stage, areas in self.opened.items()}
        lowest = None
        if groups is not None:
            lowest = worst(group_accuracies(right, torch.ones_like(right), groups, int(groups.max()) + 1)).item()
        correct, images = int(right.sum()), len(right)
        return AreaPoint(asked, area, by_stage, correct / images, *wilson_interval(correct, images), lowest)


def _area_of(mask: Tensor) -> Tensor:
    """Share of each image's positions, (N,); half precision could not count them."""
    return mask.cpu().double().mean((1, 2, 3))


def check_batch(batch: Any, grouped: bool | None, num_classes: int | None, several: str) -> Sequence[Tensor]:
    """Images, labels and perhaps groups, of which all batches have some or none.

    Labels are class numbers, or anything where ``num_classes`` is None. ``several`` is what to do with several classes.
    """
    expected = "batches must yield (images, labels) or (images, labels, groups), all tensors"
    if not isinstance(batch, list | tuple) or not all(isinstance(part, Tensor) for part in batch):
        kinds = [type(part).__name__ for part in batch] if isinstance(batch, list | tuple) else type(batch).__name__
        raise TypeError(f"{expected}, got {kinds}; for one batch write [(images, labels)]")
    if len(batch) not in (2, 3):
        raise ValueError(f"{expected}, got {len(batch)} of them; drop what is not needed with a collate_fn")
    if grouped is not None and grouped != (len(batch) == 3):
        raise ValueError(f"{expected}, got groups in some batches and none in others")
    for name, values in zip(("labels", "groups"), batch[1:], strict=False):
        if name == "labels" and num_classes is None and values.shape[:1] == batch[0].shape[:1]:
            continue
        if values.shape != batch[0].shape[:1] or values.is_floating_point() or values.dtype == torch.bool:
            way_out = f"one_hot.argmax(dim=1) and {name}.long() make them{several if name == 'labels' else ''}"
            if values.shape[1:] == (1,):  # whose argmax is always 0
                way_out = f"{name}[:, 0].long() makes them"
            raise ValueError(
                f"{name} must be whole numbers of shape ({len(batch[0])},), got {values.dtype} of "
                f"{tuple(values.shape)}; {way_out}"
            )
    if num_classes is not None:
        check_numbers(batch[1], num_classes, "labels", "; leave images without a label out")
    if len(batch) == 3:
        check_numbers(batch[2], None, "groups", ": for instance 2 * labels + places")
    return batch
