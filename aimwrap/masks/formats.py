"""Files of one image's masks, and what COCO and YOLO want to know of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image

Array = np.ndarray[Any, Any]
_DIMMED = 0.3  # of the brightness of what an overlay's mask leaves out


def above(values: Array, threshold: float | str) -> Array:
    """The positions of contributions (H, W) above a threshold, as a mask of truth values.

    Args:
        values: of any sign; only positive ones can be above.
        threshold: a share of the largest value, or ``"otsu"``: the value that parts the positive ones best into two
            groups (Otsu 1979).
    """
    positive = values[values > 0]
    if not positive.size or (threshold == "otsu" and np.ptp(positive) == 0):
        return np.asarray(values > 0)
    if threshold != "otsu":
        return np.asarray(values > float(threshold) * positive.max())
    counts, edges = np.histogram(positive, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * centres).cumsum()
    over = counts.sum() - below
    between = below * over * (sums[:-1] / below - (sums[-1] - sums[:-1]) / over) ** 2  # neither is ever empty
    return np.asarray(values > edges[1 + between.argmax()])


def grey(values: Array) -> Array:
    """A map (H, W) as 8 bits: a mask as 0 and 255, contributions from 0 to their largest."""
    most = max(float(values.max()), 1e-30)
    return np.asarray((255 * values.astype(np.float64).clip(0) / most).round().astype(np.uint8))


def overlaid(image: Image.Image, mask: Array) -> Image.Image:
    """An RGB image that is darker where the mask is 0."""
    pixels = np.asarray(image)
    return Image.fromarray(np.where(mask[..., None] > 0, pixels, (_DIMMED * pixels).astype(np.uint8)))


def box_around(mask: Array) -> list[int] | None:
    """Left, top, width and height of a mask's ones in pixels; None where it has none."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def run_lengths(mask: Array) -> str:
    """A mask as COCO's compressed run lengths; an ImportError without pycocotools, naming the extra."""
    try:
        from pycocotools.mask import encode
    except ModuleNotFoundError as error:
        raise ImportError("COCO needs pycocotools: pip install 'aimwrap[masks]'") from error
    counts: bytes = encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def coco(kind: str, lines: Iterable[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """A data set in COCO's format: an annotation per image, of its label where it is known, else of the prediction.

    Of a kind of mask, from the journal's lines, one per image, and the names of the classes, whose ids begin with 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        (height, width), found = line["size"], line["masks"][kind]
        images.append({"id": number, "file_name": line["image"], "height": height, "width": width})
        if found["box"] is not None:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": line["class"] + 1,
                    "segmentation": {"size": [height, width], "counts": found["run_lengths"]},
                    "bbox": found["box"],
                    "area": found["pixels"],
                    "iscrowd": 0,
                    "score": line["confidence"],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"info": {"description": f"{kind} of aimwrap"}, "images": images, "annotations": annotations} | {
        "categories": categories
    }


def yolo(line: dict[str, Any], kind: str) -> str:
    """YOLO's text of one image: class, centre, width and height of the box, as shares of the image; empty without."""
    box, (height, width) = line["masks"][kind]["box"], line["size"]
    if box is None:
        return ""
    left, top, wide, high = box
    centre = (left + wide / 2) / width, (top + high / 2) / height
    return f"{line['class']} {centre[0]:.6f} {centre[1]:.6f} {wide / width:.6f} {high / height:.6f}\n"


def digest_of(model: torch.nn.Module) -> str:
    """A checksum of a model's weights."""
    digest = sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
