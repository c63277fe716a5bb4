"""The demo's picture: what each network looks at, in the first test image of each group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import DigitsOnPhotographs
from ..plot import Panel, plot_panels
from ..plot.canvas import RIGHT, WRONG
from .backbone import MEAN_AND_STD
from .report import pointing_per_image
from .training import STAGES, Outcome, Settings, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


STRIDES = {2: 16, 3: 32}


def check_picture(path: Path) -> None:
    """See before any training that a picture can be written there, and make its folder.

    Args:
        path: of the picture.

    Raises:
        OSError: if its folder cannot be made.
        ValueError: if it is a folder, or of no format that matplotlib writes.
    """
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.is_dir() or path.suffix[1:].lower() not in formats:
        endings = ", ".join(f".{ending}" for ending in sorted(formats))
        what = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}"
        raise ValueError(f"output must be a picture's file, ending in one of {endings}, and {path} {what}")
    path.parent.mkdir(parents=True, exist_ok=True)


def draw_demo(
    test: Split, outcomes: Mapping[str, Outcome], plain: str, aim: str, tie: float, seed: int, settings: Settings
) -> Figure:
    """Draw one row per group: image, each stage's mask, merged mask, heatmaps of plain and of AIM.

    Args:
        test: the test set, with images normalised.
        outcomes: by variant.
        plain: name of the variant without masks.
        aim: name of the one with masks.
        tie: shown in the title.
        seed: shown in the title.
        settings: for tau.
    """
    groups = 2 * test.labels + test.places
    chosen = [int((groups == group).nonzero()[0, 0]) for group in range(4)]  # the first of each: nobody picked them
    columns = ["test image", *(f"mask, stage {stage}\n(stride {STRIDES[stage]})" for stage in STAGES)]
    columns += ["merged mask:\nwhat AIM may use", "plain network\nlooks here", "AIM\nlooks here"]
    rows = [_row(test, index, outcomes[plain], outcomes[aim]) for index in chosen]
    rare = "pair never seen\nin training" if tie == 1 else "pair that is rare\nin training"
    row_titles = ["usual pair", rare, rare, "usual pair"]
    decides = "With this head the finest stage's mask decides. " if "feature-preserving" in aim else ""
    explanation = (
        f"Task: is the digit 0 or 1? In training, {tie:.0%} of the zeros stood on the photograph china, {tie:.0%} of "
        "the ones on flower, so the background gives the answer away; in the test it does not (second and third row). "
        f'Both networks learn from the labels alone. "{plain}" is tf_efficientnet_lite0 with ImageNet weights; '
        f'"{aim}" puts masks of about {settings.tau:.0%} of the area (tau) on the same network. Masks: white = open. '
        f"{decides}Merged mask: dark = the decision cannot use this position. Heatmaps: class-activation map of "
        "the predicted class, positive part, each scaled to its own maximum; the thin white line is the digit's true "
        "outline, which training never sees; pointing = share of the heatmap that lies on the digit (chance: "
        f"{float(test.object_masks.mean()):.2f}). The rows are the first test image of each "
        "pair of digit and photograph, not picked by hand."
    )
    title = f"Where does the decision come from? Background tied to {tie:.0%} of the training labels, seed {seed}"
    return plot_panels(rows, columns, row_titles, title, explanation)


def _row(test: Split, index: int, plain: Outcome, aim: Outcome) -> list[Panel]:
    image = test.images[index] * MEAN_AND_STD + MEAN_AND_STD
    object_mask = test.object_masks[index]
    label, place = int(test.labels[index]), DigitsOnPhotographs.place_names[int(test.places[index])]
    panels = [Panel(image=image, caption=f"digit {label} on {place}")]
    for stage in STAGES:
        mask = aim.masks[stage][index]
        panels.append(Panel(mask=mask, caption=f"{float(mask.mean()):.0%} open"))
    merged = aim.merged_mask[index]
    panels.append(Panel(image=image, mask=merged, caption=f"{float(merged.mean()):.0%} open"))
    for outcome in (plain, aim):
        predicted = int(outcome.logits[index].argmax())
        heatmap = outcome.heatmap[index]
        pointing = float(pointing_per_image(heatmap[None], object_mask[None]))
        panels.append(
            Panel(
                image=image,
                heatmap=heatmap,
                object_mask=object_mask,
                caption=f"says {predicted}: {'right' if predicted == label else 'wrong'}\npointing {pointing:.2f}",
                highlight=RIGHT if predicted == label else WRONG,
            )
        )
    return panels
