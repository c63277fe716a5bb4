"""How far do half-precision masks differ from float32's on trained models, and whose rounding is it?

    python benchmarks/precision.py  # both heads, three seeds: a quarter of an hour on a shared core
    python benchmarks/precision.py --area-curve docs/assets/area-curve.png  # also draw the curve in docs/figures.md

AIM on a frozen tf_efficientnet_lite0 with ImageNet weights learns the demo's digits on photographs (95 % tie); each
precision then sees the same 240 test images. Prints a Markdown table: mean ± deviation over seeds. "near 0" is the
share of positions whose mask logit is closer to 0 than the median change of all logits; the precision cannot keep
the sign of such a logit.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, AreaCurve, TauScheduler, area_curve
from aimwrap.demo.backbone import load_pretrained_backbone
from aimwrap.demo.training import Settings, Split, backbone_maps, load_splits, new_parameters
from aimwrap.plot import plot_area_curves
from aimwrap.top_down import Head

HEADS: tuple[Head, ...] = ("feature-preserving", "paper")
EPOCHS, BATCH_SIZE = 8, 16
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
COLUMNS = ("masks equal", "near 0", "predictions equal", "largest logit difference")


class Said(NamedTuple):
    """What a precision says: mask logits (P,), masks (P,), logits (N, K)."""

    mask_logits: Tensor
    masks: Tensor
    logits: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--area-curve", type=Path, help="where to draw the accuracy / area curves of the last seed")
    arguments = parser.parse_args()
    backbone = load_pretrained_backbone()
    table: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    curves: dict[str, AreaCurve] = {}
    for seed in tqdm(arguments.seeds, unit="seed", file=sys.stderr):
        splits = load_splits(0.95, seed, Settings())
        test = splits[1]
        for head in HEADS:
            model = train(AIM(backbone, num_classes=2, head=head, copy=True), splits[0], seed)
            expected = whole(model, test.images, torch.float32, autocast=None)
            for name, said in precisions(model, test.images):
                table.setdefault((head, name), []).append(compared(said, expected))
            batches = list(
                zip(*(x.split(60) for x in (test.images, test.labels, 2 * test.labels + test.places)), strict=True)
            )
            curves[f"{head} head"] = area_curve(model, batches)
    print(f"| head | precision | {' | '.join(COLUMNS)} |\n|{'---|' * (2 + len(COLUMNS))}")
    for (head, name), values in table.items():
        print(f"| {head} | {name} | {' | '.join(map(cell, zip(*values, strict=True)))} |")
    if arguments.area_curve is not None:
        title = f"Digits on photographs, 95 % tie, seed {arguments.seeds[-1]}"
        plot_area_curves(curves, chance=0.5, title=title).savefig(arguments.area_curve, dpi=90)


def train(model: AIM, split: Split, seed: int) -> AIM:
    """The head, on the frozen backbone's float32 maps."""
    torch.manual_seed(seed)
    maps = backbone_maps(model, split.images)
    criterion = AIMLoss(tau=model.tau)
    schedule = TauScheduler(criterion, anneal_epochs=EPOCHS // 2)
    optimizer = torch.optim.AdamW(new_parameters(model), 1e-3)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(split.labels)).split(BATCH_SIZE):
            output = model.forward_head(model.forward_masks({name: values[batch] for name, values in maps.items()}))
            optimizer.zero_grad()
            criterion(output, split.labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def precisions(model: AIM, images: Tensor) -> list[tuple[str, Said]]:
    """Everything in half precision, then AIM's own part and the backbone's alone."""
    said = []
    for name, dtype in DTYPES.items():
        half = copy.deepcopy(model).to(dtype)
        said += [
            (f"autocast({name})", whole(model, images, torch.float32, autocast=dtype)),
            (f"model.to({name})", whole(half, images, dtype, autocast=None)),
            (f"autocast({name}), AIM's part alone", parts(model, model, images, torch.float32, None, dtype)),
            (f"autocast({name}), backbone alone", parts(model, model, images, torch.float32, dtype, None)),
            (f"to({name}), AIM's part alone", parts(model, half, images, dtype, None, None)),
            (f"to({name}), backbone alone", parts(half, model, images, torch.float32, None, None)),
        ]
    return said


def whole(model: AIM, images: Tensor, dtype: torch.dtype, autocast: torch.dtype | None) -> Said:
    return parts(model, model, images, dtype, autocast, autocast)


@torch.no_grad()
def parts(
    below: AIM,
    above: AIM,
    images: Tensor,
    dtype: torch.dtype,
    autocast_below: torch.dtype | None,
    autocast_above: torch.dtype | None,
) -> Said:
    """The backbone of one model under one precision, and the head of another, of ``dtype``, under another."""
    said = []
    for batch in images.split(60):
        with precision(autocast_below):
            maps = below.forward_backbone(batch.to(next(below.parameters()).dtype))
        if (autocast_below, below) != (autocast_above, above):
            maps = {name: values.to(dtype) for name, values in maps.items()}
        with precision(autocast_above):
            features = above.forward_masks(maps)
            logits = above.forward_head(features).logits
        said.append(Said(flat(features.mask_logits), flat(features.masks), logits.float()))
    return Said(*(torch.cat(columns) for columns in zip(*said, strict=True)))


def precision(dtype: torch.dtype | None) -> Any:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


def flat(by_stage: dict[Any, Tensor]) -> Tensor:
    return torch.cat([values.float().flatten() for values in by_stage.values()])


def compared(said: Said, expected: Said) -> tuple[float, ...]:
    moved = (said.mask_logits - expected.mask_logits).abs().median()
    difference = (said.logits - expected.logits).abs().max() / expected.logits.abs().max()
    return (
        share(said.masks == expected.masks),
        share(expected.mask_logits.abs() < moved),
        share(said.logits.argmax(1) == expected.logits.argmax(1)),
        difference.item(),
    )


def share(true: Tensor) -> float:
    return true.double().mean().item()


def cell(values: tuple[float, ...]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.3f}{deviation} %"


if __name__ == "__main__":
    main()
