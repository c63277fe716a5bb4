"""Exchanged backgrounds: what masks keep of each image of a batch, pasted on other images, to train on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._checks import check_masks, check_second_look
from ._numerics import wide_dtype


@torch.no_grad()
def exchange_backgrounds(
    images: Tensor,
    masks: Tensor,
    *,
    onto: Tensor | None = None,
    onto_masks: Tensor | None = None,
    margin: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Paste what the masks keep of each image on another image, whose own kept pixels are filled in from around.

    Labels stay those of ``images``. If a label is tied to the background, it is not tied to the new one, so what learns
    from the result has to use what is kept. The idea is that of Xiao et al., "Noise or Signal: The Role of Image
    Backgrounds in Object Recognition", ICLR 2021 (their mixed-rand), with a model's own masks.

    Masks are interpolated between their positions, so edges are soft: over one position of the masks' grid, and hard
    for masks of the images' own size. Pixels that a mask keeps fully are the image's own, to the bit. Pixels that it
    does not reach are the other image's; of these, what the other one's mask reaches is painted over with the colours
    around it.

    Args:
        images: (N, C, H, W), floating, any C; N is 2 at least, unless ``onto`` is given.
        masks: zeros and ones, (N, 1, h, w) on any grid, such as ``model.forward_masks(...).merged_mask``.
        onto: other images to paste on, (M, C, H, W): each image gets one of them at random. None takes the batch: all
            its images form a random ring, and each is pasted on its neighbour.
        onto_masks: as ``masks``, of ``onto``. None shows these images as they are.
        margin: positions by which the masks are grown on every side.
        generator: of the draw, on the CPU; None takes torch's own.

    Returns:
        (N, C, H, W), without a gradient, in the dtype of the images. NaN stays NaN.

    Raises:
        TypeError: if images or masks are not floating tensors.
        ValueError: if masks or ``onto`` do not fit the images, there is one image only, or the margin is out of range.

    Example:
        >>> images = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(3, 1, 4, 4)
        >>> masks = torch.zeros(3, 1, 4, 4)
        >>> masks[:, :, 1, 1] = 1
        >>> exchange_backgrounds(images, masks, margin=0, generator=torch.Generator().manual_seed(0))[0, 0]
        tensor([[3., 3., 3., 3.],
                [3., 1., 3., 3.],
                [3., 3., 3., 3.],
                [3., 3., 3., 3.]])
    """
    check_second_look(margin=margin)
    for name, given in (("images", images), ("onto", images if onto is None else onto)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            came = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"{name} must be a float tensor of shape (N, C, H, W), got {came}")
        if given.ndim != 4 or given.shape[1:] != images.shape[1:] or not len(given):
            fits = "(N, C, H, W)" if given is images else f"(M, {', '.join(map(str, images.shape[1:]))}), as images"
            raise ValueError(f"{name} must be of shape {fits}, got {tuple(given.shape)}")
    if onto is None and onto_masks is not None:
        raise ValueError("onto_masks are of onto, which is not given; leave them out")
    number = len(images)
    shares = _shares(images, masks, margin)
    behind: Tensor | None = shares  # of the images that are pasted on
    if onto is None:
        if number < 2:
            raise ValueError(
                "images must be two at least, since each is pasted on another one, got one; give larger batches, or "
                "other images as onto"
            )
        ring = torch.randperm(number, generator=generator)
        others, onto = torch.empty_like(ring), images
        others[ring] = ring.roll(1)
    else:
        behind = None if onto_masks is None else _shares(onto, onto_masks, margin)
        others = torch.randint(len(onto), (number,), generator=generator)
    others = others.to(images.device)
    wide, background = images.to(shares.dtype), onto.to(shares)[others]
    if behind is not None:
        hidden = behind[others] > 0
        background = painted_over(background.masked_fill(hidden, 0.0), 1 - hidden.to(shares))
    pasted = torch.where(shares == 0, background, torch.where(shares == 1, wide, background.lerp(wide, shares)))
    return pasted.to(images.dtype)


def _shares(images: Tensor, masks: Tensor, margin: int) -> Tensor:
    """How much each pixel is kept, from 0 to 1: the grown masks, interpolated, (N, 1, H, W) in float32 at least."""
    grown = F.max_pool2d(check_masks(masks, images).to(wide_dtype(images)), 2 * margin + 1, 1, margin)
    shares = F.interpolate(grown, size=images.shape[2:], mode="bilinear")
    return shares.mul(255).round() / 255  # interpolated ones are not exactly 1 everywhere


def painted_over(images: Tensor, shown: Tensor) -> Tensor:
    """Images with only some pixels shown, the others in the mean colours of what is shown around them.

    From fine to coarse the shown pixels are averaged, two by two; from coarse to fine what is not shown takes the
    average of the finest level that has one, interpolated.

    Args:
        images: (N, C, H, W).
        shown: (N, 1, H, W) of zeros and ones.

    Returns:
        (N, C, H, W); where nothing is shown at all, zeros.

    Example:
        >>> image = torch.tensor([[[[1.0, 1.0, 5.0, 1.0]]]])
        >>> painted_over(image, torch.tensor([[[[1.0, 1.0, 0.0, 1.0]]]]))
        tensor([[[[1., 1., 1., 1.]]]])
    """
    levels = [(images * shown, shown.to(images))]
    while max(levels[-1][0].shape[2:]) > 1:
        halved = [F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in levels[-1]]
        levels.append((halved[0], halved[1]))
    colours, weights = levels.pop()
    filled = colours / weights.clamp(min=1e-6)
    for colours, weights in reversed(levels):
        coarser = F.interpolate(filled, size=colours.shape[2:], mode="bilinear")
        filled = colours + (1 - weights) * coarser
    return filled
