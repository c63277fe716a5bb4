"""How well do masks that were trained from class labels alone outline the object? IoU on the test images.

    python benchmarks/stamps/pseudo_labels.py --seeds 0,1,2

Prints a row per tie and kind of mask, with the mean over images and its deviation over seeds. The probe's map is cut by
Otsu's threshold, as contributions are; "the largest centred square" is what guessing gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from look_again import first_look
from study import numbers
from torch import Tensor
from torch.nn import functional as F
from variants import Config, Data, load_data, train

from aimwrap.analysis.look import look
from aimwrap.demo.backbone import load_pretrained_backbone
from aimwrap.masks.formats import above
from aimwrap.masks.placing import maps_on
from aimwrap.metrics import mask_iou
from aimwrap.second_look import SecondLook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers(int), default=[0], help="0,1,2 (default: 0)")
    parser.add_argument("--ties", type=numbers(float), default=[0.95, 1.0])
    arguments = parser.parse_args()
    backbone = load_pretrained_backbone()
    print("| tie | mask | IoU with the object | precision | recall |\n| --- | --- | --- | --- | --- |")
    for tie in arguments.ties:
        found: dict[str, list[Tensor]] = {}
        for seed in arguments.seeds:
            data = load_data(tie, seed, backbone)
            for name, masks in masks_of(tie, seed, data, backbone):
                found.setdefault(name, []).append(scores(masks, data[1].object_masks))
        for name, by_seed in found.items():
            means = torch.stack(by_seed)
            spread = f" ± {means[:, 0].std():.3f}" if len(by_seed) > 1 else ""
            iou, precision, recall = means.mean(0).tolist()
            print(f"| {tie:.0%} | {name} | {iou:.3f}{spread} | {precision:.3f} | {recall:.3f} |", flush=True)


def masks_of(tie: float, seed: int, data: tuple[Data, Data], backbone: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Kinds of masks (N, 1, H, W) of the test images, by name."""
    test = data[1]
    side = test.images.shape[-1]
    config = Config("aim", tie, seed)
    model = first_look(config, data, backbone)
    yield "AIM's merged mask", on_images(model, test, "merged")
    yield "AIM's contributions, Otsu", on_images(model, test, "contributions")
    yield "what a second look is shown", on_images(SecondLook(model), test, "kept")
    probe = train(Config("plain", tie, seed, epochs=1, learning_rate=3e-4), data, backbone).look
    fine = F.interpolate(probe.heatmap[:, None], (side, side), mode="bilinear")[:, 0]
    yield "the linear probe's map, Otsu", torch.stack([cut(values) for values in fine])
    square, half = torch.zeros(1, 1, side, side), round(side * test.object_masks.mean().item() ** 0.5 / 2)
    square[..., side // 2 - half : side // 2 + half, side // 2 - half : side // 2 + half] = 1
    yield "a square of the objects' mean area in the middle", square.expand(len(test.labels), -1, -1, -1)


def on_images(model: torch.nn.Module, data: Data, kind: str) -> Tensor:
    size = (data.images.shape[2], data.images.shape[3])
    part, found = (0.0, 0.0, float(size[1]), float(size[0])), []
    for images in data.images.split(50):
        seen = look(model, images)
        for row in range(len(images)):
            values = maps_on(seen, row, [kind], part, size)[kind]
            found.append(cut(values) if kind == "contributions" else values[None])
    return torch.stack(found)


def cut(values: Tensor) -> Tensor:
    return torch.from_numpy(above(values.numpy(), "otsu"))[None].float()


def scores(masks: Tensor, objects: Tensor) -> Tensor:
    """Means over the images of IoU, precision and recall."""
    objects = (objects > 0.5).float()
    both = (masks * objects).sum((1, 2, 3))
    precision, recall = both / masks.sum((1, 2, 3)).clamp(min=1), both / objects.sum((1, 2, 3))
    return torch.stack([mask_iou(masks, objects).mean(), precision.mean(), recall.mean()])


if __name__ == "__main__":
    main()
