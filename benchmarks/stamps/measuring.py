"""What is measured of a trained model: means for the tables, and each image's numbers for the bootstrap."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from variants import Config, Data, Outcome, train

from aimwrap import AIM, Verification, verify
from aimwrap.metrics import energy_pointing_game, mask_precision, mask_recall, worst_group_accuracy


def measure(config: Config, outcome: Outcome, test: Data) -> dict[str, Any]:
    """Everything the report needs: means, and per image what the bootstrap resamples."""
    groups = 2 * test.labels + test.places
    right = outcome.logits.argmax(1) == test.labels
    pointing = energy_pointing_game(outcome.heatmap, test.object_masks, zero_energy=0.0)
    # every map averaged down to the plain network's 5 x 5 grid, so that no map gains by being finer
    coarse = F.adaptive_avg_pool2d(outcome.heatmap[:, None], (5, 5))[:, 0]
    matched = energy_pointing_game(coarse, test.object_masks, zero_energy=0.0)
    record: dict[str, Any] = {
        "config": config.key,
        "accuracy": right.float().mean().item(),
        "worst_group": worst_group_accuracy(outcome.logits, test.labels, groups, 4).item(),
        "pointing": pointing.mean().item(),
        "pointing_matched": matched.mean().item(),
        "without_energy": (outcome.heatmap.clamp(min=0).sum((1, 2)) == 0).sum().item(),
        "chance": test.object_masks.mean().item(),
        "seconds": outcome.seconds,
        "areas": outcome.areas,
    }
    images = {
        "cutout": test.cutouts.tolist(),
        "group": groups.tolist(),
        "right": right.int().tolist(),
        "pointing": rounded(pointing),
        "pointing_matched": rounded(matched),
    }
    if outcome.merged_mask is not None:
        # an empty mask has precision 0; no object is empty
        precision = mask_precision(outcome.merged_mask, test.object_masks, empty=0.0)
        recall = mask_recall(outcome.merged_mask, test.object_masks)
        record |= {
            "area": outcome.merged_mask.mean().item(),
            "precision": precision.mean().item(),
            "recall": recall.mean().item(),
        }
        images |= {"precision": rounded(precision), "recall": rounded(recall)}
    if outcome.kept is not None:
        record |= {
            "kept_area": outcome.kept.mean().item(),
            "kept_precision": mask_precision(outcome.kept, test.object_masks, empty=0.0).mean().item(),
            "kept_recall": mask_recall(outcome.kept, test.object_masks).mean().item(),
        }
    return record | {"images": images}


def _verified(model: torch.nn.Module, images: Tensor, plain: torch.nn.Module | None = None) -> Verification:
    found = verify(model, images, plain, batch_size=50)
    if not found.passed:
        raise RuntimeError(f"the trained model breaks a guarantee:\n{found}")
    return found


def survival_beside_plain(
    outcome: Outcome, data: tuple[Data, Data], backbone: torch.nn.Module, seed: int
) -> dict[str, Any]:
    """How often AIM's and the linear probe's predictions survive when pixels are replaced."""
    assert isinstance(outcome.model, AIM)
    probe = train(Config("plain", 1.0, seed), data, backbone).model.eval()
    found = _verified(outcome.model, data[1].images, probe)
    return {"survival": [row._asdict() for row in found.survival]}


def survival_by_itself(outcome: Outcome, test: Data) -> dict[str, Any]:
    """How often a second look's predictions survive when the first look sees other pixels, and what is kept."""
    found = _verified(outcome.model, test.images)
    return {"survival": [row._asdict() for row in found.survival], "kept_pixels": found.area}


def rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
