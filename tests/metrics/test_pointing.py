"""The first measures: hand-computed values, limit cases and errors."""

from __future__ import annotations

import math

import pytest
import torch

from aimwrap.metrics import class_activation_map, energy_pointing_game, group_accuracies, worst_group_accuracy


def test_energy_pointing_by_hand() -> None:
    attribution = torch.tensor([[[4.0, 1.0], [-7.0, 3.0]]])  # positive energy 8, of which 5 in the first row
    object_mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [5 / 8]
    assert energy_pointing_game(attribution, object_mask[:, None]).tolist() == [5 / 8]


def test_energy_pointing_ignores_scale_and_negative_values() -> None:
    attribution = torch.randn(3, 5, 7)
    object_mask = torch.rand(3, 5, 7)
    expected = energy_pointing_game(attribution, object_mask)
    torch.testing.assert_close(energy_pointing_game(100 * attribution, object_mask), expected)
    torch.testing.assert_close(energy_pointing_game(attribution.clamp(min=0), object_mask), expected)


def test_constant_map_scores_the_objects_area_at_any_resolution() -> None:
    object_mask = (torch.rand(4, 1, 30, 42) > 0.8).float()
    scores = energy_pointing_game(torch.full((4, 3, 5), 2.0), object_mask)
    torch.testing.assert_close(scores, object_mask.mean(dim=(1, 2, 3)))


def test_attribution_is_resized_bilinearly_to_the_mask() -> None:
    attribution = torch.tensor([[[1.0, 0.0]]])  # over four columns: 1, 0.75, 0.25, 0
    object_mask = torch.tensor([[[1, 0, 0, 0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [0.5]


def test_mask_threshold_is_strict() -> None:
    attribution = torch.tensor([[[1.0, 3.0]]])
    soft_mask = torch.tensor([[[0.5, 0.6]]])
    assert energy_pointing_game(attribution, soft_mask).tolist() == [0.75]
    assert energy_pointing_game(attribution, soft_mask, threshold=0.4).tolist() == [1.0]


def test_map_without_positive_energy_is_nan_or_what_is_asked() -> None:
    attribution, object_mask = -torch.ones(2, 4, 4), torch.ones(2, 4, 4)
    assert energy_pointing_game(attribution, object_mask).isnan().all()
    assert energy_pointing_game(attribution, object_mask, zero_energy=0.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("attribution", "object_mask", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4), r"attribution must be \(N, h, w\)"),
        (torch.zeros(2, 4, 4), torch.zeros(3, 4, 4), r"object_mask must be \(2, H, W\)"),
        (torch.zeros(2, 4, 4), torch.zeros(2, 3, 4, 4), r"object_mask must be \(2, H, W\)"),
    ],
)
def test_energy_pointing_errors(attribution: torch.Tensor, object_mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        energy_pointing_game(attribution, object_mask)


def test_group_accuracies_by_hand_and_empty_groups() -> None:
    predictions = torch.tensor([0, 0, 1, 1, 0])
    labels = torch.tensor([0, 1, 1, 0, 0])
    groups = torch.tensor([0, 2, 2, 2, 0])
    accuracies = group_accuracies(predictions, labels, groups, num_groups=4)
    torch.testing.assert_close(accuracies, torch.tensor([1.0, math.nan, 1 / 3, math.nan]), equal_nan=True)
    assert worst_group_accuracy(predictions, labels, groups, num_groups=4).item() == pytest.approx(1 / 3)


def test_logits_count_like_their_largest() -> None:
    logits, labels, groups = torch.randn(50, 3), torch.randint(3, (50,)), torch.randint(6, (50,))
    expected = group_accuracies(logits.argmax(dim=1), labels, groups, num_groups=6)
    torch.testing.assert_close(group_accuracies(logits, labels, groups, num_groups=6), expected, equal_nan=True)


def test_worst_group_without_images_is_nan() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert worst_group_accuracy(nothing, nothing, nothing, num_groups=2).isnan()


def test_group_errors() -> None:
    three, two = torch.tensor([0, 1, 1]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"predictions must be \(3,\)"):
        group_accuracies(two, three, three, num_groups=2)
    with pytest.raises(ValueError, match=r"groups must be 0 to 0 for num_groups=1, got 0 to 1"):
        worst_group_accuracy(three, three, three, num_groups=1)


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
    with pytest.raises(ValueError, match=r"classes must be \(2,\)"):
        class_activation_map(features, torch.zeros(2, 6), torch.zeros(3).long())
