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


def test_of_a_single_logit_class_0_is_the_negative() -> None:
    features, weight = torch.randn(2, 6, 3, 5), torch.randn(1, 6)
    for_class_1 = torch.einsum("d,ndhw->nhw", weight[0], features)
    assert torch.allclose(class_activation_map(features, weight, torch.tensor([1, 1])), for_class_1, atol=1e-5)
    assert torch.allclose(class_activation_map(features, weight, torch.tensor([0, 0])), -for_class_1, atol=1e-5)


def test_classes_may_be_small_integers_and_must_exist() -> None:
    """uint8 numbers were taken for a mask of rows, and -1 for the last class."""
    features, weight, classes = torch.randn(2, 6, 3, 5), torch.randn(2, 6), torch.tensor([1, 0])
    expected = class_activation_map(features, weight, classes)
    for dtype in (torch.uint8, torch.int32, torch.bool):
        assert torch.equal(class_activation_map(features, weight, classes.to(dtype)), expected)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=rf"classes must be in 0..1, got {wrong}"):
            class_activation_map(features, weight, torch.tensor([0, wrong]))
    with pytest.raises(TypeError, match="classes must be an integer tensor"):
        class_activation_map(features, weight, classes.float())
