"""The paper's Table 2: masks inside the backbone, where each stage's masked map is the next stage's input.

    python benchmarks/table_1/table_2.py cub data/CUB_200_2011 --rows 1-25,2-25 --seeds 3 --out runs/table_2

Section 6.1: mask estimators as AIM's, no top-down path, and the backbone's own classifier; all of it is trained. DATA
is a column of table_1.py, whose rows AIM [stage, area] with the same settings are the comparison. Prints accuracies and
areas, and adds a line per run to results.jsonl; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from columns import column_of
from rows import row_of
from tables import PAPERS_BACKBONE
from torch import Tensor, nn
from tqdm import tqdm

from aimwrap import AIM, PAPER, AIMLoss, AIMOutput, MaskEstimator, TauScheduler, binary_gumbel_softmax
from aimwrap.cli.options import import_from_here, parse_seeds
from aimwrap.cli.train import settings_of
from aimwrap.data.registry import parse_reader_arguments
from aimwrap.train import PlainClassifier, Settings
from aimwrap.train.data import BatchOrder, evaluation_loader, prepared, read_splits, seed_generators, training_loader
from aimwrap.train.loop import rate_factor, set_rates
from aimwrap.train.run import build_model, build_optimizer
from aimwrap.train.settings import one_or_each


class BottomUp(nn.Module):
    """A plain classifier whose stages' outputs are multiplied with masks on their way to the next stage.

    Args:
        plain: the classifier, which is used, not copied.
        stages: numbers of the stages that get masks.
        mask_width: of the mask estimators, whose other arguments are the paper's.

    Raises:
        ValueError: if a stage's map is no module's output.
    """

    def __init__(self, plain: PlainClassifier, stages: Sequence[int], mask_width: int) -> None:
        super().__init__()
        taps = AIM(plain.backbone, stages, num_classes=plain.num_classes).taps
        modules = dict(plain.backbone.named_modules())
        unknown = [tap.node for tap in taps if tap.node not in modules]
        if unknown:
            raise ValueError(f"masks can only follow a module, and a stage of this backbone ends in {unknown[0]}")
        self.plain = plain
        self.mask_estimators = nn.ModuleDict(
            {
                str(tap.stage): MaskEstimator(
                    tap.channels,
                    mask_width,
                    PAPER["mask_norm"],
                    PAPER["logit_spread"],
                    PAPER["logit_range"],
                    PAPER["mask_padding"],
                    PAPER["mask_context"],
                )
                for tap in taps
            }
        )
        self.masks: dict[int, Tensor] = {}
        for tap in taps:
            modules[tap.node].register_forward_hook(self._masking(int(tap.stage)))

    def _masking(self, stage: int) -> Any:
        def mask(module: nn.Module, images: tuple[Tensor, ...], features: Tensor) -> Tensor:
            logits = self.mask_estimators[str(stage)](features)
            self.masks[stage] = binary_gumbel_softmax(logits, training=self.training)
            return features * self.masks[stage]

        return mask

    def forward(self, images: Tensor) -> AIMOutput:
        """Final logits; the stages have none of their own, and their loss is to be weighed with zero."""
        logits = self.plain(images).logits
        masks = dict(self.masks)
        return AIMOutput(logits, dict.fromkeys(masks, logits.detach()), masks)

    def parameter_groups(self, lr: float, head_lr: float) -> list[dict[str, Any]]:
        """The classifier's own, and the estimators without weight decay, as AIM has them."""
        masks = {"params": list(self.mask_estimators.parameters()), "lr": head_lr, "weight_decay": 0.0}
        return [*self.plain.parameter_groups(lr, head_lr), masks]


def train(settings: Settings, device: torch.device, workers: int) -> dict[str, Any]:
    """Train one model, and measure it on the test split: accuracy, and the mean area of each mask."""
    seed_generators(settings.seed)
    splits = read_splits(settings)
    plain = build_model(replace(settings, method="plain"), len(splits.classes))
    assert isinstance(plain, PlainClassifier) and plain.preprocessing is not None
    model = BottomUp(plain, [int(stage) for stage in settings.stages], settings.mask_width).to(device)
    splits = prepared(splits, settings, plain.preprocessing)
    tau = one_or_each(settings.tau)
    criterion = AIMLoss(tau, mask_weight=settings.mask_weight, stage_weight=0.0, area_per=settings.area_per).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=settings.epochs_to_anneal)
    optimizer = build_optimizer(settings, model)  # type: ignore[arg-type]  # it asks for parameter groups alone
    order = BatchOrder(len(splits.train), settings.batch_size, settings.seed)
    loader = training_loader(splits.train, order, workers, pin=device.type == "cuda")
    for epoch in range(settings.epochs):
        model.train()
        order.epoch = epoch
        progress = tqdm(loader, desc=f"seed {settings.seed}, epoch {epoch + 1}/{settings.epochs}", total=len(order))
        for number, batch in enumerate(progress):
            set_rates(optimizer, rate_factor(epoch * order.steps_per_epoch + number, order.steps_per_epoch, settings))
            optimizer.zero_grad()
            criterion(model(batch.images.image.to(device)), batch.images.label.to(device)).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    right, areas = [], []
    with torch.no_grad():
        for images in evaluation_loader(splits.test, settings.batch_size, 0, 1, workers, pin=False):
            output = model(images.image.to(device))
            right.append(output.logits.argmax(1).cpu() == images.label)
            areas.append(torch.stack([mask.mean((1, 2, 3)) for mask in output.masks.values()], 1).cpu())
    measured = torch.cat(areas).mean(0).tolist()
    accuracy = 100 * torch.cat(right).float().mean().item()
    return {"accuracy": accuracy, "areas": dict(zip(map(str, settings.stages), measured, strict=True))}


def main(given: Sequence[str] | None = None) -> int:
    """Do the runs that are missing, and print the table; returns the exit code."""
    arguments = _arguments(given)
    import_from_here()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.jsonl"
    results.touch()
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        for seed, name in itertools.product(arguments.seeds, arguments.rows.split(",")):
            settings = _settings(arguments, name, seed)
            if any(Settings.from_json(record["settings"]) == settings for record in records):
                continue
            found = train(settings, device, arguments.workers)
            records.append({"row": name, **found, "settings": settings.to_json()})
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
    except (OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table_of(records))
    return 0


def table_of(records: Sequence[dict[str, Any]]) -> str:
    """Mean and deviation over the seeds, as Markdown."""
    rows = ["| masks in the backbone | seeds | accuracy | areas by stage, by seed |", "|---|---|---|---|"]
    for name in dict.fromkeys(record["row"] for record in records):
        runs = [record for record in records if record["row"] == name]
        values = [run["accuracy"] for run in runs]
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        areas = "; ".join(", ".join(f"{area:.2f}" for area in run["areas"].values()) for run in runs)
        stage, percent = name.split("-")
        rows.append(f"| [{stage}, {percent}%] | {len(runs)} | {statistics.fmean(values):.1f}{deviation} | {areas} |")
    return "\n".join(rows) + "\n"


def _settings(arguments: argparse.Namespace, name: str, seed: int) -> Settings:
    column, row = column_of(arguments.data), row_of(name)
    if row.stage is None:
        raise ValueError("rows must be STAGE-PERCENT here, such as 1-25; table_1.py trains the plain backbone")
    fixed = {"data": column.reader, "root": arguments.root, "reader": parse_reader_arguments(arguments.reader)}
    fixed |= {"backbone": arguments.backbone, "seed": seed, **row.settings(arguments.backbone, "paper")}
    return settings_of(arguments.preset or column.preset, {**parse_reader_arguments(arguments.set), **fixed})


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="column of table_1.py, such as cub")
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument("reader", metavar="NAME=VALUE", nargs="*", help="for the data set's reader")
    parser.add_argument("--rows", default="1-25,2-25", help="STAGE-PERCENT by the paper's count (default: 1-25,2-25)")
    parser.add_argument("--backbone", default=PAPERS_BACKBONE, help="name, or package.module:function")
    parser.add_argument("--seeds", type=parse_seeds, default="3", help="number of seeds, or a list such as 0,3,7")
    parser.add_argument("--preset", help="recipe (default: that of the column)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings, such as epochs=30")
    parser.add_argument("--out", type=Path, default=Path("runs/table_2"), help="folder of results.jsonl")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
