"""Accuracy by group: a hand-made table, empty groups, the averages that differ, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aimwrap.metrics import average_accuracy, group_accuracies, weighted_average_accuracy, worst_group_accuracy

# Group 0: 3 of 4 right. Group 1: 1 of 2. Group 2: none of 1. Group 3: 3 of 3.
PREDICTIONS = torch.tensor([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])


def test_the_table_by_hand() -> None:
    assert group_accuracies(PREDICTIONS, LABELS, GROUPS, num_groups=4).tolist() == [0.75, 0.5, 0.0, 1.0]
    assert worst_group_accuracy(PREDICTIONS, LABELS, GROUPS, num_groups=4).item() == 0.0
    assert average_accuracy(PREDICTIONS, LABELS).item() == pytest.approx(7 / 10)
    weighted = weighted_average_accuracy(PREDICTIONS, LABELS, GROUPS, train_counts=[60, 20, 10, 10])
    assert weighted.item() == pytest.approx(0.6 * 0.75 + 0.2 * 0.5 + 0.1 * 1.0)


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint8, torch.int8, torch.int32, torch.bool])
def test_whole_numbers_of_any_kind_are_counted(kind: torch.dtype) -> None:
    """NumPy's uint16 ended in an error about promotion."""
    predictions, labels, groups = PREDICTIONS.to(kind), LABELS.to(kind), GROUPS.clamp(max=1).to(kind)
    expected = group_accuracies(PREDICTIONS, LABELS, GROUPS.clamp(max=1), 2)
    for given_groups in (groups, groups.long()):
        assert torch.equal(group_accuracies(predictions, labels, given_groups, 2), expected)
    with pytest.raises(ValueError, match=r"predictions must be \(10,\), one value per label, got \(10, 2\)"):
        group_accuracies(torch.eye(2)[PREDICTIONS].bool(), LABELS, GROUPS, 4)  # several classes may be true


def test_group_accuracies_by_hand_and_empty_groups() -> None:
    predictions = torch.tensor([0, 0, 1, 1, 0])
    labels = torch.tensor([0, 1, 1, 0, 0])
    groups = torch.tensor([0, 2, 2, 2, 0])
    accuracies = group_accuracies(predictions, labels, groups, num_groups=4)
    torch.testing.assert_close(accuracies, torch.tensor([1.0, math.nan, 1 / 3, math.nan]), equal_nan=True)
    assert worst_group_accuracy(predictions, labels, groups, num_groups=4).item() == pytest.approx(1 / 3)


def test_weights_are_shares_of_the_training_images() -> None:
    shares = weighted_average_accuracy(PREDICTIONS, LABELS, GROUPS, train_counts=[0.6, 0.2, 0.1, 0.1])
    counts = weighted_average_accuracy(PREDICTIONS, LABELS, GROUPS, train_counts=torch.tensor([3498, 1166, 583, 583]))
    torch.testing.assert_close(shares, counts)


def test_weighting_by_the_groups_own_sizes_is_the_plain_average() -> None:
    weighted = weighted_average_accuracy(PREDICTIONS, LABELS, GROUPS, train_counts=GROUPS.bincount())
    torch.testing.assert_close(weighted, average_accuracy(PREDICTIONS, LABELS))


def test_weighted_average_with_groups_missing_in_the_test_or_in_the_training() -> None:
    three = PREDICTIONS[:6], LABELS[:6], GROUPS[:6]  # groups 0 and 1 only
    assert weighted_average_accuracy(*three, train_counts=[1, 1, 1]).isnan()
    assert weighted_average_accuracy(*three, train_counts=[1, 1, 0]).item() == pytest.approx((0.75 + 0.5) / 2)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30))
def test_worst_average_and_weighted_are_in_order(rows: list[tuple[int, int, int]]) -> None:
    predictions, labels, groups = torch.tensor(rows).T
    accuracies = group_accuracies(predictions, labels, groups, num_groups=4)
    worst = worst_group_accuracy(predictions, labels, groups, num_groups=4)
    average = average_accuracy(predictions, labels)
    best = accuracies[~accuracies.isnan()].max()
    assert worst <= average + 1e-6 and average <= best + 1e-6
    assert average.item() == pytest.approx(sum(p == y for p, y, _ in rows) / len(rows))


def test_logits_count_like_their_largest() -> None:
    logits, labels, groups = torch.randn(50, 3), torch.randint(3, (50,)), torch.randint(6, (50,))
    expected = group_accuracies(logits.argmax(dim=1), labels, groups, num_groups=6)
    torch.testing.assert_close(group_accuracies(logits, labels, groups, num_groups=6), expected, equal_nan=True)


def test_without_images_everything_is_nan() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert worst_group_accuracy(nothing, nothing, nothing, num_groups=2).isnan()
    assert average_accuracy(nothing, nothing).isnan()
    assert weighted_average_accuracy(nothing, nothing, nothing, train_counts=[1, 2]).isnan()


def test_group_errors() -> None:
    three, two = torch.tensor([0, 1, 1]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"predictions must be \(3,\)"):
        group_accuracies(two, three, three, num_groups=2)
    with pytest.raises(ValueError, match=r"groups must be in 0..0, got 1; num_groups is 1"):
        worst_group_accuracy(three, three, three, num_groups=1)
    with pytest.raises(
        ValueError, match=r"predictions must be whole numbers \(or logits, \(N, K\)\), got torch.float32"
    ):
        average_accuracy(three / 2, three)
    with pytest.raises(ValueError, match="num_groups must be a positive number, got 0"):
        group_accuracies(three, three, three, num_groups=0)
    for wrong in ([-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="train_counts must be the groups' numbers of training images"):
            weighted_average_accuracy(three, three, three, train_counts=wrong)


@pytest.mark.parametrize("label", [-100, -1, 2])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    """They counted as mistakes of the model. Of predicted classes alone, the number of classes is not known."""
    labels, groups = torch.tensor([0, label]), torch.tensor([0, 1])
    for logits in (torch.randn(2, 2), torch.randn(2, 1)):
        with pytest.raises(ValueError, match=f"labels must be in 0..1, got {label}; leave images without a label out"):
            group_accuracies(logits, labels, groups, 2)
    if label > 0:
        assert group_accuracies(labels, labels, groups, 2).tolist() == [1, 1]
    else:
        with pytest.raises(ValueError, match=f"labels must be numbers from 0, got {label}"):
            group_accuracies(torch.tensor([0, 1]), labels, groups, 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.bool])
def test_any_kind_of_integer_is_a_number(dtype: torch.dtype) -> None:
    values = [torch.tensor(numbers).to(dtype) for numbers in ([0, 1, 1], [0, 1, 0], [0, 1, 1])]
    assert group_accuracies(*values, num_groups=2).tolist() == [1, 0.5]
