"""Means over seeds, with intervals by bootstrap over the test cut-outs of each seed.

Images of one animal are not independent, so animals are drawn again and not images: within each seed and label,
cut-outs are drawn with replacement, every measure is computed again, and seeds are averaged. Two variants are compared
on the same draws. The intervals are about other cut-outs. They are too narrow, because seeds are drawn independently
although they share cut-outs. They say nothing about another training; the deviation over the seeds shows that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

DRAWS = 2000


class Estimate(NamedTuple):
    """A mean over seeds, its 95 % interval over cut-outs, and each seed's value."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]


def estimate(runs: Sequence[dict[str, Any]], measure: str) -> Estimate:
    """Runs of one variant, one per seed."""
    return _summary([_draws_of(run, measure) for run in runs])


def difference(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], measure: str) -> Estimate:
    """``runs`` minus ``others``, paired by seed and by draw."""
    partner = {run["config"]["seed"]: run for run in others}
    return _summary([_draws_of(run, measure) - _draws_of(partner[run["config"]["seed"]], measure) for run in runs])


def _summary(draws: Sequence[np.ndarray]) -> Estimate:
    """Index 0 of each seed's draws is the value itself, the others are the bootstrap's."""
    together = np.mean(draws, axis=0)
    low, high = np.percentile(together[1:], [2.5, 97.5])
    return Estimate(float(together[0]), float(low), float(high), tuple(float(each[0]) for each in draws))


def _draws_of(run: dict[str, Any], measure: str) -> np.ndarray:
    """The measure, then its value on each draw of cut-outs, (1 + DRAWS,)."""
    images = {name: np.asarray(values) for name, values in run["images"].items()}
    weights = _weights(images["cutout"], images["group"], run["config"]["seed"])
    if measure == "worst_group":
        right = _grouped(weights, images["right"], images["group"])
        return right.min(axis=0)
    values = images["right" if measure == "accuracy" else measure].astype(float)
    defined = ~np.isnan(values)  # null in the results: without positive values a heatmap has no pointing
    return weights[:, defined] @ values[defined] / weights[:, defined].sum(axis=1)


def _grouped(weights: np.ndarray, right: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Accuracy of each group on each draw, (groups, draws)."""
    return np.stack([weights[:, groups == g] @ right[groups == g] / weights[:, groups == g].sum(1) for g in range(4)])


def _weights(cutouts: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """How often each image counts: once in row 0, as often as its cut-out was drawn in the others."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + DRAWS, len(cutouts)))
    for label in (0, 1):
        of_label = groups // 2 == label
        animals = np.unique(cutouts[of_label])
        drawn = rng.multinomial(len(animals), np.full(len(animals), 1 / len(animals)), size=DRAWS)
        weights[1:, of_label] = drawn[:, np.searchsorted(animals, cutouts[of_label])]
    return weights


def by_setting(
    records: Sequence[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]
) -> dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]]:
    """Runs that differ by nothing but the seed, in the order of the records."""
    settings: dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]] = {}
    for record in records:
        if wanted(record["config"]):
            key = tuple((name, str(value)) for name, value in record["config"].items() if name != "seed")
            settings.setdefault(key, []).append(record)
    return {key: sorted(runs, key=lambda run: run["config"]["seed"]) for key, runs in settings.items()}
