"""Draw the documentation's gallery: test images that a rule chooses, with masks, merged mask and contributions.

    python benchmarks/stamps/gallery.py  # some minutes; writes docs/assets/gallery-*.jpg

AIM is trained as in the study: a frozen backbone, the feature-preserving head, a 100 % tie, tau 0.1. No image is
chosen by hand: a rule chooses them, and it is the title.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from dataset import Stamps
from torch import Tensor
from variants import Config, Data, Outcome, load_data, part_of, rows_of, train

from aimwrap import AIM
from aimwrap.analysis.look import measure
from aimwrap.demo.backbone import MEAN_AND_STD, load_pretrained_backbone
from aimwrap.plot import Panel, plot_panels
from aimwrap.plot.canvas import RIGHT, WRONG

ASSETS = Path(__file__).parents[2] / "docs" / "assets"
SHOWN = 5  # images per figure
PLACES = ("water", "land")


class Facts(NamedTuple):
    """What the rules know of every test image, (N,) each."""

    right: Tensor
    pointing: Tensor
    confidence: Tensor  # of the predicted class
    area: Tensor  # of the merged mask


class Rule(NamedTuple):
    """Which images a figure shows.

    Attributes:
        title: what the figure shows.
        key: images are ranked by this, smallest first; NaN and infinity are not shown.
    """

    title: str
    key: Callable[[Facts], Tensor]


def among(chosen: Tensor, key: Tensor) -> Tensor:
    """The key where ``chosen``, and infinity elsewhere."""
    return torch.where(chosen, key, torch.inf)


RULES = {
    "typical": Rule(
        "Typical: pointing closest to the median of all test images",
        lambda facts: (facts.pointing - facts.pointing.nanmedian()).abs(),
    ),
    "best": Rule(
        "Best: the highest pointing among right predictions",
        lambda facts: among(facts.right, -facts.pointing),
    ),
    "worst": Rule(
        "Worst: the lowest pointing of all test images",
        lambda facts: facts.pointing,
    ),
    "wrong": Rule(
        "Wrong and sure of it: the most confident wrong predictions",
        lambda facts: among(~facts.right, -facts.confidence),
    ),
    "smallest": Rule(
        "Nearly dead: the smallest merged masks",
        lambda facts: facts.area,
    ),
}


def picked(rule: Rule, facts: Facts, count: int = SHOWN) -> Tensor:
    """Numbers of the images that the rule shows, the clearest case first; of equal ones the first in the test set."""
    key = rule.key(facts)
    order = key.nan_to_num(torch.inf).argsort(stable=True)
    return order[key[order].isfinite()][:count]


def facts_of(outcome: Outcome, test: Data) -> Facts:
    found = measure(outcome.look, test.labels, test.object_masks, outcome.look.deepest)
    return Facts(found.right, found.energy_pointing, found.confidence, found.area)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tie", type=float, default=1.0, help="0.95 or 1 (default)")
    arguments = parser.parse_args()

    backbone = load_pretrained_backbone()
    data = load_data(arguments.tie, arguments.seed, backbone)
    outcome = train(Config("aim", arguments.tie, arguments.seed), data, backbone)
    facts = facts_of(outcome, data[1])
    where = f"{100 * arguments.tie:.0f} % tie, seed {arguments.seed}, feature-preserving head"
    print(f"{where}: {summary(facts, data[1])}")
    for name, rule in RULES.items():
        draw(name, rule, outcome, facts, data[1], where)


def summary(facts: Facts, test: Data) -> str:
    return (
        f"accuracy {facts.right.float().mean():.3f}, pointing {facts.pointing.nanmean():.3f} "
        f"(chance {test.object_masks.mean():.3f}), area of the merged mask {facts.area.min():.3f} to "
        f"{facts.area.max():.3f}, pointing below chance in {(facts.pointing < test.object_masks.mean()).sum()} of "
        f"{len(facts.right)} images"
    )


def draw(name: str, rule: Rule, outcome: Outcome, facts: Facts, test: Data, where: str) -> None:
    chosen = picked(rule, facts)
    shown, said = rows_of(test, chosen), part_of(outcome, chosen)
    assert isinstance(outcome.model, AIM)
    with torch.no_grad():
        masks = outcome.model.forward_masks(shown.maps).masks
    columns = ["test image", *(f"mask, stage {stage}" for stage in masks), "merged mask", "contributions"]
    rows = [row(i, shown, said, masks, float(facts.pointing[k])) for i, k in enumerate(chosen.tolist())]
    titles = [
        f"{Stamps.label_names[label]} on {PLACES[place]}"
        for label, place in zip(shown.labels.tolist(), shown.places.tolist(), strict=True)
    ]
    explanation = (
        "Mask: bright = open. Contributions: what each position adds to the predicted class's logit, positive part, "
        "scaled to its own maximum; the thin line is the animal's true outline, which training never sees. Pointing: "
        f"share of the contributions on the animal (chance: {float(test.object_masks.mean()):.2f})."
    )
    figure = plot_panels(rows, columns, titles, f"{rule.title} ({where})", explanation)
    figure.savefig(ASSETS / f"gallery-{name}.jpg", dpi=90, pil_kwargs={"quality": 88})


def row(i: int, test: Data, said: Outcome, masks: dict[int | str, Tensor], pointing: float) -> list[Panel]:
    image = test.images[i] * MEAN_AND_STD + MEAN_AND_STD
    label, predicted = int(test.labels[i]), int(said.look.logits[i].argmax())
    right = label == predicted
    verdict = f"says {Stamps.label_names[predicted]}: {'right' if right else 'wrong'}"
    assert said.look.merged_mask is not None
    selections = [*(mask[i] for mask in masks.values()), said.look.merged_mask[i]]
    return [
        Panel(image=image, caption=verdict, highlight=RIGHT if right else WRONG),
        *(Panel(image=image, mask=mask, caption=f"{float(mask.mean()):.0%} open") for mask in selections),
        Panel(
            image=image,
            heatmap=said.look.heatmap[i],
            object_mask=test.object_masks[i],
            caption=f"pointing {pointing:.2f}",
        ),
    ]


if __name__ == "__main__":
    main()
