"""A step beyond the paper: classify the image again, from only the pixels that the masks keep, enlarged."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from ._checks import check_images
from ._numerics import wide_dtype
from .analysis.explanation import evaluating, linear_classifier, shares, unwrap
from .base import fresh_linear
from .output import AIMOutput
from .resizing import resize_to
from .taps import FINAL


class SecondLookOutput(NamedTuple):
    """The results of both looks.

    Attributes:
        logits: the prediction, by the kept pixels alone, (N, K).
        kept: the pixels that the second look sees, exactly 0 or 1, (N, 1, H, W).
        boxes: the part of each image that is enlarged, (N, 4) as left, top, right, bottom in pixels.
        first: the first look, which chose them.
    """

    logits: Tensor
    kept: Tensor
    boxes: Tensor
    first: AIMOutput


class SecondLook(nn.Module):
    """Let a trained AIM look again: its merged mask is cut out of the *image*, enlarged, and classified again.

    A mask of features does not hide pixels, since a feature sees more of the image than its cell. Here everything but
    the merged mask, grown by a margin, becomes ``fill`` before the same backbone sees the image again. So, for given
    masks, no other pixel can move these logits by a bit; how the masks were made is up to the first look.

    The first look is always one in evaluation mode and without gradients. Only :attr:`classifier` is trained, by cross
    entropy, and since nothing before it moves, :meth:`features` of a data set can be cached.

    Args:
        model: a trained :class:`~aimwrap.AIM` with the feature-preserving head; shared, and left as it is.
        margin: positions of the merged mask's grid by which it is grown on every side.
        least: no box is smaller than this share of the image's sides: 0.3 enlarges at most 1 / 0.3 times.
        fill: what the other pixels become in all channels, in the images' own units: 0 is the mean colour of normalised
            ones.

    Raises:
        TypeError: if the model is not an AIM.
        ValueError: if it has the paper's head, which keeps no final map, or an argument is out of range.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> second = SecondLook(model)
        >>> output = second(torch.randn(2, 3, 64, 64))
        >>> output.logits.shape, output.kept.shape, output.boxes.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 64, 64]), torch.Size([2, 4]))
        >>> optimizer = torch.optim.AdamW(second.classifier.parameters())
    """

    def __init__(self, model: nn.Module, *, margin: int = 1, least: float = 0.3, fill: float = 0.0) -> None:
        super().__init__()
        first = unwrap(model)
        if first.classified is None:
            raise ValueError(
                "model must have the feature-preserving head, whose backbone keeps its final map for the second look; "
                f'got the {first.head} head: AIM(backbone, head="feature-preserving")'
            )
        _check_arguments(margin, least, fill)
        self.first = first
        self.margin, self.least, self.fill = margin, least, fill
        self.classifier = fresh_linear(first.classified.channels, first.num_classes).to(first.classifier.weight)

    def forward(self, images: Tensor) -> SecondLookOutput:
        """Look twice.

        Args:
            images: (N, C, H, W), as the model takes them.

        Returns:
            The second look's logits, what it was shown, and the first look.
        """
        closer, kept, boxes, first = self.look(images)
        return SecondLookOutput(self.classifier(closer.mean((2, 3))), kept, boxes, first)

    def features(self, images: Tensor) -> Tensor:
        """The classifier's input, (N, D). Nothing before it is trained, so it may be kept for all epochs."""
        return self.look(images)[0].mean((2, 3))

    def logits_of(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        """The second look's logits for masks that are given: no other pixel can move them.

        Args:
            images: (N, C, H, W).
            kept: as in :class:`SecondLookOutput`, ``boxes`` too.
            boxes: see there.

        Returns:
            (N, K).

        Raises:
            ValueError: if the masks or boxes are not of these images.
        """
        check_images(images, self.first.in_channels, self.first.classifier, least_side=1)
        _check_given(images, kept, boxes)
        logits: Tensor = self.classifier(self._closer(images, kept, boxes).mean((2, 3)))
        return logits

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, AIMOutput]:
        """Everything before the classifier.

        Args:
            images: (N, C, H, W).

        Returns:
            The backbone's final map of the enlarged pixels, (N, D, h, w), and ``kept``, ``boxes`` and ``first`` of
            :class:`SecondLookOutput`.
        """
        with evaluating(self.first):
            features = self.first.forward_masks(self.first.forward_backbone(images))
            kept = kept_pixels(features.merged_mask, images, self.margin)
            boxes = boxes_around(kept, self.least)
            return self._closer(images, kept, boxes), kept, boxes, self.first.forward_head(features)

    @torch.no_grad()
    def _closer(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        with evaluating(self.first):
            shown = enlarge(torch.where(kept > 0, images, self.fill + 0 * kept.to(images)), boxes)  # NaN stays NaN
            return self.first.forward_backbone(shown)[FINAL]

    @torch.no_grad()
    def contributions(self, images: Tensor) -> Tensor:
        """The share of each position of the second look in each logit; with the bias they add up to it.

        Args:
            images: (N, C, H, W).

        Returns:
            (N, K, h, w), float32 at least, over the grid that the backbone's final map lays on the box.

        Raises:
            TypeError: if the classifier was replaced by something other than one linear layer.
        """
        closer = self.look(images)[0]
        return shares(linear_classifier(self), closer, torch.ones_like(closer[:, :1]), "all")

    def extra_repr(self) -> str:
        """The arguments."""
        return f"margin={self.margin}, least={self.least}, fill={self.fill}"


def kept_pixels(merged_mask: Tensor, images: Tensor, margin: int = 0) -> Tensor:
    """The pixels under a mask, or within some of its positions of it.

    Args:
        merged_mask: (N, 1, h, w) of zeros and ones.
        images: (N, C, H, W), for the size.
        margin: positions by which the mask is grown on every side.

    Returns:
        (N, 1, H, W) of zeros and ones.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[0, 0, 0, 0] = 1
        >>> kept_pixels(mask, torch.zeros(1, 3, 8, 8), margin=1).sum()
        tensor(16.)
    """
    grown = F.max_pool2d(merged_mask, 2 * margin + 1, stride=1, padding=margin)
    return resize_to(grown, images)


def boxes_around(kept: Tensor, least: float = 0.3) -> Tensor:
    """The smallest box of the image's own shape around what is kept, within the image.

    Args:
        kept: (N, 1, H, W) of zeros and ones. An empty one gets the complete image.
        least: no box is smaller than this share of the sides.

    Returns:
        (N, 4) as left, top, right, bottom in pixels.

    Example:
        >>> kept = torch.zeros(1, 1, 8, 16)
        >>> kept[0, 0, 2:6, 0:3] = 1
        >>> boxes_around(kept)
        tensor([[0., 2., 8., 6.]])
    """
    height, width = kept.shape[-2:]
    top, bottom = _ends(kept[:, 0].amax(2))
    left, right = _ends(kept[:, 0].amax(1))
    share = torch.maximum((bottom - top) / height, (right - left) / width).clamp(min=least)
    wide, high = share * width, share * height
    left, top = _begin(left, right, wide, width), _begin(top, bottom, high, height)
    return torch.stack([left, top, left + wide, top + high], dim=1)


def enlarge(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box at the image's own size, bilinear.

    Args:
        images: (N, C, H, W).
        boxes: (N, 4) as left, top, right, bottom in pixels.

    Returns:
        (N, C, H, W).

    Example:
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> torch.equal(enlarge(image, torch.tensor([[0.0, 0.0, 4.0, 4.0]])), image)
        True
    """
    wide = images.to(wide_dtype(images))  # half precision rounds edges, and the images' numbers from 257 or 2049 on
    number = torch.arange(len(wide), device=wide.device, dtype=wide.dtype)
    rows = torch.cat([number[:, None], boxes.to(wide.dtype)], dim=1)
    height, width = images.shape[-2:]
    enlarged: Tensor = roi_align(wide, rows, (height, width), sampling_ratio=1, aligned=True)
    return enlarged.to(images.dtype)


def on_the_image(heatmap: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
    """A second look's map, placed on the image.

    Args:
        heatmap: (N, h, w), over each image's box.
        kept: (N, 1, H, W) of zeros and ones.
        boxes: (N, 4) as left, top, right, bottom in pixels.

    Returns:
        (N, H, W): each pixel has the value of the position that its centre is in, and 0 where it is not kept.
    """
    height, width = kept.shape[-2:]
    left, top, right, bottom = boxes.to(heatmap).unbind(1)
    x = 2 * (torch.arange(width).to(heatmap) + 0.5 - left[:, None]) / (right - left)[:, None] - 1
    y = 2 * (torch.arange(height).to(heatmap) + 0.5 - top[:, None]) / (bottom - top)[:, None] - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    placed = F.grid_sample(heatmap[:, None], grid, mode="nearest", align_corners=False)
    return torch.where(kept == 0, 0.0, placed)[:, 0]


def _check_arguments(margin: int, least: float, fill: float) -> None:
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise ValueError(f"margin must be a number of positions, 0 or more, got {margin!r}")
    if not isinstance(least, Real) or not 0 < least <= 1:
        raise ValueError(f"least must be a share of the image's sides in (0, 1], got {least!r}")
    if not isinstance(fill, Real) or not math.isfinite(fill):
        raise ValueError(
            f"fill must be one finite number for all channels, in the images' own units, got {fill!r}; "
            "0 is the mean colour of normalised images"
        )


def _check_given(images: Tensor, kept: Tensor, boxes: Tensor) -> None:
    number, _, height, width = images.shape
    if kept.shape != (number, 1, height, width):
        raise ValueError(
            f"kept must be of shape {(number, 1, height, width)}, the images' own, got {tuple(kept.shape)}; "
            "aimwrap.second_look.kept_pixels(mask, images) brings a mask to it"
        )
    if boxes.shape != (number, 4):
        raise ValueError(
            f"boxes must be of shape {(number, 4)}, left, top, right and bottom in pixels, got {tuple(boxes.shape)}; "
            "aimwrap.second_look.boxes_around(kept) makes them"
        )


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ones of each row begin and end: (N, L) -> (N,) each; a row without ones is all of it."""
    length = occupied.shape[1]
    found = occupied.float()
    begin = found.argmax(1).float()
    end = length - found.flip(1).argmax(1).float()  # without any one, 0 and the length
    return begin, end


def _begin(low: Tensor, high: Tensor, size: Tensor, length: int) -> Tensor:
    """Where a box begins that has this size, an interval in its middle, and its ends within the image."""
    return torch.minimum(((low + high - size) / 2).clamp(min=0), length - size)
