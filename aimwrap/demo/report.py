"""The demo's scores, its tables in text, and the words that go with them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..metrics import energy_pointing_game, worst_group_accuracy
from .training import Outcome, Settings, Split

NOTES = """\
worst group     accuracy on the worst of the four pairs of digit and photograph; the pairs are equally large in the test
pointing        energy pointing game: share of the heatmap's positive energy on the digit (chance: the digit's area)
  at 32 px      the same with every map averaged down to the plain network's grid, so that no map gains by being finer
active area     share of positions that the decision could use, in evaluation
seconds         training, with the features that it needed
"Plain" moves its backbone, the frozen rows do not: compare AIM with the linear probe and with its own control, whose
masks are held open, to see what the masks do, and with plain to see what one would get without AIM. BatchNorm keeps its
ImageNet statistics in all rows. A heatmap without positive evidence counts as pointing 0."""


class Scores(NamedTuple):
    """What the table shows of one variant with one seed; all but ``seconds`` are shares from 0 to 1."""

    accuracy: float
    worst_group: float
    pointing: float
    pointing_matched: float
    active_area: float
    seconds: float


class Run(NamedTuple):
    """One variant's scores with one tie and seed, and the chance level of pointing in that test set."""

    tie: float
    seed: int
    variant: str
    scores: Scores
    chance: float


def pointing_per_image(heatmap: Tensor, object_masks: Tensor) -> Tensor:
    """Energy pointing of each image, 0 for a heatmap without positive evidence: (N, h, w) and (N, 1, H, W) to (N,)."""
    return energy_pointing_game(heatmap, object_masks, zero_energy=0.0)


def score(outcome: Outcome, test: Split) -> Scores:
    """Measure a variant on the test set."""
    height, width = (
        -(-size // 32) for size in test.images.shape[-2:]
    )  # the deepest stride, rounded up as convolutions do
    matched = F.adaptive_avg_pool2d(outcome.heatmap[:, None], (height, width))[:, 0]
    groups = 2 * test.labels + test.places
    return Scores(
        accuracy=(outcome.logits.argmax(dim=1) == test.labels).float().mean().item(),
        worst_group=worst_group_accuracy(outcome.logits, test.labels, groups, num_groups=4).item(),
        pointing=pointing_per_image(outcome.heatmap, test.object_masks).mean().item(),
        pointing_matched=pointing_per_image(matched, test.object_masks).mean().item(),
        active_area=outcome.merged_mask.mean().item(),
        seconds=outcome.seconds,
    )


def format_report(runs: Sequence[Run], settings: Settings) -> str:
    """One table per tie, and the notes."""
    ties = dict.fromkeys(run.tie for run in runs)
    tables = [format_table([run for run in runs if run.tie == tie], settings) for tie in ties]
    return "\n\n".join([*tables, NOTES])


def format_table(runs: Sequence[Run], settings: Settings) -> str:
    """The table of one tie: a row per variant, mean and, with several seeds, standard deviation over the seeds."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    chance = statistics.mean(run.chance for run in runs)
    spread = ", mean ± standard deviation" if len(seeds) > 1 else ""
    lines = [
        f"Background tied to {runs[0].tie:.0%} of the training labels, untied in the test; tau {settings.tau:g}, "
        f"{settings.epochs} epochs, seed{'s' if spread else ''} {', '.join(map(str, seeds))}{spread}.",
        f"Chance of pointing: {chance:.3f}.",
        "",
    ]
    header = ["variant", "accuracy", "worst group", "pointing", "at 32 px", "active area", "seconds"]
    rows = [header]
    for variant in dict.fromkeys(run.variant for run in runs):
        columns = zip(*(run.scores for run in runs if run.variant == variant), strict=True)
        rows.append(
            [
                variant,
                *(
                    _cell(values, 0 if name == "seconds" else 3)
                    for name, values in zip(header[1:], columns, strict=True)
                ),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        lines.append(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        )
    lines.insert(4, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
