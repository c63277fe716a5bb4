"""Where a model's input lies on the image that it was made of, and the model's maps put there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ..analysis.explanation import spread
from ..analysis.look import Look
from ..preprocessing import Preprocessing
from ..second_look import on_the_image

Part = tuple[float, float, float, float]


def seen_part(preprocessing: Preprocessing, size: tuple[int, int]) -> Part:
    """The part of an image that a model sees, after its preprocessing has resized and cropped it.

    Args:
        preprocessing: the model's.
        size: (H, W) of the image.

    Returns:
        Left, top, right and bottom in the image's pixels, with fractions.

    Example:
        >>> half = (0.5,) * 3
        >>> seen_part(Preprocessing((100, 100), half, half, crop=0.5), (400, 600))
        (200.0, 100.0, 400.0, 300.0)
    """
    resize, _ = preprocessing.resize_and_crop()
    canvas: Any = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=size)
    resized: Sequence[int] = resize(canvas).canvas_size
    top, left = (round((side - kept) / 2) for side, kept in zip(resized, preprocessing.image_size, strict=True))
    (rows, columns), (height, width) = preprocessing.image_size, size
    return (
        left * width / resized[1],
        top * height / resized[0],
        (left + columns) * width / resized[1],
        (top + rows) * height / resized[0],
    )


def placed(values: Tensor, part: Part, size: tuple[int, int], mode: str = "nearest") -> Tensor:
    """A map (h, w) over a part of an image, as (H, W), with a mode of :func:`~aimwrap.second_look.on_the_image`.

    Outside the part it is 0.

    Example:
        >>> placed(torch.tensor([[1.0, 2.0]]), (1.0, 0.0, 5.0, 2.0), (2, 6))
        tensor([[0., 1., 1., 2., 2., 0.],
                [0., 1., 1., 2., 2., 0.]])
    """
    return on_the_image(values[None].float(), torch.ones(1, 1, *size), torch.tensor([part]), mode)[0]


def maps_on(look: Look, number: int, what: Sequence[str], part: Part, size: tuple[int, int]) -> dict[str, Tensor]:
    """What a model made of one image of a batch, at the size of the file's image.

    Args:
        look: at the batch, on the CPU.
        number: of the image in it.
        what: ``"merged"``, ``"stages"``, ``"kept"`` and ``"contributions"``, some of them.
        part: that the model saw, as :func:`seen_part` gives it.
        size: (H, W) of the image.

    Returns:
        (H, W) each: masks of zeros and ones, and contributions to the predicted class, whose sum is its logit without
        the bias; one of each stage, ``"stage_2"``.
    """
    found: dict[str, Tensor] = {}
    if "merged" in what and look.merged_mask is not None:
        found["merged"] = placed(look.merged_mask[number, 0], part, size)
    if "stages" in what:
        masks = {f"stage_{stage}": mask[number, 0] for stage, mask in look.output.masks.items()}
        found |= {name: placed(mask, part, size) for name, mask in masks.items()}
    if "kept" in what and look.kept is not None:
        found["kept"] = (placed(look.kept[number, 0], part, size, "bilinear") > 0.5).float()  # of pixels, not cells
    if "contributions" in what:
        box = part if look.boxes is None else box_on(look, number, part)
        shares = look.shares[number].double()
        found["contributions"] = spread(shares[None, None], torch.tensor([box]), *size)[0, 0].float()
    return found


def box_on(look: Look, number: int, part: Part) -> Part:
    """The box that a second look saw enlarged, in the pixels of the image of which the model saw a part."""
    assert look.boxes is not None and look.kept is not None
    height, width = look.kept.shape[-2:]
    across, down = (part[2] - part[0]) / width, (part[3] - part[1]) / height
    left, top, right, bottom = look.boxes[number].tolist()
    return part[0] + left * across, part[1] + top * down, part[0] + right * across, part[1] + bottom * down


def as_stored(shown: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """What was placed on an image as it is shown, (H, W), turned back to the pixels in the file by EXIF's orientation.

    Example:
        >>> as_stored(np.array([[1, 2, 3]]), 6)  # viewers turn the file by 90 degrees clockwise
        array([[3],
               [2],
               [1]])
    """
    flipped = {2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.T, 7: shown[::-1, ::-1].T}
    turned = {6: 1, 8: -1}
    return np.rot90(shown, turned[orientation]) if orientation in turned else flipped.get(orientation, shown)
