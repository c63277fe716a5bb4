"""Draw what the linear probe and AIM look at on Stamps: masks, heatmaps, and the masks over the epochs.

    python benchmarks/stamps/pictures.py  # some minutes; writes docs/assets/found-{masks,heatmaps,evolution}.png

The first test image of each group is shown, whatever it looks like.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from dataset import Stamps
from parts import TIES
from torch import Tensor, nn
from variants import Config, Data, Outcome, load_data, part_of, rows_of, train

from aimwrap import AIM, TauScheduler
from aimwrap.demo.backbone import MEAN_AND_STD, load_pretrained_backbone
from aimwrap.plot import plot_heatmaps, plot_mask_evolution, plot_masks

ASSETS = Path(__file__).parents[2] / "docs" / "assets"
GROUPS = ("bird on water", "bird on land", "mammal on water", "mammal on land")
SHOWN_EPOCHS = (1, 3, 6, 10, 20)


class Epoch(NamedTuple):
    """The shown images' masks after an epoch, by stage, and the area asked for."""

    number: int
    masks: dict[int | str, Tensor]
    tau: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tie", type=float, default=TIES[-1], help="0.95 or 1 (default)")
    arguments = parser.parse_args()
    tie, seed = arguments.tie, arguments.seed

    backbone = load_pretrained_backbone()
    data = load_data(tie, seed, backbone)
    shown = first_of_each_group(data[1])
    test = rows_of(data[1], shown)
    plain = train(Config("plain", tie, seed, epochs=6, learning_rate=3e-4), data, backbone)
    aim, evolution = train_and_watch(Config("aim", tie, seed), data, backbone, test)
    where = f"{100 * tie:.0f} % tie, seed {seed}, tau 0.1"
    draw(test, part_of(plain, shown), part_of(aim, shown), evolution, where)


def first_of_each_group(test: Data) -> Tensor:
    groups = 2 * test.labels + test.places
    return torch.cat([(groups == group).nonzero()[:1, 0] for group in range(len(GROUPS))])


def train_and_watch(
    config: Config, data: tuple[Data, Data], backbone: nn.Module, test: Data
) -> tuple[Outcome, list[Epoch]]:
    """Train as the study does, and keep the shown images' masks of some epochs."""
    history: list[Epoch] = []

    def watch(model: nn.Module, schedule: TauScheduler | None) -> None:
        assert isinstance(model, AIM) and schedule is not None
        if schedule.steps_done + 1 in SHOWN_EPOCHS:
            model.eval()
            with torch.no_grad():
                masks = model.forward_masks(test.maps).masks
            asked = schedule.tau if isinstance(schedule.tau, float) else schedule.tau[0]
            history.append(Epoch(schedule.steps_done + 1, masks, asked))
            model.train()

    return train(config, data, backbone, watch), history


def draw(test: Data, plain: Outcome, aim: Outcome, history: list[Epoch], where: str) -> None:
    images = test.images * MEAN_AND_STD + MEAN_AND_STD
    assert isinstance(aim.model, AIM)
    with torch.no_grad():
        features = aim.model.forward_masks(test.maps)
    groups = [GROUPS[group] for group in (2 * test.labels + test.places).tolist()]
    known = {"labels": test.labels, "class_names": Stamps.label_names, "row_titles": groups}
    masks = plot_masks(
        images,
        features.masks,
        features.merged_mask,
        predictions=aim.look.logits.argmax(1),
        title=f"Which positions may the decision use? ({where})",
        **known,
    )
    heatmaps = plot_heatmaps(
        images,
        plain.look.heatmap,
        aim.look.heatmap,
        test.object_masks,
        resolution=(5, 5),
        predictions=(plain.look.logits.argmax(1), aim.look.logits.argmax(1)),
        names=("linear probe", "AIM"),
        title=f"What does each look at? ({where})",
        **known,
    )
    evolution = plot_mask_evolution(
        images,
        [(epoch.number, epoch.masks) for epoch in history],
        [epoch.tau for epoch in history],
        stages=[2],
        row_titles=groups,
        title=f"How stage 2's mask changes over training ({where})",
    )
    for name, figure in (("masks", masks), ("heatmaps", heatmaps), ("evolution", evolution)):
        figure.savefig(ASSETS / f"found-{name}.png", dpi=90)


if __name__ == "__main__":
    main()
