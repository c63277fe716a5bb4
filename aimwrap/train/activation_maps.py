"""Class activation maps of a plain network, where it ends so that they are exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..explanation import evaluating
from ..metrics import class_activation_map
from ..plain import PlainClassifier
from ..taps import FINAL, tap_backbone

_NEAR = 1e-3  # of the largest feature: rounding is far below it, and another way of pooling far above


class ActivationMaps:
    """What each position of a plain network's final map adds to its logits.

    For networks that average their final map over its positions and end in a linear layer, with a LayerNorm between
    the two or without, as ResNets and ConvNeXts do. Such a norm divides each image's average by one number, so shares
    of positions stay exact.

    Args:
        model: on its device. Its modules are shared, so maps are always those of its present weights.

    Raises:
        ValueError: if the network ends otherwise, such as in two linear layers; tried out on noise.

    Example:
        >>> import timm
        >>> model = PlainClassifier(timm.create_model("resnet10t"), num_classes=2).eval()
        >>> images, classes = torch.randn(1, 3, 64, 64), torch.tensor([1])
        >>> maps = ActivationMaps(model)
        >>> heatmaps = maps(images, classes)
        >>> heatmaps.shape
        torch.Size([1, 2, 2])
        >>> logits = heatmaps.mean((1, 2)) + maps.bias[classes]
        >>> torch.allclose(logits, model(images).logits[:, 1], atol=1e-5)
        True
    """

    def __init__(self, model: PlainClassifier) -> None:
        classifier = model.backbone.get_submodule(model.classifier_name)
        assert isinstance(classifier, nn.Linear)
        self.classifier = classifier
        self.norm: nn.LayerNorm | None = None
        with evaluating(model), torch.no_grad():
            self.backbone = tap_backbone(model.backbone, [], final=True).backbone.eval()
            self._find_norm(model)

    @property
    def bias(self) -> Tensor:
        """What is added to each logit whatever the image shows, (K,)."""
        weight = self.classifier.weight.detach()
        bias = weight.new_zeros(len(weight)) if self.classifier.bias is None else self.classifier.bias.detach()
        if self.norm is None or self.norm.bias is None:
            return bias
        return bias + weight @ self.norm.bias.detach()

    @torch.no_grad()
    def __call__(self, images: Tensor, classes: Tensor) -> Tensor:
        """The maps of one class per image; the model has to be in evaluation mode.

        Args:
            images: (N, C, H, W), as the model takes them.
            classes: (N,), the class to explain in each image.

        Returns:
            (N, h, w), which average, with :attr:`bias`, to the logits of the classes.
        """
        features: Tensor = self.backbone(images)[FINAL]
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.classifier.weight.dtype)
            weight = self.classifier.weight
            if self.norm is None:
                return class_activation_map(features, weight, classes)
            if self.norm.weight is not None:
                weight = weight * self.norm.weight
            # The norm takes the mean over channels off; so does this, and the features may stay.
            weight = weight - weight.mean(1, keepdim=True)
            variance = features.mean((2, 3)).var(1, correction=0)
            deviation = (variance + self.norm.eps).sqrt()[:, None, None]
            return class_activation_map(features, weight, classes) / deviation

    def _find_norm(self, model: PlainClassifier) -> None:
        """Compare what the classifier is given with the final map's average, behind each norm it may have passed."""
        parameter = self.classifier.weight
        side = (64, 64) if model.preprocessing is None else model.preprocessing.image_size
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, _channels(model.backbone), *side, generator=generator).to(parameter)
        norms = [module for module in model.backbone.modules() if isinstance(module, nn.LayerNorm)]
        with _outputs_of([self.classifier, *norms]) as seen:
            logits = model(images).logits
        given, returned = seen.get(self.classifier, (None, None))
        means = self.backbone(images)[FINAL].mean((2, 3))
        if given is not None and returned is not None and given.shape == means.shape and torch.equal(returned, logits):
            # By its output, not by what it computes: fresh norms are all alike.
            behind = [norm for norm in norms if norm in seen and _is_same(seen[norm][1], given)]
            self.norm = behind[-1] if behind else None
            expected = means if self.norm is None else _normalised(self.norm, means)
            if (given - expected).abs().max() <= _NEAR * given.abs().max() and given.any():
                return
        raise ValueError(
            f"{type(model.backbone).__name__} does not end in an average over positions and one linear layer, so that "
            "a logit is no sum over positions"
        )


def _is_same(output: Tensor, given: Tensor) -> bool:
    return output.numel() == given.numel() and torch.equal(output.flatten(1), given)


def _normalised(norm: nn.LayerNorm, means: Tensor) -> Tensor:
    return nn.functional.layer_norm(means, means.shape[1:], norm.weight, norm.bias, norm.eps)


def _channels(backbone: nn.Module) -> int:
    convolution = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels


@contextmanager
def _outputs_of(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Fills, while it is entered, with the last input and output of each module that is called."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if arguments:
            seen[module] = (arguments[0], output)

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
