"""Energy pointing and pointing: hand-computed values, two other implementations, limit cases, invariances, errors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torchvision import tv_tensors

from aimwrap.metrics import area_corrected, boxes_to_masks, chance_level, energy_pointing_game, pointing_game

NAN = math.nan


def values(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """Attributions of a fixed shape: zeros, ties and negative values included, no extreme scales."""
    steps = st.integers(-20, 20).map(lambda step: step / 4)
    return hnp.arrays(np.float32, shape, elements=steps)


def object_masks(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.bool_, shape)


# --- energy pointing game ---


def test_energy_pointing_by_hand() -> None:
    attribution = torch.tensor([[[4.0, 1.0], [-7.0, 3.0]]])  # positive energy 8, of which 5 in the first row
    object_mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [5 / 8]
    assert energy_pointing_game(attribution, object_mask[:, None]).tolist() == [5 / 8]


@pytest.mark.parametrize(("negatives", "expected"), [("clamp", 6 / 8), ("abs", 8 / 11), ("keep", 4 / 5)])
def test_what_becomes_of_negative_values(negatives: Any, expected: float) -> None:
    attribution = torch.tensor([[[6.0, -2.0, 2.0, -1.0]]])
    object_mask = torch.tensor([[[1, 1, 0, 0]]])
    assert energy_pointing_game(attribution, object_mask, negatives=negatives).item() == pytest.approx(expected)


def test_negative_values_count_as_zero_before_the_map_is_resized() -> None:
    attribution = torch.tensor([[[1.0, -1.0]]])  # clamped first: 1, 0.75, 0.25, 0; afterwards: 1, 0.5, 0, 0
    object_mask = torch.tensor([[[1, 0, 0, 0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [0.5]
    assert energy_pointing_game(attribution[:, :, [0, 1]], torch.tensor([[[1]]]), resolution=(1, 1)).tolist() == [1.0]


def five_lines_of_numpy(attribution: np.ndarray, object_mask: np.ndarray) -> np.ndarray:
    energy = np.maximum(attribution, 0)
    with np.errstate(invalid="ignore"):
        share = (energy * object_mask).sum(axis=(1, 2)) / energy.sum(axis=(1, 2))  # 0 / 0 is NaN
    share[~object_mask.any(axis=(1, 2))] = np.nan
    return share


@given(values(6, 3, 4), object_masks(6, 3, 4))
def test_energy_pointing_is_five_lines_of_numpy(attribution: np.ndarray, object_mask: np.ndarray) -> None:
    attribution[0], object_mask[1] = -np.abs(attribution[0]), False  # no energy; no object
    expected = five_lines_of_numpy(attribution, object_mask)
    scores = energy_pointing_game(torch.from_numpy(attribution), torch.from_numpy(object_mask)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert np.isnan(scores[:2]).all()


def test_energy_pointing_is_quantus_attribution_localisation() -> None:
    quantus = pytest.importorskip("quantus")
    attribution = torch.randn(8, 1, 12, 10, dtype=torch.float64)
    object_mask = torch.rand(8, 1, 12, 10) > torch.linspace(0.1, 0.9, 8)[:, None, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        localisation = quantus.AttributionLocalisation(
            positive_attributions=True, abs=False, normalise=False, disable_warnings=True
        )
        expected = localisation(
            model=None,
            x_batch=np.zeros((8, 1, 12, 10)),
            y_batch=np.zeros(8, dtype=int),
            a_batch=attribution.numpy(),
            s_batch=object_mask.numpy().astype(int),
        )
    scores = energy_pointing_game(attribution[:, 0], object_mask)
    np.testing.assert_allclose(scores.numpy(), np.array(expected), rtol=1e-5)


@given(values(4, 3, 5), object_masks(4, 6, 10), st.floats(1e-3, 1e3))
def test_energy_pointing_stays_from_0_to_1_whatever_the_scale(
    attribution: np.ndarray, object_mask: np.ndarray, scale: float
) -> None:
    heatmap, on_object = torch.from_numpy(attribution), torch.from_numpy(object_mask)
    scores = energy_pointing_game(heatmap, on_object, zero_energy=0, empty_object=0)
    assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    torch.testing.assert_close(energy_pointing_game(scale * heatmap, on_object, zero_energy=0, empty_object=0), scores)
    everything = torch.ones_like(on_object)
    torch.testing.assert_close(
        energy_pointing_game(heatmap, everything, zero_energy=1), torch.ones(4), msg="all energy is in the image"
    )


@given(values(4, 6, 4), object_masks(4, 6, 4))
def test_object_and_background_share_the_energy(attribution: np.ndarray, object_mask: np.ndarray) -> None:
    object_mask[:, 0, 0], object_mask[:, 0, 1] = True, False  # neither is empty
    heatmap, on_object = torch.from_numpy(attribution), torch.from_numpy(object_mask)
    heatmap[:, 3, 3] = 1.0  # there is energy
    for resolution in (None, (3, 2), (4, 3)):
        on = energy_pointing_game(heatmap, on_object, resolution=resolution)
        off = energy_pointing_game(heatmap, ~on_object, resolution=resolution)
        torch.testing.assert_close(on + off, torch.ones(4))


def test_constant_map_scores_chance_at_any_resolution() -> None:
    object_mask = (torch.rand(4, 1, 30, 42) > 0.8).float()
    for resolution in (None, (3, 5), (2, 3), (1, 1)):
        scores = energy_pointing_game(torch.full((4, 3, 5), 2.0), object_mask, resolution=resolution)
        torch.testing.assert_close(scores, object_mask.mean(dim=(1, 2, 3)))
        torch.testing.assert_close(scores, chance_level(object_mask))


def test_attribution_is_resized_to_the_mask() -> None:
    attribution = torch.tensor([[[1.0, 0.0]]])  # over four columns: 1, 0.75, 0.25, 0
    object_mask = torch.tensor([[[0, 1, 0, 0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [0.375]
    assert energy_pointing_game(attribution, object_mask, interpolation="nearest").tolist() == [0.5]


def test_coarser_mask_gets_the_average_of_what_it_covers() -> None:
    attribution = torch.zeros(1, 8, 8)
    attribution[0, 1, 1] = 1.0  # plain bilinear interpolation to 2 x 2 reads rows and columns 1, 2 and 5, 6 only
    attribution[0, 0, 7] = 1.0  # a value at the corner
    scores = energy_pointing_game(attribution, torch.tensor([[[1, 0], [0, 0]]]))
    assert scores.tolist() == [0.5]


def test_nearest_takes_the_cell_that_a_pixels_centre_is_in() -> None:
    attribution = torch.tensor([[[1.0, 0.0, 0.0]]])  # cells of 5 / 3 pixels: pixel centres 0.5 and 1.5 in the first
    object_mask = torch.tensor([[[0, 1, 0, 0, 0]]])
    assert energy_pointing_game(attribution, object_mask, interpolation="nearest").tolist() == [0.5]


def test_common_resolution_by_hand() -> None:
    attribution = torch.tensor([[[1.0, 3.0, 0.0, 2.0]]])  # cells of two: 2, 1
    object_mask = torch.tensor([[[0, 1, 1, 1, 0, 0, 0, 0]]])  # cells of four: 0.75, 0
    assert energy_pointing_game(attribution, object_mask, resolution=(1, 2)).tolist() == [0.75 * 2 / 3]


def test_common_resolution_counts_border_pixels_by_their_area() -> None:
    attribution = torch.tensor([[[2.0, 3.0, 1.0]]])  # two cells of 1.5 pixels: 3.5 and 2.5
    object_mask = torch.tensor([[[1, 0]]])
    assert energy_pointing_game(attribution, object_mask, resolution=(1, 2)).item() == pytest.approx(3.5 / 6)


def test_common_resolution_makes_a_map_and_its_repetition_equal() -> None:
    coarse = torch.rand(3, 4, 4)
    fine = coarse.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    object_mask = torch.rand(3, 24, 24) > 0.7
    scores = [energy_pointing_game(heatmap, object_mask, resolution=(2, 2)) for heatmap in (coarse, fine)]
    torch.testing.assert_close(*scores)


def test_common_resolution_is_exact_under_autocast() -> None:
    attribution, object_mask = torch.rand(3, 14, 14), torch.rand(3, 28, 28) > 0.7
    expected = energy_pointing_game(attribution, object_mask, resolution=(5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(energy_pointing_game(attribution, object_mask, resolution=(5, 5)), expected)


def test_a_finer_map_points_better_for_free_but_not_at_one_resolution() -> None:
    object_mask = torch.zeros(1, 32, 32)
    object_mask[:, 8:14, 8:14] = 1
    fine = F.adaptive_avg_pool2d(object_mask, 16)  # the best that each grid can show of the object
    coarse = F.adaptive_avg_pool2d(object_mask, 4)
    assert energy_pointing_game(fine, object_mask) > energy_pointing_game(coarse, object_mask) + 0.2
    at_4 = [energy_pointing_game(heatmap, object_mask, resolution=(4, 4)) for heatmap in (fine, coarse)]
    torch.testing.assert_close(*at_4)


def test_mask_threshold_is_strict_and_none_weighs() -> None:
    attribution = torch.tensor([[[1.0, 3.0]]])
    soft_mask = torch.tensor([[[0.5, 0.6]]])
    assert energy_pointing_game(attribution, soft_mask).tolist() == [0.75]
    assert energy_pointing_game(attribution, soft_mask, threshold=0.4).tolist() == [1.0]
    assert energy_pointing_game(attribution, soft_mask, threshold=None).item() == pytest.approx((0.5 + 1.8) / 4)


@pytest.mark.parametrize("negatives", ["clamp", "abs", "keep"])
def test_map_without_energy_is_nan_or_what_is_asked(negatives: Any) -> None:
    attribution, object_mask = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    assert energy_pointing_game(attribution, object_mask, negatives=negatives).isnan().all()
    assert energy_pointing_game(attribution, object_mask, negatives=negatives, zero_energy=0.25).tolist() == [0.25] * 2


def test_negative_total_is_no_energy() -> None:
    attribution = torch.tensor([[[1.0, -2.0]]])
    object_mask = torch.tensor([[[1, 0]]])
    assert energy_pointing_game(attribution, object_mask).tolist() == [1.0]
    assert energy_pointing_game(attribution, object_mask, negatives="keep").isnan().all()


def test_image_without_object_is_nan_or_what_is_asked_even_without_energy() -> None:
    attribution = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    nothing = torch.zeros(2, 4, 4)
    assert energy_pointing_game(attribution, nothing).isnan().all()
    assert energy_pointing_game(attribution, nothing, empty_object=0.5, zero_energy=0.0).tolist() == [0.5, 0.5]


def test_no_images_no_scores() -> None:
    assert energy_pointing_game(torch.zeros(0, 3, 3), torch.zeros(0, 9, 9)).shape == (0,)
    assert pointing_game(torch.zeros(0, 3, 3), torch.zeros(0, 9, 9)).shape == (0,)


@pytest.mark.parametrize(
    ("attribution", "object_mask", "options", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4), {}, r"attribution must be \(N, h, w\)"),
        (torch.zeros(2, 4, 4), torch.zeros(3, 4, 4), {}, r"object_mask must be \(2, H, W\)"),
        (torch.zeros(2, 4, 4), torch.zeros(2, 3, 4, 4), {}, r"object_mask must be \(2, H, W\)"),
        (torch.tensor([[[1.0]], [[NAN]]]), torch.ones(2, 1, 1), {}, r"attribution must be finite.* in images \[1\]"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 255), {"threshold": None}, "divide an 8-bit mask by 255"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4), {"negatives": "drop"}, "negatives must be one of 'clamp'"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4), {"interpolation": "cubic"}, "interpolation must be one of"),
        (torch.zeros(1, 4, 4), torch.ones(1, 8, 8), {"resolution": (4, 5)}, "not be finer than attribution, .* 4 x 4"),
        (torch.zeros(1, 8, 8), torch.ones(1, 4, 4), {"resolution": (5, 4)}, "not be finer than object_mask"),
        (torch.zeros(1, 8, 8), torch.ones(1, 4, 4), {"resolution": (0, 4)}, "resolution must be .rows, columns."),
    ],
)
def test_energy_pointing_errors(
    attribution: Tensor, object_mask: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        energy_pointing_game(attribution, object_mask, **options)


# --- chance and the area-corrected form ---


def test_chance_level_by_hand() -> None:
    soft_mask = torch.tensor([[[1.0, 0.6, 0.2, 0.0]], [[0.0] * 4], [[1.0] * 4]])
    assert chance_level(soft_mask).tolist() == [0.5, 0.0, 1.0]
    torch.testing.assert_close(chance_level(soft_mask, threshold=None), torch.tensor([0.45, 0.0, 1.0]))


def test_area_corrected_by_hand() -> None:
    corrected = area_corrected(torch.tensor([0.7, 0.4, 0.1, 1.0, NAN]), torch.tensor([0.4, 0.4, 0.4, 1.0, 0.4]))
    torch.testing.assert_close(corrected, torch.tensor([0.5, 0.0, -0.5, NAN, NAN]), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_area_corrected_computes_in_float32(dtype: torch.dtype) -> None:
    """Near a chance of 1, half precision was wrong in the second digit."""
    scores, chance = torch.tensor([0.97, 0.2]).to(dtype), torch.tensor([0.953, 0.8]).to(dtype)
    corrected = area_corrected(scores, chance)
    assert corrected.dtype == torch.float32
    torch.testing.assert_close(corrected.double(), area_corrected(scores.double(), chance.double()))


def test_area_corrected_wants_one_value_per_image_of_each() -> None:
    with pytest.raises(ValueError, match="average after the correction"):
        area_corrected(torch.rand(3), torch.tensor(0.3))


# --- pointing game ---


def pointing_in_a_loop(attribution: np.ndarray, object_mask: np.ndarray, tolerance: float) -> float:
    """One image, transcribed naively: reading order, then every object pixel's distance."""
    rows, columns = attribution.shape
    if not object_mask.any() or (attribution == attribution[0, 0]).all():
        return math.nan
    best = (0, 0)
    for row in range(rows):
        for column in range(columns):
            if attribution[row, column] > attribution[best]:
                best = (row, column)
    distances = [math.dist(best, position) for position in np.argwhere(object_mask)]
    return float(min(distances) <= tolerance)


@given(values(5, 4, 6), object_masks(5, 4, 6), st.sampled_from([0, 1, math.sqrt(2), 2, 2.5]))
def test_pointing_is_the_loop_over_positions(
    attribution: np.ndarray, object_mask: np.ndarray, tolerance: float
) -> None:
    object_mask[0] = False
    expected = [pointing_in_a_loop(*pair, tolerance) for pair in zip(attribution, object_mask, strict=True)]
    scores = pointing_game(torch.from_numpy(attribution), torch.from_numpy(object_mask), tolerance=tolerance)
    np.testing.assert_array_equal(scores.numpy(), np.array(expected, dtype=np.float32))


@pytest.mark.parametrize(("distance", "hit"), [(14, 1.0), (15, 1.0), (16, 0.0)])
def test_default_tolerance_is_15_pixels_of_the_mask_border_included(distance: int, hit: float) -> None:
    attribution, object_mask = torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)
    attribution[0, 20, 3] = 1
    object_mask[0, 20, 3 + distance] = 1
    assert pointing_game(attribution, object_mask).tolist() == [hit]


def test_first_maximum_in_reading_order_counts() -> None:
    attribution = torch.tensor([[[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]])
    assert pointing_game(attribution, torch.tensor([[[0, 0, 1], [0, 0, 0]]]), tolerance=0).tolist() == [1.0]
    assert pointing_game(attribution, torch.tensor([[[0, 0, 0], [1, 0, 0]]]), tolerance=0).tolist() == [0.0]


def test_pointing_resizes_to_the_mask_and_reads_rows_and_columns() -> None:
    attribution = torch.tensor([[[-3.0, -2.0, -1.0]]])  # the last of three columns, in 2 x 12 pixels
    object_mask = torch.zeros(1, 2, 12)
    object_mask[0, 0, 10:] = 1
    assert pointing_game(attribution, object_mask, tolerance=0).tolist() == [1.0]
    assert pointing_game(attribution, object_mask.flip(-1), tolerance=0).tolist() == [0.0]


def test_pointing_undefined_cases() -> None:
    attribution = torch.stack([torch.eye(3), torch.ones(3, 3), torch.ones(3, 3)])
    object_mask = torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.zeros(3, 3)])
    assert pointing_game(attribution, object_mask).isnan().all()
    assert pointing_game(attribution, object_mask, empty_object=0.25, constant_map=0.5).tolist() == [0.25, 0.5, 0.25]


def test_pointing_errors() -> None:
    attribution, object_mask = torch.rand(2, 4, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="tolerance must be a radius of 0 or more pixels, got -1"):
        pointing_game(attribution, object_mask, tolerance=-1)
    with pytest.raises(ValueError, match=r"object_mask must be \(2, H, W\)"):
        pointing_game(attribution, object_mask[:1])
    with pytest.raises(ValueError, match="attribution must be finite"):
        pointing_game(attribution / 0, object_mask)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        pointing_game(attribution, object_mask, interpolation="cubic")


# --- boxes ---


def test_boxes_by_hand() -> None:
    boxes = [
        torch.tensor([[1, 0, 3, 2]]),
        torch.zeros(0, 4),
        torch.tensor([[-5.0, 1.0, 0.6, 9.0], [0.0, 0.0, 0.4, 1.0]]),
    ]
    first, second, third = boxes_to_masks(boxes, size=(3, 4)).int().tolist()
    assert first == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert second == [[0] * 4] * 3
    assert third == [[0] * 4, [1, 0, 0, 0], [1, 0, 0, 0]]  # centres at 0.5: inside 0.6, outside 0.4


def test_overlapping_boxes_count_once() -> None:
    mask = boxes_to_masks([torch.tensor([[0, 0, 3, 1], [1, 0, 4, 1]])], size=(1, 8))
    assert mask.dtype == torch.bool
    assert chance_level(mask).tolist() == [0.5]
    assert energy_pointing_game(torch.ones(1, 1, 8), mask).tolist() == [0.5]


def test_no_images_no_masks() -> None:
    assert boxes_to_masks([], size=(3, 4)).shape == (0, 3, 4)


def test_boxes_may_be_arrays_and_lists() -> None:
    """They ended in "'numpy.ndarray' object has no attribute 'unbind'"."""
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]])
    expected = boxes_to_masks([torch.from_numpy(boxes)], size=(2, 4)).expand(3, 2, 4)
    assert torch.equal(boxes_to_masks([boxes, boxes.tolist(), list(boxes)], size=(2, 4)), expected)
    assert not boxes_to_masks(np.zeros((2, 0, 4)), size=(2, 4)).any()
    with pytest.raises(ValueError, match=r"got \(0,\) for image 0: .* for none torch\.zeros\(0, 4\)"):
        boxes_to_masks([[]], size=(2, 4))


@pytest.mark.parametrize(("form", "box"), [("XYXY", [2, 3, 12, 7]), ("XYWH", [2, 3, 10, 4]), ("CXCYWH", [7, 5, 10, 4])])
def test_boxes_of_torchvision_say_their_format(form: str, box: list[int]) -> None:
    boxes = tv_tensors.BoundingBoxes([box], format=form, canvas_size=(16, 16))
    (mask,) = boxes_to_masks([boxes], size=(16, 16))
    assert mask[3:7, 2:12].all() and mask.sum() == 40


def test_box_errors() -> None:
    with pytest.raises(ValueError, match=r"boxes must hold one \(M, 4\) tensor .* for image 0: for one box write"):
        boxes_to_masks([torch.tensor([0, 0, 2, 2])], size=(3, 4))
    with pytest.raises(ValueError, match=r"x0 <= x1 and y0 <= y1, got \[\[2, 2, 1, 1\]\] for image 0"):
        boxes_to_masks([torch.tensor([[2, 2, 1, 1]])], size=(3, 4))


def test_the_exact_average_is_adaptive_pooling_where_its_windows_do_not_overlap() -> None:
    """At the grids of Stamps and the demo, 10 x 10 to 5 x 5; clamping after averaging is another number."""
    maps = torch.randn(3, 10, 10)
    pooled = F.adaptive_avg_pool2d(maps.clamp(min=0)[:, None], (5, 5))[:, 0]
    objects = torch.rand(3, 5, 5)
    exact = energy_pointing_game(maps, objects, threshold=None, resolution=(5, 5))
    torch.testing.assert_close(exact, energy_pointing_game(pooled, objects, threshold=None))
    before = F.adaptive_avg_pool2d(maps[:, None], (5, 5))[:, 0]  # negative values cancel positive ones of their cell
    assert not torch.allclose(exact, energy_pointing_game(before, objects, threshold=None))
    uneven = torch.randn(3, 7, 7)
    pooled = F.adaptive_avg_pool2d(uneven.clamp(min=0)[:, None], (5, 5))[:, 0]
    exact = energy_pointing_game(uneven, objects, threshold=None, resolution=(5, 5))
    assert not torch.allclose(exact, energy_pointing_game(pooled, objects, threshold=None), atol=1e-4)


HALVES = torch.cat([torch.ones(1, 224, 112), torch.zeros(1, 224, 112)], dim=2)


@pytest.mark.parametrize("value", [1e34, 3.4e38, 1e-38, 1e-45])
@pytest.mark.parametrize("options", [{}, {"negatives": "abs"}, {"negatives": "keep"}, {"resolution": (7, 7)}])
def test_energy_neither_overflows_nor_vanishes(value: float, options: dict[str, Any]) -> None:
    """From 1e34 on, the sum over 224 x 224 pixels is more than float32 holds, and the score was NaN."""
    even = torch.full((1, 224, 224), value)
    left, peak = HALVES.to(torch.bool), torch.zeros(1, 224, 224)
    peak[0, 0, 0], peak[0, 0, 200] = value, value / 2 if value > 1e-40 else 0.0
    expected = 2 / 3 if value > 1e-40 else 1.0
    assert energy_pointing_game(even, left, **options).item() == pytest.approx(0.5)
    assert energy_pointing_game(peak, left, **options).item() == pytest.approx(expected, rel=1e-5)


def test_energy_takes_every_kind_of_number() -> None:
    for dtype, value in ((torch.float64, 1e300), (torch.float64, 1e-300), (torch.bfloat16, 3e38), (torch.int64, 2**62)):
        attribution = torch.tensor([[[value, value, value, value]]], dtype=dtype)
        assert energy_pointing_game(attribution, torch.tensor([[[1, 0, 0, 0]]])).item() == pytest.approx(0.25)
    lowest = torch.finfo(torch.float32).min  # what some maps hold where nothing is to count
    assert energy_pointing_game(torch.tensor([[[3e-9, 1e-9, lowest]]]), torch.tensor([[[1, 0, 0]]])).item() == 0.75


@pytest.mark.parametrize(
    "heatmap",
    [
        torch.tensor([[[1.0, 0.0, 0.0, 1.0 + 1e-12]]], dtype=torch.float64),
        torch.tensor([[[1.0, 1.0, 1.0, 1.0 + 1e-12]]], dtype=torch.float64),
        torch.tensor([[[1e300, 0.0, 0.0, 1e301]]], dtype=torch.float64),
        torch.tensor([[[2**24, 0, 0, 2**24 + 1]]]),
        torch.tensor([[[2**53, 0, 0, 2**53 + 1]]]),
        torch.tensor([[[False, False, False, True]]]),
        torch.tensor([[[0.0, 0.0, 0.0, 1e-45]]]),
    ],
)
def test_the_maximum_is_found_in_the_maps_own_precision(heatmap: Tensor) -> None:
    assert pointing_game(heatmap, torch.tensor([[[0, 0, 0, 1]]]), tolerance=0).item() == 1


def test_equal_maxima_stay_equal_where_a_map_is_resized() -> None:
    """By rounding, the second of two equal ones was the larger at 4 of 10 sizes."""
    heatmap = torch.tensor([[[0.0, 0.1, 0.0, 0.0, 0.0, 0.1, 0.0]]])
    for width in range(14, 280):
        left = (torch.arange(width) < width // 2).view(1, 1, -1)
        assert pointing_game(heatmap, left, tolerance=0).item() == 1, width


def test_what_is_no_map_and_no_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold must be a number"):
        energy_pointing_game(torch.ones(1, 2, 2), torch.ones(1, 2, 2), threshold=NAN)
    with pytest.raises(ValueError, match="object_mask must be"):
        chance_level(torch.ones(1, 0, 2))
    with pytest.raises(ValueError, match="attribution must be"):
        pointing_game(torch.ones(1, 0, 2), torch.ones(1, 2, 2))


def test_scores_keep_no_graph() -> None:
    soft = torch.rand(1, 4, 4, requires_grad=True)
    assert not chance_level(soft, threshold=None).requires_grad
    assert not energy_pointing_game(soft, soft, threshold=None).requires_grad
