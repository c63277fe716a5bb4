"""Check a user's own model: what is guaranteed, and how far what is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._numerics import kept_random_state
from .._text import with_progress
from ..second_look import SecondLook
from .explanation import evaluating, inside, unwrap
from .findings import Verification
from .guarantees import checks, merge, verify_second_look
from .survival import PlainModel, measure, plain_model


@torch.no_grad()
def verify(
    model: nn.Module,
    images: Tensor,
    plain: PlainModel | None = None,
    *,
    batch_size: int = 32,
    measure_pixels: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Verification:
    """Check AIM's guarantees on a model and some images, and measure how much the pixels outside its masks matter.

    A mask proves which *features* were pooled. A feature's receptive field is wider than its cell, and the mask itself
    is computed from the whole image, so pixels outside the merged mask can still reach the decision. Three fillings
    replace them: the image's mean colour, a strong blur (the image at 1/16 of its size, enlarged), another image of
    ``images``. Each is done with the masks held fixed, where only features can change, and recomputed, where the masks
    can change too. The controls: the same shape moved elsewhere (around the border, so it may be cut in two, and a
    large one overlaps itself), and, for the plain model, as many pixels of its own class activation map. All
    fillings are unnatural images, so compare the rows and do not read one alone.

    Args:
        model: an :class:`~aimwrap.AIM`, or a :class:`~aimwrap.SecondLook`, whose guarantee is one of pixels; left in
            the mode that it was in. Inside ``torch.compile``, the masks are checked on the model that was compiled, and
            the logits on what the compiler made of it; of a second look, both on the model that was compiled.
        images: (N, C, H, W), as the model takes them; take at least a hundred for the measurements, of the test set.
        plain: the plain classifier to compare with: a CNN that ends in global average pooling and one linear layer (a
            norm in between, as in ConvNeXt, makes its class activation map an approximation), or a function from images
            to logits (N, K) and heatmaps (N, h, w).
        batch_size: images per forward pass.
        measure_pixels: False leaves the measurements out.
        seed: of the controls and of the checks' random features. The random states of the CPU and of CUDA devices are
            left as they were.
        progress: whether to show a bar.

    Returns:
        The checks, ``passed`` if all hold, and the measurements.

    Raises:
        TypeError: if the model is no AIM, or images, ``plain`` or ``batch_size`` are of the wrong type.
        ValueError: if there are no images, or ``plain``'s class activation map cannot be found.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> verify(model, torch.randn(4, 3, 64, 64), measure_pixels=False).passed
        True
    """
    _check_arguments(images, batch_size)
    batches = images.split(batch_size)
    generator = torch.Generator().manual_seed(seed)
    second = inside(model, SecondLook)
    if second is not None:
        if plain is not None:
            raise ValueError("plain is compared with AIM's own masks: verify(second.first, images, plain)")
        with evaluating(second), kept_random_state():
            return verify_second_look(second, batches, generator, measure_pixels, progress)
    aim = unwrap(model)
    with evaluating(aim), kept_random_state():
        shown = with_progress(batches, "checking guarantees") if progress else batches
        held = (*merge(checks(model, aim, batch, generator) for batch in shown),)
        if not measure_pixels:
            return Verification(held, (), math.nan)
        return Verification(held, *measure(aim, batches, plain_model(plain), held[0], generator, progress))


def _check_arguments(images: Tensor, batch_size: int) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}; torch.stack makes one")
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none; a hundred or more give useful intervals")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise TypeError(f"batch_size must be an int, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
