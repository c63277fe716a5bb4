"""Precision, recall and IoU of masks: hand-computed values, soft objects, empty cases, resizing, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

from aimwrap.metrics import chance_level, energy_pointing_game, mask_iou, mask_precision, mask_recall

MASK = torch.tensor([[[[1, 1, 1, 0], [1, 0, 0, 0]]]])  # 4 positions, 1 of them on the object
OBJECT = torch.tensor([[[0, 0, 1, 1], [0, 0, 0, 0]]])


def test_by_hand() -> None:
    assert mask_precision(MASK, OBJECT).tolist() == [1 / 4]
    assert mask_recall(MASK, OBJECT).tolist() == [1 / 2]
    assert mask_iou(MASK, OBJECT).item() == pytest.approx(1 / 5)
    assert mask_precision(MASK[:, 0].bool(), OBJECT[:, None]).tolist() == [1 / 4]


def test_soft_object_by_hand() -> None:
    soft = torch.tensor([[[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    assert mask_precision(MASK, soft, threshold=None).tolist() == [1.0 / 4]
    assert mask_recall(MASK, soft, threshold=None).tolist() == [1.0 / 2.0]
    assert mask_iou(MASK, soft, threshold=None).item() == pytest.approx(1.0 / 5.0)
    assert mask_recall(MASK, soft, threshold=0.2).item() == pytest.approx(2 / 3)


@given(hnp.arrays(np.bool_, (5, 3, 4)), hnp.arrays(np.bool_, (5, 3, 4)))
def test_each_is_its_definition_on_sets(masks: np.ndarray, objects: np.ndarray) -> None:
    masks[0], objects[0], objects[1] = False, False, False
    tensors = torch.from_numpy(masks)[:, None], torch.from_numpy(objects)
    for i, (precision, recall, iou) in enumerate(
        zip(mask_precision(*tensors), mask_recall(*tensors), mask_iou(*tensors), strict=True)
    ):
        on, there = set(np.flatnonzero(masks[i])), set(np.flatnonzero(objects[i]))
        for score, part, whole in (
            (precision, on & there, on),
            (recall, on & there, there),
            (iou, on & there, on | there),
        ):
            expected = len(part) / len(whole) if whole else math.nan
            assert score.item() == pytest.approx(expected, nan_ok=True)


def test_mask_that_is_on_everywhere() -> None:
    everywhere, object_mask = torch.ones(3, 1, 5, 5), torch.rand(3, 20, 20) > 0.6
    torch.testing.assert_close(mask_precision(everywhere, object_mask), chance_level(object_mask))
    torch.testing.assert_close(mask_iou(everywhere, object_mask), chance_level(object_mask))
    assert mask_recall(everywhere, object_mask).tolist() == [1.0] * 3


def test_precision_is_the_energy_pointing_of_the_mask() -> None:
    mask, object_mask = (torch.rand(4, 1, 5, 5) > 0.5).float(), torch.rand(4, 32, 32) > 0.6
    pointing = energy_pointing_game(mask[:, 0], object_mask, interpolation="nearest")
    torch.testing.assert_close(mask_precision(mask, object_mask), pointing)


def test_mask_is_resized_by_nearest_neighbour() -> None:
    mask = torch.tensor(
        [[[[1, 0]]]]
    )  # over five pixels: centres 0.5 and 1.5 in the first cell of 2.5, 2.5 in the second
    assert mask_recall(mask, torch.tensor([[[1, 1, 1, 0, 0]]])).item() == pytest.approx(2 / 3)


def test_empty_cases() -> None:
    masks = torch.tensor([[[0, 0]], [[1, 0]], [[0, 0]]])
    objects = torch.tensor([[[1, 0]], [[0, 0]], [[0, 0]]])
    nan = math.nan
    for function, expected in (
        (mask_precision, [nan, 0.0, nan]),
        (mask_recall, [0.0, nan, nan]),
        (mask_iou, [0.0, 0.0, nan]),
    ):
        torch.testing.assert_close(function(masks, objects), torch.tensor(expected), equal_nan=True)
        assert function(masks, objects, empty=0.5).tolist() == [0.5 if math.isnan(x) else x for x in expected]


@pytest.mark.parametrize("function", [mask_precision, mask_recall, mask_iou])
def test_errors(function) -> None:
    with pytest.raises(ValueError, match=r"got values from 0 to 0\.5: apply a threshold to a heatmap"):
        function(MASK / 2, OBJECT)
    with pytest.raises(ValueError, match=r"mask must be \(N, 1, h, w\) or \(N, h, w\), got \(1, 2, 2, 4\)"):
        function(MASK.expand(1, 2, 2, 4), OBJECT)
    with pytest.raises(ValueError, match=r"object_mask must be \(1, H, W\)"):
        function(MASK, OBJECT.expand(2, 2, 4))
    with pytest.raises(ValueError, match="divide an 8-bit mask by 255"):
        function(MASK, 255 * OBJECT, threshold=None)
