"""What is measured of a trained model: means for the tables, and each image's numbers for the bootstrap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from variants import Config, Data, Outcome, train

from aimwrap import AIM, Verification, verify
from aimwrap.analysis.look import measure as measured
from aimwrap.metrics import mask_precision, mask_recall, worst_group_accuracy


def measure(config: Config, outcome: Outcome, test: Data) -> dict[str, Any]:
    """Everything the report needs: means, and per image what the bootstrap resamples."""
    groups = 2 * test.labels + test.places
    # every map and the object averaged over the plain network's 5 x 5 grid, so that no map gains by being finer
    found = measured(outcome.look, test.labels, test.object_masks, (5, 5))
    record: dict[str, Any] = {
        "config": config.key,
        "accuracy": found.right.float().mean().item(),
        "worst_group": worst_group_accuracy(found.predicted, test.labels, groups, 4).item(),
        "pointing": found.energy_pointing.nanmean().item(),
        "pointing_matched": found.energy_pointing_matched.nanmean().item(),
        "without_energy": int(found.energy_pointing.isnan().sum()),
        "chance": test.object_masks.mean().item(),
        "seconds": outcome.seconds,
        "areas": outcome.areas,
    }
    images = {
        "cutout": test.cutouts.tolist(),
        "group": groups.tolist(),
        "right": found.right.int().tolist(),
        "pointing": rounded(found.energy_pointing),
        "pointing_matched": rounded(found.energy_pointing_matched),
    }
    if outcome.look.merged_mask is not None:
        # an empty mask has precision 0; no object is empty
        precision, recall = found.mask_precision.nan_to_num(0.0), found.mask_recall
        record |= {
            "area": found.area.mean().item(),
            "precision": precision.mean().item(),
            "recall": recall.mean().item(),
        }
        images |= {"precision": rounded(precision), "recall": rounded(recall)}
    kept = outcome.look.kept
    if kept is not None:
        record |= {
            "kept_area": kept.mean().item(),
            "kept_precision": mask_precision(kept, test.object_masks, empty=0.0).mean().item(),
            "kept_recall": mask_recall(kept, test.object_masks).mean().item(),
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


def rounded(values: Tensor) -> list[float | None]:
    """None where a score is undefined."""
    return [None if value != value else round(value, 4) for value in values.tolist()]
