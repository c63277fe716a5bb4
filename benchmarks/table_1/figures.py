"""The paper's Figures 3, 5, 6 and 7 and the table of its Appendix B.2, from two finished runs of `aimwrap train`.

    python benchmarks/table_1/figures.py runs/aim/seed-0 --against runs/plain/seed-0 --out figures
    python benchmarks/table_1/figures.py runs/aim/seed-0 --against runs/plain/seed-0 --out figures \\
        --attribution grad-cam,guided-backprop,guided-grad-cam

The runs may also be of table_1.py. Their data set must have object masks or boxes. Writes heatmaps.png (Figure 3),
scatter.png (5), masks.png (6), evolution.png (7, if the run was trained with --keep-masks) and attribution.md (B.2).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aimwrap import AIM
from aimwrap.analysis.look import Look, Measured, joined, look, measure
from aimwrap.attribution import grad_cam, guided_backprop, guided_grad_cam
from aimwrap.backbones.inspection import import_backbone
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.cli.options import import_from_here
from aimwrap.data import Batch, ReleaseDataset, eval_transform
from aimwrap.metrics import energy_pointing_game
from aimwrap.plot import plot_heatmaps, plot_mask_evolution, plot_masks, plot_scatter
from aimwrap.train import PlainClassifier, Settings, load_plain
from aimwrap.train.data import read_splits, with_objects
from aimwrap.train.evaluation import objects_are_known
from aimwrap.train.watching import kept_masks, spread_evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, EPOCHS_SHOWN, BATCH = 6, 6, 32
METHODS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "grad-cam": grad_cam,
    "guided-backprop": guided_backprop,
    "guided-grad-cam": guided_grad_cam,
}


class Finished(NamedTuple):
    """A finished run.

    Attributes:
        folder: of the run.
        variant: the model, in words.
        model: what was trained.
        images: its test split, prepared for the model.
    """

    folder: Path
    variant: str
    model: AIM | PlainClassifier
    images: ReleaseDataset

    @property
    def network(self) -> nn.Module:
        """What attribution methods are given."""
        return self.model if isinstance(self.model, AIM) else self.model.backbone

    def batches(self, what: str) -> Iterator[Batch]:
        """The test split, with a progress bar."""
        for first in tqdm(range(0, len(self.images), BATCH), desc=what, unit="batch"):
            yield with_objects([self.images[number] for number in range(first, min(first + BATCH, len(self.images)))])

    def some(self, numbers: Sequence[int]) -> tuple[Batch, Tensor]:
        """Some test images as the model takes them, and in their own colours, (N, 3, H, W) in [0, 1]."""
        batch = with_objects([self.images[number] for number in numbers])
        preprocessing = self.model.preprocessing
        assert preprocessing is not None
        mean, std = (torch.tensor(value)[:, None, None] for value in (preprocessing.mean, preprocessing.std))
        return batch, (batch.image * std + mean).clamp(0, 1)


def main(given: Sequence[str] | None = None) -> int:
    """Draw the figures, and write the table if it is asked for; returns the exit code."""
    arguments = _arguments(given)
    import_from_here()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        aim, plain = (read_run(folder, arguments.backbone) for folder in (arguments.run, arguments.against))
        _check_pair(aim, plain)
        figures = draw(aim, plain)
        table = attribution_table(aim, plain, arguments.attribution) if arguments.attribution else None
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=100)
    if table is not None:
        (arguments.out / "attribution.md").write_text(table, encoding="utf-8")
        print(table)
    return 0


def read_run(folder: Path, backbone: str | None) -> Finished:
    """Load a run's model and its test split; ``backbone`` is the import path of one that no library has.

    Raises:
        FileNotFoundError: if the run is not finished, or its data is not there.
    """
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no result.json; name the folder of a finished run, such as runs/x/seed-0"
        )
    settings = Settings.from_json(json.loads((folder / "settings.json").read_text(encoding="utf-8"))["settings"])
    model: AIM | PlainClassifier
    own = None if backbone is None else import_backbone(backbone)
    if settings.method == "aim":
        model = AIM.from_pretrained(folder / "model", backbone=own)
    else:
        model = load_plain(folder / "model", backbone=own)
    assert model.preprocessing is not None
    images = read_splits(settings).test
    images.transform = eval_transform(model.preprocessing)
    variant = json.loads((folder / "result.json").read_text(encoding="utf-8"))["variant"]
    return Finished(folder, variant, model, images)


def draw(aim: Finished, plain: Finished) -> dict[str, Figure]:
    """The figures, by the names of their files; the images shown are spread evenly over the test split.

    Raises:
        ValueError: if the plain model has no exact activation map.
    """
    assert isinstance(aim.model, AIM) and isinstance(plain.model, PlainClassifier)
    pooled = PooledClassifier(plain.model.backbone, "the plain run")
    numbers = spread_evenly(SHOWN, len(aim.images))
    batch, colours = aim.some(numbers)
    seen, seen_plain = look(aim.model, batch.image), look(pooled, plain.some(numbers)[0].image)
    grid = min(seen.deepest, seen_plain.deepest)
    pointing = f"energy pointing at {grid[0]} x {grid[1]}"
    heatmaps = plot_heatmaps(
        colours,
        seen_plain.heatmap,
        seen.heatmap,
        objects_of(batch).reshape(len(numbers), 1, *colours.shape[2:]).ge(0.5).float(),
        resolution=grid,
        measure=pointing,
        labels=batch.label,
        predictions=(seen_plain.logits.argmax(1), seen.logits.argmax(1)),
        class_names=aim.images.classes,
    )
    of_aim, of_plain = measured(aim, aim.model, grid), measured(plain, pooled, grid)
    scatter = plot_scatter(
        of_plain.energy_pointing_matched,
        of_aim.energy_pointing_matched,
        chance=of_aim.chance.nanmean().item(),
        measure=pointing,
    )
    figures = {"heatmaps": heatmaps, "masks": draw_masks(aim, batch, colours, seen), "scatter": scatter}
    kept = kept_masks(aim.folder)
    if kept:
        figures["evolution"] = _evolution(aim, kept)
    return figures


def draw_masks(run: Finished, batch: Batch, colours: Tensor, seen: Look, **title: str) -> Figure:
    """The masks of some images of a run with AIM."""
    assert seen.merged_mask is not None
    return plot_masks(
        colours,
        seen.output.masks,
        seen.merged_mask,
        labels=batch.label,
        predictions=seen.logits.argmax(1),
        class_names=run.images.classes,
        **title,
    )


def objects_of(batch: Batch) -> Tensor:
    """(N, 1, H, W): masks of the objects, which are known."""
    assert batch.object_mask is not None
    return batch.object_mask


def measured(run: Finished, subject: AIM | PooledClassifier, grid: tuple[int, int]) -> Measured:
    """What is measured of each test image, with heatmaps also averaged over a common grid."""
    parts = []
    for batch in run.batches(run.folder.as_posix()):
        parts.append(measure(look(subject, batch.image), batch.label, objects_of(batch), grid))
    return joined(parts)


def attribution_table(aim: Finished, plain: Finished, methods: Sequence[str]) -> str:
    """Mean energy pointing of attribution methods at their own resolution, as Markdown, for both runs.

    A method that is not defined for a network gives no number, and its reason stands below the table.
    """
    rows, reasons = [], {}
    for method in methods:
        cells = []
        for name, run in (("plain", plain), ("AIM", aim)):
            try:
                cells.append(f"{_pointing(run, method):.1f}")
            except ValueError as error:
                cells.append("not defined")
                reasons[f"{method}, {name}"] = str(error)
        rows.append(f"| {method} | {' | '.join(cells)} |")
    head = ["Energy pointing of the predicted class, in percent, over the test images.", ""]
    table = ["| attribution | plain | AIM |", "|---|---|---|", *rows]
    return "\n".join([*head, *table, *(f"\n{name}: {reason}" for name, reason in reasons.items())]) + "\n"


def _pointing(run: Finished, method: str) -> float:
    found = [
        energy_pointing_game(METHODS[method](run.network, batch.image), objects_of(batch))
        for batch in run.batches(f"{method}, {run.folder.as_posix()}")
    ]
    return 100 * torch.cat(found).nanmean().item()


def _evolution(aim: Finished, kept: dict[int, dict[str, Tensor]]) -> Figure:
    assert isinstance(aim.model, AIM)
    epochs = sorted(kept)
    chosen = sorted({epochs[round(n * (len(epochs) - 1) / (EPOCHS_SHOWN - 1))] for n in range(EPOCHS_SHOWN)})
    log = [json.loads(line) for line in (aim.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    tau = {line["epoch"]: torch.tensor(line["tau"]).mean().item() for line in log}
    numbers = kept[chosen[0]]["images"][:SHOWN].tolist()
    masks = [
        (epoch, {stage: kept[epoch][str(stage)][:SHOWN].float() for stage in aim.model.stages}) for epoch in chosen
    ]
    return plot_mask_evolution(aim.some(numbers)[1], masks, [tau[epoch] for epoch in chosen])


def _check_pair(aim: Finished, plain: Finished) -> None:
    if not isinstance(aim.model, AIM) or isinstance(plain.model, AIM):
        raise ValueError("give a run with AIM, and by --against a plain one (aimwrap train --plain)")
    if [record.path for record in aim.images.records] != [record.path for record in plain.images.records]:
        raise ValueError("the two runs were tested on different images; give two runs on one data set")
    if not objects_are_known(aim.images):
        raise ValueError(
            f"{aim.images.release.name} has no object mask or box for each test image, and energy pointing needs them; "
            "the page on data says where they come from"
        )


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run with AIM")
    parser.add_argument("--against", type=Path, required=True, help="folder of a finished plain run")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figures (default: figures)")
    parser.add_argument("--backbone", help="package.module:name, if the runs' backbone was one of your own")
    parser.add_argument(
        "--attribution", type=_methods, help=f"methods of Appendix B.2, separated by commas: {', '.join(METHODS)}"
    )
    return parser.parse_args(given)


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not among {', '.join(METHODS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
