"""A plain classifier that ends in pooling and one linear layer, and so has a class activation map."""

from __future__ import annotations

from torch import Tensor, nn

from .explanation import evaluating
from .metrics import class_activation_map
from .model import AIM
from .taps import FINAL, tap_backbone


class PooledClassifier:
    """Logits and class activation maps of a classifier that is left as it is.

    Args:
        classifier: a CNN that ends in global average pooling and one linear layer, also inside ``torch.compile`` or
            ``DistributedDataParallel``.
        argument: what the caller calls it, for messages.

    Attributes:
        classifier: the module that is run, out of its wrappers.
        linear: its linear layer.
        num_classes: K.

    Raises:
        TypeError: if it is an AIM.
        ValueError: if its last feature map or such a linear layer cannot be found.

    Example:
        >>> import torch, torchvision
        >>> plain = PooledClassifier(torchvision.models.resnet18(num_classes=10).eval())
        >>> logits, heatmap = plain.explained(torch.randn(2, 3, 64, 64))
        >>> heatmap.shape, torch.allclose(
        ...     heatmap.mean((1, 2)) + plain.linear.bias[logits.argmax(1)], logits.amax(1), atol=1e-4
        ... )
        (torch.Size([2, 2, 2]), True)
    """

    def __init__(self, classifier: nn.Module, argument: str = "classifier") -> None:
        inner: nn.Module = getattr(classifier, "_orig_mod", getattr(classifier, "module", classifier))
        if isinstance(inner, AIM):
            raise TypeError(
                f"{argument} must be the classifier without AIM, got an AIM; pass the backbone trained by itself"
            )
        try:
            tapped = tap_backbone(inner, [3], final=True)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{argument}'s last feature map cannot be found in {type(inner).__name__}") from error
        assert tapped.final is not None
        channels = tapped.final.channels
        layers = [m for m in inner.modules() if isinstance(m, nn.Linear) and m.in_features == channels]
        if not layers or layers[-1].out_features != tapped.num_classes:
            raise ValueError(
                f"{argument} must end in global average pooling and one linear layer, so that it has a class "
                f"activation map; {type(inner).__name__} has no nn.Linear({channels}, {tapped.num_classes}) behind its "
                "last map"
            )
        self.classifier, self.linear, self.num_classes = inner, layers[-1], layers[-1].out_features
        self._backbone = tapped.backbone

    def logits(self, images: Tensor) -> Tensor:
        """Classify images (N, C, H, W) in evaluation mode: (N, K)."""
        with evaluating(self.classifier):
            logits: Tensor = self.classifier(images)
        return logits

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (N, K), and the class activation map of each image's predicted class (N, h, w).

        The map's mean and the linear layer's bias add up to the logit, unless there is more than pooling between: a
        norm, as in ConvNeXt, makes the map an approximation.
        """
        logits = self.logits(images)
        with evaluating(self.classifier):
            features = self._backbone(images)[FINAL]
        return logits, class_activation_map(features, self.linear.weight, logits.argmax(1))
