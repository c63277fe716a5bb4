"""The metrics over a whole data set, as torchmetrics' ``Metric``: right for any batches and any number of processes.

Scores per image are kept, not means per batch, and gathered from all processes. Needs the extra ``metrics``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .._checks import check_choices, check_positive
from .groups import count_by_group, train_shares, weighted_average, worst
from .masks import mask_iou, mask_precision, mask_recall
from .pointing import Interpolation, Negatives, area_corrected, chance_level, energy_pointing_game, pointing_game

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError('the Metric classes need torchmetrics: pip install "aimwrap[metrics]"') from error


_SET_ONCE = {"settings", "negatives", "threshold", "interpolation", "resolution", "tolerance", "num_groups"}
_SET_ONCE |= {"group_names", "empty", "empty_object", "zero_energy", "constant_map"}


class _PerImage(Metric):
    """What the metrics have in common; those that keep a list of values per image give its names as ``kept``."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, *kept: str, settings: Sequence[object] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A MetricCollection joins metrics of equal states, so what update() goes by is one of them.
        given = [float(value) if isinstance(value, Real) else value for value in settings]
        digest = hashlib.sha256(f"{type(self)}{given}".encode()).digest()
        self.add_state("settings", torch.tensor(list(digest)), dist_reduce_fx="max")
        for name in kept:
            self.add_state(name, [], dist_reduce_fx="cat")

    def __setattr__(self, name: str, value: Any) -> None:
        own = getattr(self, name, value) if name in _SET_ONCE else value
        if own is not value and name != "settings":
            way_out = f"build another, {type(self).__name__}({name}={value!r})"
            raise AttributeError(f"{name} must stay as it is, since states and results go by it; {way_out}")
        if own is not value and own.tolist() != value.tolist():  # loaded, merged or gathered
            raise ValueError("these states are of a metric with other arguments; build all of them with the same")
        super().__setattr__(name, value)

    def joined(self, name: str) -> Tensor:
        """A list as one tensor: torchmetrics has joined it already after gathering from several processes."""
        state: list[Tensor] | Tensor = getattr(self, name)
        if isinstance(state, Tensor):
            return state
        return torch.cat(state) if state else torch.zeros(0)


class EnergyPointingGame(_PerImage):
    """:func:`~aimwrap.metrics.energy_pointing_game` over a data set, with its chance level.

    ``compute()`` returns a dict, ready for a logger:

    - ``energy_pointing``: mean over the images whose score is defined.
    - ``chance``: mean chance level of the same images.
    - ``area_corrected``: mean of their area-corrected scores, see :func:`~aimwrap.metrics.area_corrected`; images that
      the object fills are left out.
    - ``zero_energy``: how many images had no energy. By default their score is undefined.
    - ``empty_object``: how many images had no object, with or without energy. By default their score is undefined too.

    :meth:`per_image` returns each image's values.

    Arguments and errors as for :func:`~aimwrap.metrics.energy_pointing_game`: with 0 for ``empty_object`` or
    ``zero_energy`` such an image counts as a miss in the means, with NaN it is left out. Other keywords, such as
    ``compute_on_cpu``, are those of ``torchmetrics.Metric``.

    >>> metric = EnergyPointingGame()
    >>> metric.update(torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]]), torch.tensor([[[1, 0]], [[1, 0]]]))
    >>> metric.update(torch.tensor([[[-1.0, 0.0]]]), torch.tensor([[[0, 1]]]))  # no energy: left out
    >>> for name, value in metric.compute().items():
    ...     print(f"{name:16} {value:g}")
    energy_pointing  0.375
    chance           0.5
    area_corrected   -0.25
    zero_energy      1
    empty_object     0
    """

    scores: list[Tensor]
    chances: list[Tensor]

    def __init__(
        self,
        *,
        negatives: Negatives = "clamp",
        threshold: float | None = 0.5,
        empty_object: float = math.nan,
        zero_energy: float = math.nan,
        resolution: tuple[int, int] | None = None,
        interpolation: Interpolation = "bilinear",
        **kwargs: Any,
    ) -> None:
        # NaN in scores means no energy where the chance level is above 0, and no object where it is 0.
        settings = negatives, threshold, interpolation, *(resolution or ())
        super().__init__("scores", "chances", settings=settings, **kwargs)
        check_choices(negatives=(negatives, Negatives), interpolation=(interpolation, Interpolation))
        self.negatives, self.threshold, self.resolution = negatives, threshold, resolution
        self.empty_object, self.zero_energy, self.interpolation = empty_object, zero_energy, interpolation

    def update(self, attribution: Tensor, object_mask: Tensor) -> None:
        """Score a batch: (N, h, w) attributions and (N, H, W) or (N, 1, H, W) object masks."""
        scores = energy_pointing_game(
            attribution,
            object_mask,
            negatives=self.negatives,
            threshold=self.threshold,
            resolution=self.resolution,
            interpolation=self.interpolation,
        )
        self.scores.append(scores)
        self.chances.append(chance_level(object_mask, threshold=self.threshold))

    def compute(self) -> dict[str, Tensor]:
        """Return the means and the counts, named as above, each a scalar."""
        values = self.per_image()
        scores, chance = values["energy_pointing"], values["chance"]
        no_object = chance == 0
        return {
            "energy_pointing": scores.nanmean(),
            "chance": chance[~scores.isnan()].mean(),
            "area_corrected": values["area_corrected"].nanmean(),
            "zero_energy": (self.joined("scores").isnan() & ~no_object).sum(),
            "empty_object": no_object.sum(),
        }

    def per_image(self) -> dict[str, Tensor]:
        """Each image's ``energy_pointing``, ``chance`` and ``area_corrected``, (N,) each, in the order of the updates.

        Of this process's images; in ``with metric.sync_context():`` those of all processes, one after the other.
        """
        scores, chance = self.joined("scores"), self.joined("chances")
        scores = torch.where(scores.isnan(), self.zero_energy, scores)
        scores = torch.where(chance == 0, self.empty_object, scores)
        return {"energy_pointing": scores, "chance": chance, "area_corrected": area_corrected(scores, chance)}


class PointingGame(_PerImage):
    """:func:`~aimwrap.metrics.pointing_game` over a data set.

    ``compute()`` returns a dict, ready for a logger:

    - ``pointing``: share of hits among the images whose score is defined.
    - ``constant_map``: how many images had a map of equal values. By default their score is undefined.
    - ``empty_object``: how many images had no object, whatever the map. By default their score is undefined too.

    :meth:`per_image` returns each image's score.

    Arguments and errors as for :func:`~aimwrap.metrics.pointing_game`: with 0 for ``empty_object`` or ``constant_map``
    such an image counts as a miss, with NaN it is left out. Other keywords are those of ``torchmetrics.Metric``.

    >>> metric = PointingGame(tolerance=0)
    >>> metric.update(torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]]), torch.tensor([[[1, 0]], [[1, 0]]]))
    >>> metric.compute()
    {'pointing': tensor(0.5000), 'constant_map': tensor(0), 'empty_object': tensor(0)}
    """

    hits: list[Tensor]  # NaN: a constant map where the object is not empty
    no_object: list[Tensor]

    def __init__(
        self,
        *,
        tolerance: float = 15,
        threshold: float = 0.5,
        empty_object: float = math.nan,
        constant_map: float = math.nan,
        interpolation: Interpolation = "bilinear",
        **kwargs: Any,
    ) -> None:
        super().__init__("hits", "no_object", settings=(tolerance, threshold, interpolation), **kwargs)
        check_choices(interpolation=(interpolation, Interpolation))
        self.tolerance, self.threshold, self.interpolation = tolerance, threshold, interpolation
        self.empty_object, self.constant_map = empty_object, constant_map

    def update(self, attribution: Tensor, object_mask: Tensor) -> None:
        """Score a batch: (N, h, w) attributions and (N, H, W) or (N, 1, H, W) object masks."""
        hits = pointing_game(
            attribution,
            object_mask,
            tolerance=self.tolerance,
            threshold=self.threshold,
            interpolation=self.interpolation,
        )
        self.hits.append(hits)
        self.no_object.append((chance_level(object_mask, threshold=self.threshold) == 0).float())

    def compute(self) -> dict[str, Tensor]:
        """Return the share of hits and the counts, named as above, each a scalar."""
        no_object = self.joined("no_object") > 0
        return {
            "pointing": self.per_image().nanmean(),
            "constant_map": (self.joined("hits").isnan() & ~no_object).sum(),
            "empty_object": no_object.sum(),
        }

    def per_image(self) -> Tensor:
        """Each image's score, (N,), of the images as for :meth:`EnergyPointingGame.per_image`."""
        hits = self.joined("hits")
        hits = torch.where(hits.isnan(), self.constant_map, hits)
        return torch.where(self.joined("no_object") > 0, self.empty_object, hits)


class MaskOverlap(_PerImage):
    """Precision, recall and IoU of binary masks over a data set.

    ``compute()`` returns a dict of ``precision``, ``recall`` and ``iou``, ready for a logger: each the mean over the
    images where it is defined, see :func:`~aimwrap.metrics.mask_precision`, :func:`~aimwrap.metrics.mask_recall` and
    :func:`~aimwrap.metrics.mask_iou`; and of ``empty_mask`` and ``empty_object``, how many images had one.
    :meth:`per_image` returns each image's values.

    Args:
        threshold: a position belongs to the object where the object mask is above it; None for soft objects.
        empty: the score where one is undefined; 0 counts it as a miss, NaN leaves it out of that mean.
        **kwargs: of ``torchmetrics.Metric``, such as ``compute_on_cpu``.

    Raises:
        ValueError: in ``update``, as :func:`~aimwrap.metrics.mask_precision`.

    >>> metric = MaskOverlap()
    >>> metric.update(torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]], [[1, 1, 1, 1]]]))
    >>> for name, value in metric.compute().items():
    ...     print(f"{name:13} {value:.3f}")
    precision     0.500
    recall        0.167
    iou           0.125
    empty_mask    1.000
    empty_object  0.000
    """

    precision: list[Tensor]
    recall: list[Tensor]
    iou: list[Tensor]

    def __init__(self, *, threshold: float | None = 0.5, empty: float = math.nan, **kwargs: Any) -> None:
        # NaN means undefined: precision for lack of a mask, recall for lack of an object.
        super().__init__("precision", "recall", "iou", settings=(threshold,), **kwargs)
        self.threshold, self.empty = threshold, empty

    def update(self, mask: Tensor, object_mask: Tensor) -> None:
        """Score a batch: (N, 1, h, w) or (N, h, w) binary masks and (N, H, W) or (N, 1, H, W) object masks."""
        scores = [f(mask, object_mask, threshold=self.threshold) for f in (mask_precision, mask_recall, mask_iou)]
        for state, values in zip((self.precision, self.recall, self.iou), scores, strict=True):
            state.append(values)

    def compute(self) -> dict[str, Tensor]:
        """Return the means and the counts, named as above, each a scalar."""
        means = {name: values.nanmean() for name, values in self.per_image().items()}
        empty_mask, empty_object = (self.joined(name).isnan().sum() for name in ("precision", "recall"))
        return {**means, "empty_mask": empty_mask, "empty_object": empty_object}

    def per_image(self) -> dict[str, Tensor]:
        """Each image's ``precision``, ``recall`` and ``iou``, (N,) each, as :meth:`EnergyPointingGame.per_image`."""
        joined = {name: self.joined(name) for name in ("precision", "recall", "iou")}
        return {name: torch.where(values.isnan(), self.empty, values) for name, values in joined.items()}


class GroupAccuracy(_PerImage):
    """Accuracy per group, of the worst group, and on average, over a data set.

    ``compute()`` returns a dict, ready for a logger:

    - ``group_0``, ``group_1``, ... or the names given: :func:`~aimwrap.metrics.group_accuracies`.
    - ``worst_group``: :func:`~aimwrap.metrics.worst_group_accuracy`.
    - ``average``: :func:`~aimwrap.metrics.average_accuracy`, each image counting once.
    - ``weighted_average``, where ``train_counts`` are given: :func:`~aimwrap.metrics.weighted_average_accuracy`.

    Args:
        num_groups: how many groups there are.
        group_names: what to call them in the dict, in their order.
        train_counts: images of each group in the training set, or their shares.
        **kwargs: of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Raises:
        ValueError: if there are not as many names or counts as groups, or a name is taken; in ``update``, as
            :func:`~aimwrap.metrics.group_accuracies`.

    >>> metric = GroupAccuracy(num_groups=2, train_counts=[75, 25])
    >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]))
    >>> for name, value in metric.compute().items():
    ...     print(f"{name:16} {value:.3f}")
    group_0          1.000
    group_1          0.500
    worst_group      0.500
    average          0.667
    weighted_average 0.875
    """

    correct: Tensor
    images: Tensor
    shares: Tensor | None

    def __init__(
        self,
        num_groups: int,
        *,
        group_names: Sequence[str] | None = None,
        train_counts: Sequence[float] | Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=(num_groups,), **kwargs)
        check_positive(Integral, num_groups=num_groups)
        self.num_groups = num_groups
        self.group_names = _checked_names(group_names, num_groups)
        shares = None if train_counts is None else train_shares(train_counts, num_groups)
        self.register_buffer("shares", shares, persistent=False)
        self.add_state("correct", torch.zeros(num_groups, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(num_groups, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Count a batch: (N,) predicted classes or (N, K) logits, (N,) labels and (N,) groups."""
        correct, images = count_by_group(predictions, labels, groups, self.num_groups)
        self.correct = self.correct.long() + correct  # set_dtype() changes it, and half precision counts to 2,048
        self.images = self.images.long() + images

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracies, named as above, each a scalar."""
        accuracies = self.correct / self.images
        named = dict(zip(self.group_names, accuracies.unbind(), strict=True))
        named["worst_group"] = worst(accuracies)
        named["average"] = self.correct.sum() / self.images.sum()
        if self.shares is not None:
            named["weighted_average"] = weighted_average(accuracies, self.shares)
        return named


def _checked_names(names: Sequence[str] | None, num_groups: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"group_{group}" for group in range(num_groups))
    taken = {"worst_group", "average", "weighted_average"}
    if len(set(names)) != num_groups or len(names) != num_groups or taken & set(names):
        raise ValueError(
            f"group_names must be {num_groups} different names, none of them {', '.join(sorted(taken))}, got "
            f"{list(names)}."
        )
    return tuple(names)
