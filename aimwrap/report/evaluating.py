"""One pass over the images: every model runs on every image, and what the report needs is kept."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.release import Record, ReleaseDataset, groups_of
from ..explanation import evaluating
from ..metrics import chance_level
from ..preprocessing import Preprocessing
from ..progress import with_progress
from .cards import Badness, Card, Cards
from .measuring import Masks, Measured, joined, measure
from .packing import packed_contributions, packed_mask
from .subjects import Look, Subject
from .thumbnails import as_url, thumbnail_side
from .views import PreparedBatch, PreparedBatches, PreparedImages


@dataclass(frozen=True)
class Evaluation:
    """What the models did on the images.

    Attributes:
        subjects: the models.
        measured: each one's numbers per image.
        masks: each one's masks.
        grids: (rows, columns) of each one's map.
        labels: (N,).
        groups: (N,), or the labels.
        chance: the object's share of what the first model saw, (N,); NaN where nothing is known of the object.
        cards: the images that the gallery shows, in its order, by index.
        drawn: how many of them are the worst and how many are drawn by lot; None where all are shown.
        to_verify: by preprocessing, images (M, 3, H, W) for :func:`~aimwrap.verify`.
    """

    subjects: tuple[Subject, ...]
    measured: tuple[Measured, ...]
    masks: tuple[Masks, ...]
    grids: tuple[tuple[int, int], ...]
    labels: Tensor
    groups: Tensor
    chance: Tensor
    cards: list[tuple[int, Card]]
    drawn: tuple[int, int] | None
    to_verify: dict[Preprocessing, Tensor]


@torch.no_grad()
def evaluate(
    subjects: tuple[Subject, ...],
    images: ReleaseDataset,
    *,
    limit: int,
    batch_size: int,
    workers: int,
    to_verify: int,
    seed: int,
    progress: bool,
) -> Evaluation:
    """Run the models on all images, and keep numbers of each, cards of some, and pixels of a few.

    Args:
        subjects: the models, the one that is reported on first.
        images: a split of a release; its transform is not used.
        limit: how many images the gallery shows at most.
        batch_size: images per forward pass.
        workers: processes that read images.
        to_verify: how many images' pixels to keep, drawn by lot.
        seed: of what is drawn.
        progress: whether to show a bar.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: if an image is not there.
        ValueError: if an image is damaged, or a model's logits or maps are not finite.
    """
    preprocessings = list(dict.fromkeys(subject.preprocessing for subject in subjects))
    side = thumbnail_side(min(limit, len(images)))
    batches = PreparedBatches(PreparedImages(images, preprocessings, side), batch_size, workers)
    gathering = _Gathering(subjects, images, preprocessings, Cards(len(images), limit, seed), side, to_verify, seed)
    with ExitStack() as modes:
        for subject in subjects:
            modes.enter_context(evaluating(subject.network))
        for batch in with_progress(batches, "evaluating") if progress else batches:
            gathering.add(batch)
    return gathering.found()


class _Gathering:
    """What is kept while the images go by."""

    def __init__(
        self,
        subjects: tuple[Subject, ...],
        images: ReleaseDataset,
        preprocessings: list[Preprocessing],
        cards: Cards,
        side: int,
        to_verify: int,
        seed: int,
    ) -> None:
        self._subjects, self._images, self._preprocessings = subjects, images, preprocessings
        self._cards, self._object_side = cards, max(1, round(0.4 * side))
        self._masks = tuple(Masks(subject) for subject in subjects)
        self._measured: list[list[Measured]] = [[] for _ in subjects]
        self._grids: tuple[tuple[int, int], ...] = ()
        self._chance: list[Tensor] = []
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed + 1))
        self._verified = torch.zeros(len(images), dtype=torch.bool)
        self._verified[order[:to_verify]] = True
        self._pixels: dict[Preprocessing, list[Tensor]] = {s.preprocessing: [] for s in subjects if s.aim is not None}

    def add(self, batch: PreparedBatch) -> None:
        """Run the models on a batch."""
        views = dict(zip(self._preprocessings, batch.views, strict=True))
        looks = [subject.look(views[subject.preprocessing].images) for subject in self._subjects]
        self._grids = tuple((look.contributions.shape[1], look.contributions.shape[2]) for look in looks)
        coarsest = min(rows for rows, _ in self._grids), min(columns for _, columns in self._grids)
        measured = []
        for number, (subject, look) in enumerate(zip(self._subjects, looks, strict=True)):
            measured.append(measure(look, views[subject.preprocessing], batch.labels, coarsest))
            self._measured[number].append(measured[-1])
            self._masks[number].add(look)
        first = batch.views[0]
        self._chance.append(torch.where(first.known, chance_level(first.object_masks), math.nan))
        for preprocessing, kept in self._pixels.items():
            kept.append(views[preprocessing].images[self._verified[batch.indices]])
        badness = _badness(self._subjects, measured)
        for position, index in enumerate(batch.indices.tolist()):
            self._cards.add(index, badness[position], partial(self._card, batch, looks, measured, position))

    def found(self) -> Evaluation:
        """All that was kept."""
        return Evaluation(
            self._subjects,
            tuple(map(joined, self._measured)),
            self._masks,
            self._grids,
            self._images.labels,
            groups_of(self._images),
            torch.cat(self._chance),
            self._cards.shown(),
            self._cards.counts,
            {preprocessing: torch.cat(kept) for preprocessing, kept in self._pixels.items()},
        )

    def _card(self, batch: PreparedBatch, looks: list[Look], measured: list[Measured], position: int) -> Card:
        record = self._images.records[int(batch.indices[position])]
        view = batch.views[0]
        return {
            "id": shown_id(record, self._images.release.root),
            "label": record.label,
            "group": None if self._images.groups is None else int(batch.groups[position]),
            "thumbnail": as_url(batch.jpegs[position]),
            "object": self._object(view.object_masks[position]) if view.known[position] else None,
            "by_model": [
                {**_numbers(numbers, position), **_overlays(look, position)}
                for look, numbers in zip(looks, measured, strict=True)
            ],
        }

    def _object(self, mask: Tensor) -> Card:
        shrink = min(1.0, self._object_side / max(mask.shape))
        grid = [max(1, round(length * shrink)) for length in mask.shape]
        covered = F.interpolate((mask > 0.5).float()[None, None], size=grid, mode="area")[0, 0]
        return {"grid": grid, "bits": packed_mask(covered)}


def shown_id(record: Record, root: Path) -> str:
    """An image's name, which holds no more of this machine's paths than lies below the data set's folder.

    >>> shown_id(Record("/home/me/set/a/1.jpg", Path("/home/me/set/a/1.jpg"), 0, "test"), Path("/home/me/set"))
    'a/1.jpg'
    """
    path = Path(record.id)
    if not path.is_absolute():
        return record.id
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def rounded(value: float) -> float | None:
    """A number with the digits that are shown; None for NaN, which JSON does not know.

    >>> rounded(0.123456), rounded(float("nan"))
    (0.1235, None)
    """
    return None if math.isnan(value) else round(value, 4)


def _badness(subjects: tuple[Subject, ...], measured: list[Measured]) -> list[Badness]:
    """How early each image is shown: by what is lost on the label, or by where two models differ."""
    roles = [subject.role for subject in subjects]
    model = measured[roles.index("model")]
    if "other" not in roles:
        return [(-confidence, 0.0) for confidence in model.true_confidence.tolist()]
    other = measured[roles.index("other")]
    confidence = (model.true_confidence - other.true_confidence).abs()
    pointing = (model.energy_pointing - other.energy_pointing).abs().nan_to_num(0.0)
    return list(zip(confidence.tolist(), pointing.tolist(), strict=True))


def _numbers(measured: Measured, position: int) -> dict[str, Any]:
    pointing = ("energy_pointing", "energy_pointing_matched")
    names = ("confidence", "true_confidence", *pointing, "mask_precision", "mask_recall", "area")
    return {
        "predicted": int(measured.predicted[position]),
        "right": bool(measured.right[position]),
        **{name: rounded(getattr(measured, name)[position].item()) for name in names},
    }


def _overlays(look: Look, position: int) -> dict[str, Any]:
    return {
        "masks": {str(stage): packed_mask(mask[position, 0]) for stage, mask in look.output.masks.items()},
        "merged": None if look.merged_mask is None else packed_mask(look.merged_mask[position, 0]),
        "contributions": packed_contributions(look.contributions[position]),
    }
