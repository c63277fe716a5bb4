"""The paper's Table 3 and Figure 8: are birds found that are not in the middle of the photograph?

    python benchmarks/table_1/edge.py runs/aim/seed-0 runs/aim/seed-1 runs/plain/seed-0 --out edge

Takes finished runs of `aimwrap train` or table_1.py on one data set with object boxes or masks, such as CUB. Each test
photograph is cropped to three quarters of its shorter side, once with the object in the middle, and once with the
object's middle as near to an edge as the photograph allows. Prints the accuracies into edge.md, and draws the masks of
the first run with AIM as edge.png.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from figures import SHOWN, Finished, draw_masks, read_run
from torchvision.transforms import v2

from aimwrap import AIM
from aimwrap.analysis.look import look
from aimwrap.cli.options import import_from_here
from aimwrap.data import eval_transform
from aimwrap.data.transforms import SampleTransform
from aimwrap.train.evaluation import objects_are_known
from aimwrap.train.watching import spread_evenly

SIDE = 0.75  # of the photograph's shorter side
Placement = Literal["centre", "edge"]
PLACEMENTS: tuple[Placement, ...] = ("centre", "edge")


def window(size: tuple[int, int], box: Sequence[float], placement: Placement) -> tuple[int, int, int]:
    """The square to cut out: its top, left and side, in pixels.

    Args:
        size: (H, W) of the photograph.
        box: of the object: left, top, right, bottom.
        placement: of the object in the square.

    Example:
        >>> window((100, 120), (50, 40, 70, 60), "centre"), window((100, 120), (50, 40, 70, 60), "edge")
        ((12, 22, 75), (12, 0, 75))
    """
    side = round(SIDE * min(size))
    middles = ((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)
    lasts = [length - side for length in size]
    corner = [min(max(middle - side / 2, 0), last) for middle, last in zip(middles, lasts, strict=True)]
    if placement == "edge":
        # Of the four edges, the one that the object's middle can come nearest to.
        options = []
        for axis, middle, last in zip((0, 1), middles, lasts, strict=True):
            for edge in (0, side):  # the object's middle at the window's beginning, or at its end
                start = min(max(middle - edge, 0), last)
                options.append((abs(middle - edge - start), axis, start))
        _, axis, start = min(options)
        corner[axis] = start
    return int(corner[0]), int(corner[1]), side


class AtPlacement:
    """A step of geometry that cuts out the window of the first object."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def __call__(self, image: Any, mask: Any = None, boxes: Any = None) -> tuple[Any, Any, Any]:
        """Crop image, mask and boxes alike."""
        size = v2.functional.get_size(image)
        if boxes is not None and len(boxes):
            box = boxes[0].tolist()
        else:
            rows, columns = torch.nonzero(mask[0] > 0, as_tuple=True)
            box = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        top, left, side = window((size[0], size[1]), box, self.placement)
        parts = [
            None if part is None else v2.functional.crop(part, top, left, side, side) for part in (image, mask, boxes)
        ]
        return parts[0], parts[1], parts[2]


def placed(run: Finished, placement: Placement) -> Finished:
    """The run with its test photographs cropped."""
    assert run.model.preprocessing is not None
    usual = eval_transform(run.model.preprocessing._replace(crop=1.0))  # a central crop would cut the edges off
    run.images.transform = SampleTransform([AtPlacement(placement), *usual.geometry], usual.pixels)
    return run


@torch.no_grad()
def accuracy(run: Finished) -> float:
    """Share of the test photographs that are classified correctly, in percent."""
    right = [
        run.model.eval()(batch.image).logits.argmax(1) == batch.label for batch in run.batches(run.folder.as_posix())
    ]
    return 100 * torch.cat(right).float().mean().item()


def main(given: Sequence[str] | None = None) -> int:
    """Measure each run at both placements; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=Path("edge"), help="folder of edge.png and edge.md (default: edge)")
    parser.add_argument("--backbone", help="package.module:name, if the runs' backbone was one of your own")
    arguments = parser.parse_args(given)
    import_from_here()
    try:
        runs = [read_run(folder, arguments.backbone) for folder in arguments.runs]
        for run in runs:
            if not objects_are_known(run.images):
                raise ValueError(f"{run.folder}: not every test image has an object mask or box, so none can be placed")
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    found: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(tuple(accuracy(placed(run, place)) for place in PLACEMENTS))
    rows = ["| model | seeds | in the middle | at the edge |", "|---|---|---|---|"]
    rows += [
        f"| {name} | {len(values)} | {' | '.join(map(_cell, zip(*values, strict=True)))} |"
        for name, values in found.items()
    ]
    table = "Accuracy in percent, mean ± standard deviation over the seeds.\n\n" + "\n".join(rows) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "edge.md").write_text(table, encoding="utf-8")
    print(table)
    first = next((run for run in runs if isinstance(run.model, AIM)), None)
    if first is not None:
        _draw(first, arguments.out / "edge.png")
    return 0


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _draw(run: Finished, path: Path) -> None:
    """Masks of some photographs at the edge (Figure 8)."""
    assert isinstance(run.model, AIM)
    batch, colours = placed(run, "edge").some(spread_evenly(SHOWN, len(run.images)))
    title = "Which positions may the decision use? (objects at the edge)"
    figure = draw_masks(run, batch, colours, look(run.model, batch.image), title=title)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
