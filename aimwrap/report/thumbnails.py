"""What a model saw, small enough that hundreds fit into one page."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

from PIL import Image
from torchvision.transforms import v2

# Longer side in pixels, by how many images there are: a page of 500 then has 3 MB, and one of 5,000 some 13.
_SIDES = ((120, 224), (1200, 160))
_MANY = 80
_QUALITY = 80


def thumbnail_side(images: int) -> int:
    """The longer side of thumbnails, in pixels, where a page shows so many images.

    >>> thumbnail_side(100), thumbnail_side(500), thumbnail_side(5000)
    (224, 160, 80)
    """
    return next((side for most, side in _SIDES if images <= most), _MANY)


def thumbnail(image: Any, side: int) -> bytes:
    """An image as JPEG, no larger than it is.

    Args:
        image: a PIL image or an 8-bit image tensor (3, H, W), after crop and resize and before it is normalised.
        side: the longer one's length, in pixels.

    Returns:
        The file's bytes.
    """
    picture: Image.Image = image if isinstance(image, Image.Image) else v2.functional.to_pil_image(image)
    longer = max(picture.size)
    if longer > side:
        size = [max(1, round(length * side / longer)) for length in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def as_url(jpeg: bytes) -> str:
    """A JPEG file as the ``data:`` address that a page shows without a request."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
