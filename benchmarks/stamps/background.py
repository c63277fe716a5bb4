"""Is `aimwrap.background_bias` right where the tie is known? AIM is trained on each tie's images, and asked about them.

    python benchmarks/stamps/background.py --seeds 0,1,2

Prints a row per tie and seed: what a linear classifier reads off the background, beside the tie itself.
"""

from __future__ import annotations

import argparse

import torch
from study import numbers
from torch.utils.data import DataLoader, TensorDataset
from variants import Config, load_split, train

from aimwrap import background_bias
from aimwrap.demo.backbone import load_pretrained_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers(int), default=[0], help="0,1,2 (default: 0)")
    parser.add_argument("--ties", type=numbers(float), default=[0.5, 0.8, 0.95, 1.0])
    arguments = parser.parse_args()
    backbone = load_pretrained_backbone()
    columns = ["tie", "seed", "background alone", "the box alone", "kept region alone", "hidden"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for tie in arguments.ties:
        for seed in arguments.seeds:
            torch.manual_seed(seed)
            images = load_split("train", tie, seed, backbone)
            model = train(Config("aim", tie, seed, epochs=6), (images, images), backbone).model
            found = background_bias(model, DataLoader(TensorDataset(images.images, images.labels), batch_size=50))
            print(
                f"| {tie:.0%} | {seed} | {found.accuracy:.3f} [{found.low:.3f}, {found.high:.3f}] | "
                f"{found.box_accuracy:.3f} | {found.object_accuracy:.3f} | {found.hidden:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
