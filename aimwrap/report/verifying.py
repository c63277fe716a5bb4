"""``verify`` on some of the images, with a plain model that may want them prepared otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..preprocessing import Preprocessing
from ..verification import Verification, verify
from .subjects import Subject


def verified(
    subject: Subject, plain: Subject | None, images: Tensor, *, batch_size: int, seed: int, progress: bool
) -> dict[str, Any] | None:
    """What :func:`~aimwrap.verify` says of an AIM, as plain values; None for a plain model or without images.

    Args:
        subject: the model.
        plain: whose class activation map is the control.
        images: (M, 3, H, W), prepared for the model.
        batch_size: images per forward pass.
        seed: of the controls.
        progress: whether to show a bar.
    """
    if subject.aim is None or not len(images):
        return None
    weight = next(subject.aim.parameters())
    found = verify(
        subject.aim,
        images.to(weight.device, weight.dtype),
        None if plain is None else _seen_by(plain, subject.preprocessing),
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return {"images": len(images), **_as_dict(found)}


def note_on_control(subjects: list[Subject]) -> list[str]:
    """What is to be said where the plain model takes images of another size than those that pixels are replaced in."""
    plain = next((subject for subject in subjects if subject.role == "plain"), None)
    sizes = {subject.preprocessing.image_size for subject in subjects if subject.aim is not None}
    if plain is None or sizes <= {plain.preprocessing.image_size}:
        return []
    return ["For verify's control, images are prepared for AIM and then resized to what the plain model takes."]


def _seen_by(plain: Subject, prepared: Preprocessing) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The plain model as a function of images that were prepared for another model."""
    own, pooled = plain.preprocessing, plain.pooled
    assert pooled is not None
    if own == prepared:
        return pooled.explained

    def explained(images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std, own_mean, own_std = (
            torch.tensor(values, device=images.device, dtype=images.dtype)[:, None, None]
            for values in (prepared.mean, prepared.std, own.mean, own.std)
        )
        images = (images * std + mean - own_mean) / own_std
        if own.image_size != prepared.image_size:
            images = F.interpolate(images, own.image_size, mode="bilinear", antialias=True)
        return pooled.explained(images)

    return explained


def _as_dict(found: Verification) -> dict[str, Any]:
    return {
        "passed": found.passed,
        "checks": [check._asdict() for check in found.checks],
        "survival": [row._asdict() for row in found.survival],
        "area": found.area if found.area == found.area else None,
        "note": found.note,
    }
