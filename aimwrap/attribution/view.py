"""AIM as a plain classifier: images in, logits out, and a module to hook where the classified map passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._wrappers import unwrap
from ..model import AIM
from ..top_down import pool


class LogitsView(nn.Module):
    """Show AIM as a plain classifier, for libraries that expect images in, logits out and a layer to hook.

    It shares the model, parameters and mode included, and adds nothing to it: ``view.eval()`` is ``model.eval()``. Its
    logits are the model's own, to the bit.

    Args:
        model: what to show, also inside ``torch.compile`` or ``DistributedDataParallel``.
        mask_gradients: whether gradients also run through the masks, on the straight-through path that they are trained
            on. The masks are steps, whose own gradient is zero: False holds them, and what remains is the derivative of
            the logits proper. Logits, and everything up to ``cam_layer``, do not depend on it.

    Attributes:
        cam_layer: the module whose output is the map that the final classifier averages, (N, D, H, W), zero outside
            the merged mask.

    Raises:
        TypeError: if the model is not an AIM.

    Example:
        >>> import torch, torchvision
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3]).eval()
        >>> view, images = LogitsView(model), torch.randn(2, 3, 64, 64)
        >>> torch.allclose(view(images), model(images).logits, atol=1e-5)
        True
        >>> handle = view.cam_layer.register_forward_hook(lambda layer, inputs, output: print(tuple(output.shape)))
        >>> _ = view(images)
        (2, 512, 4, 4)
    """

    def __init__(self, model: nn.Module, *, mask_gradients: bool = True) -> None:
        super().__init__()
        aim = unwrap(model)
        if not isinstance(aim, AIM):
            raise TypeError(
                f"model must be an AIM, got {type(model).__name__}; a plain classifier needs no view, and cam_layer_of "
                "finds its layer"
            )
        self.model = aim
        self.mask_gradients = mask_gradients
        self.cam_layer = nn.Identity()
        self.training = self.cam_layer.training = aim.training

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (N, C, H, W), as the model takes them.

        Returns:
            Logits, (N, K).
        """
        maps = self.model.forward_backbone(images)
        if self.mask_gradients:
            features = self.model.forward_masks(maps)
        else:
            with torch.no_grad():
                masks = self.model.forward_masks(maps).masks
            features = self.model.forward_masks(maps, masks)
        fused = self.cam_layer(features.fused)
        logits: Tensor = self.model.classifier(pool(fused, features.merged_mask, self.model.pooling))
        return logits

    def extra_repr(self) -> str:
        """Whether gradients run through the masks."""
        return f"mask_gradients={self.mask_gradients}"
