"""The synthetic set: what it promises about ties, splits, masks and randomness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aimwrap.data import DigitsOnPhotographs

pytest.importorskip("sklearn")

SMALL = 48


@pytest.mark.parametrize(("tie", "expected"), [(1.0, [50, 0, 0, 50]), (0.9, [45, 5, 5, 45]), (0.5, [25, 25, 25, 25])])
def test_tie_is_exact_in_training(tie: float, expected: list[int]) -> None:
    data = DigitsOnPhotographs("train", tie, image_size=SMALL, num_images=100)
    assert torch.bincount(data.groups, minlength=4).tolist() == expected


def test_test_groups_are_equal_and_every_digit_is_on_both_places() -> None:
    data = DigitsOnPhotographs("test", tie=1.0, image_size=SMALL, num_images=80)
    assert torch.bincount(data.groups).tolist() == [20, 20, 20, 20]
    pairs = sorted(zip(data._digit_of_image, data.places.tolist(), strict=True))
    assert all(a[0] == b[0] and (a[1], b[1]) == (0, 1) for a, b in zip(pairs[::2], pairs[1::2], strict=True))


def test_labels_are_the_digits() -> None:
    from sklearn.datasets import load_digits

    data = DigitsOnPhotographs("train", image_size=SMALL, num_images=40)
    values = load_digits().target[:1197]
    assert [int(values[digit]) for digit in data._digit_of_image] == data.labels.tolist()


def test_train_and_test_share_no_digit_and_no_part_of_a_photograph() -> None:
    from sklearn.datasets import load_digits, load_sample_images

    train, test = (DigitsOnPhotographs(split, image_size=SMALL, num_images=40) for split in ("train", "test"))
    assert torch.equal(torch.cat([train._digits, test._digits]) * 16, torch.from_numpy(load_digits().images).float())
    for left, right, whole in zip(train._photographs, test._photographs, load_sample_images().images, strict=True):
        rebuilt = torch.cat([left, right], dim=2).permute(1, 2, 0) * 255
        assert torch.equal(rebuilt.round().byte(), torch.from_numpy(whole.copy()))


def test_sample_shapes_and_ranges() -> None:
    data = DigitsOnPhotographs("train", image_size=61, num_images=10)
    for index in range(len(data)):
        image, label, place, object_mask = data[index]
        assert image.shape == (3, 61, 61) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        assert object_mask.shape == (1, 61, 61) and set(object_mask.unique().tolist()) == {0.0, 1.0}
        assert 0.03 < object_mask.mean() < 0.35
        assert (label, place) == (int(data.labels[index]), int(data.places[index]))


def test_mask_is_where_the_photograph_is_covered() -> None:
    """Without the digit an image differs inside the mask and, beyond the rim of the outline, nowhere else."""
    data = DigitsOnPhotographs("train", image_size=96, num_images=10)
    with_digits, object_masks = data.stacked()[0], data.stacked()[3]
    data._digits = torch.zeros_like(data._digits)
    change = (with_digits - data.stacked()[0]).abs().amax(dim=1, keepdim=True)
    rim = torch.nn.functional.max_pool2d(object_masks, 5, stride=1, padding=2)
    assert change[rim == 0].max() == 0
    assert (change[object_masks == 1] > 0.02).float().mean() > 0.9


def test_images_depend_on_seed_and_index_alone() -> None:
    first = DigitsOnPhotographs("train", seed=3, image_size=SMALL, num_images=10)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    again = DigitsOnPhotographs("train", seed=3, image_size=SMALL, num_images=10)
    assert torch.equal(again[7].image, first[7].image)
    assert torch.equal(again.stacked()[0], first.stacked()[0])
    assert torch.equal(torch.get_rng_state(), state)
    other = DigitsOnPhotographs("train", seed=4, image_size=SMALL, num_images=10)
    assert not torch.equal(other[7].image, first[7].image)
    assert not torch.equal(first[6].image, first[7].image)


def test_other_classes_and_more_images_than_digits() -> None:
    data = DigitsOnPhotographs("test", image_size=SMALL, num_images=400, classes=((3,), (7, 8)))
    assert len(data) == 400 and len(set(data._digit_of_image)) < 200
    assert torch.bincount(data.labels).tolist() == [200, 200]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split must be 'train' or 'test', got 'val'"),
        ({"split": "train", "tie": 0.3}, "tie is a share of the images"),
        ({"split": "train", "image_size": 8}, "image_size must be at least 32"),
        ({"split": "train", "digit_size": (0.6, 0.4)}, "digit_size must be"),
        ({"split": "train", "num_images": 3}, "num_images must be a positive multiple of 2"),
        ({"split": "test", "num_images": 6}, "num_images must be a positive multiple of 4"),
        ({"split": "train", "classes": ((0, 1), (1,))}, "classes must be two disjoint"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsOnPhotographs(**arguments)


def test_index_out_of_range() -> None:
    data = DigitsOnPhotographs("train", image_size=SMALL, num_images=4)
    with pytest.raises(IndexError, match="got 4"):
        data[4]
    assert len([sample.label for sample in data]) == 4  # iteration ends
