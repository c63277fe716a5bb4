"""The demo's scores, its tables in text with their notes, and its figure: what each network looks at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._text import table
from ..analysis.look import Look, Measured, measure
from ..data import DigitsOnPhotographs
from ..metrics import worst_group_accuracy
from ..plot import Panel, plot_panels
from ..plot.canvas import RIGHT, WRONG
from .backbone import MEAN_AND_STD
from .training import STAGES, Outcome, Settings, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NOTES = """\
worst group     accuracy on the worst of the four pairs of digit and photograph; the pairs are equally large in the test
pointing        energy pointing game: share of the heatmap's positive energy on the digit (chance: the digit's area)
  at 32 px      the same with map and digit averaged over the plain network's grid, so that no map gains by being finer
active area     share of positions that the decision could use, in evaluation
seconds         training, with the features that it needed
"Plain" moves its backbone, the frozen rows do not: compare AIM with the linear probe and with its own control, whose
masks are held open, to see what the masks do, and with plain to see what one would get without AIM. BatchNorm keeps its
ImageNet statistics in all rows. A heatmap without positive evidence has no pointing, and its image is left out."""


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


def measured(outcome: Outcome, test: Split) -> Measured:
    """A variant's numbers for each test image; maps are compared on the grid of the deepest stride."""
    height, width = (-(-size // 32) for size in test.images.shape[-2:])  # rounded up, as convolutions do
    return measure(outcome.look, test.labels, test.object_masks, (height, width))


def score(outcome: Outcome, test: Split) -> Scores:
    """Measure a variant on the test set."""
    found = measured(outcome, test)
    groups = 2 * test.labels + test.places
    return Scores(
        accuracy=found.right.float().mean().item(),
        worst_group=worst_group_accuracy(found.predicted, test.labels, groups, num_groups=4).item(),
        pointing=found.energy_pointing.nanmean().item(),
        pointing_matched=found.energy_pointing_matched.nanmean().item(),
        active_area=found.area.nan_to_num(1.0).mean().item(),  # without masks, all of it
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
    rows = [["variant", "accuracy", "worst group", "pointing", "at 32 px", "active area", "seconds"]]
    for variant in dict.fromkeys(run.variant for run in runs):
        *shares, seconds = zip(*(run.scores for run in runs if run.variant == variant), strict=True)
        rows.append([variant, *(_cell(values, 3) for values in shares), _cell(seconds, 0)])
    header_line, _, body = table(rows, "<>").partition("\n")
    rule = "  ".join("-" * max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join([*lines, header_line, rule, body])


def _cell(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


STRIDES = {2: 16, 3: 32}


def check_picture(path: Path) -> None:
    """Check before any training that the figure can be written there, and make its folder.

    Raises:
        OSError: if its folder cannot be made.
        ValueError: if it is a folder, or its format is not one that matplotlib writes.
    """
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.is_dir() or path.suffix[1:].lower() not in formats:
        endings = ", ".join(f".{ending}" for ending in sorted(formats))
        what = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}"
        raise ValueError(f"output must be an image file that ends in one of {endings}, and {path} {what}")
    path.parent.mkdir(parents=True, exist_ok=True)


def draw_demo(
    test: Split, outcomes: Mapping[str, Outcome], plain: str, aim: str, tie: float, seed: int, settings: Settings
) -> Figure:
    """Draw one row per group: image, each stage's mask, merged mask, heatmaps of plain and of AIM; then the words."""
    groups = 2 * test.labels + test.places
    chosen = [int((groups == group).nonzero()[0, 0]) for group in range(4)]  # the first of each: not picked
    columns = ["test image", *(f"mask, stage {stage}\n(stride {STRIDES[stage]})" for stage in STAGES)]
    columns += ["merged mask:\nwhat AIM may use", "plain network\nlooks here", "AIM\nlooks here"]
    pointing = {name: measured(outcomes[name], test).energy_pointing for name in (plain, aim)}
    rows = [
        _row(test, index, [(outcomes[name].look, float(pointing[name][index])) for name in (plain, aim)])
        for index in chosen
    ]
    rare = "pair never seen\nin training" if tie == 1 else "pair that is rare\nin training"
    row_titles = ["usual pair", rare, rare, "usual pair"]
    decides = "With this head the finest stage's mask decides. " if "feature-preserving" in aim else ""
    explanation = (
        f"Task: is the digit 0 or 1? In training, {tie:.0%} of the zeros are on the photograph china, {tie:.0%} of "
        "the ones on flower, so the background gives the answer away; in the test it does not (second and third row). "
        f'Both networks learn from the labels alone. "{plain}" is tf_efficientnet_lite0 with ImageNet weights; '
        f'"{aim}" puts masks of about {settings.tau:.0%} of the area (tau) on the same network. Masks: white = open. '
        f"{decides}Merged mask: dark = the decision cannot use this position. Heatmaps: class-activation map of "
        "the predicted class, positive part, each scaled to its own maximum; the thin white line is the digit's true "
        "outline, which training never sees; pointing = share of the heatmap that is on the digit (chance: "
        f"{float(test.object_masks.mean()):.2f}). The rows are the first test image of each "
        "pair of digit and photograph, not picked by hand."
    )
    title = f"Where does the decision come from? Background tied to {tie:.0%} of the training labels, seed {seed}"
    return plot_panels(rows, columns, row_titles, title, explanation)


def _row(test: Split, index: int, looks: list[tuple[Look, float]]) -> list[Panel]:
    image = test.images[index] * MEAN_AND_STD + MEAN_AND_STD
    object_mask = test.object_masks[index]
    label, place = int(test.labels[index]), DigitsOnPhotographs.place_names[int(test.places[index])]
    panels = [Panel(image=image, caption=f"digit {label} on {place}")]
    aim = looks[-1][0]
    for stage in STAGES:
        mask = aim.output.masks[stage][index]
        panels.append(Panel(mask=mask, caption=f"{float(mask.mean()):.0%} open"))
    assert aim.merged_mask is not None
    merged = aim.merged_mask[index]
    panels.append(Panel(image=image, mask=merged, caption=f"{float(merged.mean()):.0%} open"))
    for look, pointing in looks:
        predicted = int(look.output.logits[index].argmax())
        heatmap = look.heatmap[index]
        panels.append(
            Panel(
                image=image,
                heatmap=heatmap,
                object_mask=object_mask,
                caption=f"says {predicted}: {'right' if predicted == label else 'wrong'}\npointing "
                + ("undefined" if math.isnan(pointing) else f"{pointing:.2f}"),
                highlight=RIGHT if predicted == label else WRONG,
            )
        )
    return panels
