"""What two processes do in test_modules.py: a file of its own, so that they need not import the tests."""

import datetime
import math

import torch
import torch.distributed as dist
from torch import Tensor

from aimwrap.metrics import EnergyPointingGame, GroupAccuracy, MaskOverlap, PointingGame

NUM_GROUPS = 5  # the last one is empty
TRAIN_COUNTS = [70, 10, 5, 15, 0]


def images(count: int) -> dict[str, Tensor]:
    """Heatmaps, masks, objects, predictions, labels and groups, some of them undefined, the same in every process."""
    random = torch.Generator().manual_seed(7)
    heatmaps = torch.randn(count, 5, 5, generator=random)
    object_masks = torch.rand(count, 1, 20, 20, generator=random).pow(2)
    object_masks *= torch.linspace(0.7, 1, count)[:, None, None, None]  # objects of different sizes
    masks = (torch.rand(count, 1, 5, 5, generator=random) > 0.6).float()
    heatmaps[1], object_masks[3], masks[4] = 0.0, 0.0, 0.0
    return {
        "heatmaps": heatmaps,
        "masks": masks,
        "object_masks": object_masks,
        "predictions": torch.randint(3, (count,), generator=random),
        "labels": torch.randint(3, (count,), generator=random),
        "groups": torch.randint(NUM_GROUPS - 1, (count,), generator=random),
    }


def results(batches: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Every metric over the batches; computing gathers from all processes, if there are several."""
    pointing, maximum, overlap = EnergyPointingGame(), PointingGame(tolerance=1), MaskOverlap()
    pointing_as_misses = EnergyPointingGame(zero_energy=0.0, empty_object=0.0, resolution=(4, 4), threshold=None)
    groups = GroupAccuracy(NUM_GROUPS, train_counts=TRAIN_COUNTS)
    for batch in batches:
        pointing.update(batch["heatmaps"], batch["object_masks"])
        pointing_as_misses.update(batch["heatmaps"], batch["object_masks"])
        maximum.update(batch["heatmaps"], batch["object_masks"])
        overlap.update(batch["masks"], batch["object_masks"])
        groups.update(batch["predictions"], batch["labels"], batch["groups"])
    metrics = {
        "pointing": pointing,
        "pointing_as_misses": pointing_as_misses,
        "maximum": maximum,
        "overlap": overlap,
        "groups": groups,
    }
    computed = {name: metric.compute() for name, metric in metrics.items()}
    with pointing.sync_context():
        per_image = pointing.per_image()["energy_pointing"]
    computed["per_image"] = {"sorted": per_image.nan_to_num(nan=math.inf).sort().values}
    return computed


def split(data: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    parts = {name: values.split(sizes) for name, values in data.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def work(rank: int, folder: str, count: int) -> None:
    """Process 0 gets two batches more than process 1; then process 1 gets none at all. Leaves what it computed."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    try:
        batches = split(images(count), [2, 6, 1, count - 9])
        uneven = results(batches[:3] if rank == 0 else batches[3:])
        nothing_in_one = results(batches if rank == 0 else [])
        torch.save({"uneven": uneven, "nothing_in_one": nothing_in_one}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
