"""A plain classifier that ends in pooling and one linear layer, and so has an exact class activation map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._numerics import both_sides, without_autocast
from .._wrappers import unwrap
from ..analysis.readout import bias_of, evaluating
from ..metrics import class_activation_map
from ..model import AIM
from ..taps import FINAL, tap_backbone
from ..taps.probe import logits_in

_NEAR = 1e-3  # of the largest feature: rounding is far below it, and other pooling far above


class PooledClassifier:
    """Logits and class activation maps of a classifier that is left as it is.

    For networks that average their final map over its positions and end in a linear layer, with a LayerNorm between
    the two or without, as ResNets and ConvNeXts do. Such a norm divides each image's average by one number, so shares
    of positions stay exact.

    Args:
        classifier: the network, on its device, also inside ``torch.compile`` or ``DistributedDataParallel``. Its
            modules are shared, so maps are always those of its present weights.
        argument: what the caller calls it, for messages.

    Attributes:
        classifier: the module that is run, out of its wrappers.
        linear: its last layer.
        norm: the LayerNorm before it, or None.
        num_classes: K.

    Raises:
        TypeError: if it is an AIM.
        ValueError: if its final map cannot be found, or it ends otherwise, such as in two linear layers; tried out on
            noise.

    Example:
        >>> import torchvision
        >>> plain = PooledClassifier(torchvision.models.resnet18(num_classes=10).eval())
        >>> logits, heatmap = plain.explained(torch.randn(2, 3, 64, 64))
        >>> heatmap.shape
        torch.Size([2, 2, 2])
        >>> torch.allclose(heatmap.mean((1, 2)) + plain.bias[logits.argmax(1)], logits.amax(1), atol=1e-4)
        True
    """

    def __init__(self, classifier: nn.Module, argument: str = "classifier") -> None:
        inner = unwrap(classifier)
        if isinstance(inner, AIM):
            raise TypeError(
                f"{argument} must be the classifier without AIM, got an AIM; pass the network trained without it"
            )
        with evaluating(inner), torch.no_grad():
            try:
                tapped = tap_backbone(inner, [], final=True)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{argument}'s last feature map cannot be found in {type(inner).__name__}") from error
            self._backbone = tapped.backbone.eval()
            found = _end_of(inner, self._backbone, tapped.image_shape)
        if found is None:
            raise ValueError(
                f"{argument} must end in an average over positions and one linear layer, so that a logit is a sum over "
                f"positions, and {type(inner).__name__} does not"
            )
        self.linear, self.norm = found
        self.classifier, self.num_classes = inner, self.linear.out_features

    @property
    def bias(self) -> Tensor:
        """What is added to each logit whatever the image shows, (K,); of a single logit, for both classes, (2,)."""
        bias = bias_of(self.linear)
        if self.norm is not None and self.norm.bias is not None:
            bias = bias + self.linear.weight @ self.norm.bias
        return both_sides(bias, 0).detach()

    @torch.no_grad()
    def explained(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (N, K), and the map of each image's predicted class (N, h, w), as :meth:`maps` gives it.

        The images are seen once: the logits are of the average of the final map, and the network's except for rounding.
        """
        features = self._features(images)
        means = features.mean((2, 3))
        logits: Tensor = self.linear(means if self.norm is None else _normalised(self.norm, means))
        return logits, self._maps_of(features, both_sides(logits, 1).argmax(1))

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """The maps of one class per image, in evaluation mode.

        Args:
            images: (N, C, H, W), as the network takes them.
            classes: (N,), the class to explain in each image; 0 or 1 of a single logit, whose sign decides.

        Returns:
            (N, h, w), which average, with :attr:`bias`, to the logits of the classes.
        """
        return self._maps_of(self._features(images), classes)

    def _features(self, images: Tensor) -> Tensor:
        with evaluating(self.classifier):
            features: Tensor = self._backbone(images)[FINAL]
        return features.to(self.linear.weight.dtype)

    def _maps_of(self, features: Tensor, classes: Tensor) -> Tensor:
        weight = both_sides(self.linear.weight, 0)
        if self.norm is None:
            return class_activation_map(features, weight, classes)
        if self.norm.weight is not None:
            weight = weight * self.norm.weight
        # The norm takes the mean over channels off; so does this, and the features may stay.
        weight = weight - weight.mean(1, keepdim=True)
        with without_autocast(features):
            variance = features.mean((2, 3)).var(1, correction=0)
            deviation = (variance + self.norm.eps).sqrt()[:, None, None]
        return class_activation_map(features, weight, classes) / deviation


def _end_of(
    network: nn.Module, backbone: nn.Module, image_shape: Sequence[int]
) -> tuple[nn.Linear, nn.LayerNorm | None] | None:
    """The last linear layer, and the norm between it and the final map's average; None if there is more between."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm1d)]
    if not linears:
        return None
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(linears[-1].weight)
    with calls_of([*linears, *norms]) as calls:
        logits = logits_in(network(images))
    seen = {module: (given[0], output) for module, made in calls.items() for given, output in made[-1:] if given}
    last = [linear for linear in linears if linear in seen and _is_same(seen[linear][1], logits)]
    means = backbone(images)[FINAL].mean((2, 3))
    if not last or seen[last[0]][0].shape != means.shape:
        return None
    given, made = seen[last[0]]
    # By its output, not by what it computes: fresh norms are all alike.
    after = [norm for norm in norms if norm in seen and _is_same(seen[norm][1], given)]
    norm = after[-1] if after else None
    if isinstance(norm, nn.BatchNorm1d):  # which does nothing while it is fresh, and other things once it is trained
        return None
    expected = means if norm is None else _normalised(norm, means)
    if not (given.isfinite().all() and made.isfinite().all()):  # that is for others to name
        return last[0], norm
    pairs = (given, expected), (made, nn.functional.linear(given, last[0].weight, last[0].bias))  # a subclass may scale
    is_near = bool(given.any()) and all((a - b).abs().max() <= _NEAR * a.abs().max() for a, b in pairs)
    return (last[0], norm) if is_near else None


def _is_same(output: Tensor, given: Tensor | None) -> bool:
    if given is None or output.numel() != given.numel():
        return False
    return torch.allclose(output.flatten(1), given, rtol=0, atol=0, equal_nan=True)


def _normalised(norm: nn.LayerNorm, means: Tensor) -> Tensor:
    return nn.functional.layer_norm(means, means.shape[1:], norm.weight, norm.bias, norm.eps)


@contextmanager
def calls_of(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[tuple[tuple[Any, ...], Any]]]]:
    """Fills, while it is entered, with the arguments and the output of each call of each of the modules."""
    calls: dict[nn.Module, list[tuple[tuple[Any, ...], Any]]] = {module: [] for module in modules}
    with ExitStack() as hooks:
        for module in calls:
            hooks.enter_context(module.register_forward_hook(lambda called, *seen: calls[called].append(seen)))
        yield calls
