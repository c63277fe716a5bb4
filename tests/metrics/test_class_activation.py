"""Class activation maps: they average to the logit; errors."""

import pytest
import torch

from aimwrap.metrics import class_activation_map


def test_class_activation_map_averages_to_the_logit() -> None:
    features, weight = torch.randn(4, 6, 3, 5), torch.randn(2, 6)
    classes = torch.tensor([0, 1, 1, 0])
    maps = class_activation_map(features, weight, classes)
    logits = features.mean(dim=(2, 3)) @ weight.T
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits[torch.arange(4), classes])


def test_class_activation_map_errors() -> None:
    features = torch.zeros(2, 6, 3, 3)
    with pytest.raises(ValueError, match=r"features must be \(N, D, H, W\)"):
        class_activation_map(features[0], torch.zeros(2, 6), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"weight must be \(K, 6\)"):
        class_activation_map(features, torch.zeros(2, 5), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"classes must be of shape \(2,\)"):
        class_activation_map(features, torch.zeros(2, 6), torch.zeros(3).long())
