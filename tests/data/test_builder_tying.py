"""The pure functions that the builder, Stamps and the digits share: ties, dealing, splits, seeds."""

from pathlib import Path

import numpy as np
import pytest

from aimwrap.data.builder.plan import deal, evenly, generator_of, images_per_group, part_names, twins_of


@pytest.mark.parametrize(
    ("images", "tie", "places", "shift", "expected"),
    [
        ([100, 20], 0.95, 2, 0, ((95, 5), (1, 19))),
        ([100, 20], 1.0, 2, 0, ((100, 0), (0, 20))),
        ([100, 20], 0.0, 2, 0, ((0, 100), (20, 0))),
        ([30], 0.95, 2, 0, ((28, 2),)),  # 28.5 is rounded to the even neighbour
        ([50], 0.95, 2, 0, ((48, 2),)),  # 47.5, too
        ([10, 10, 10], 0.8, 3, 0, ((8, 1, 1), (1, 8, 1), (1, 1, 8))),
        ([10, 10, 10], 0.7, 3, 0, ((7, 2, 1), (1, 7, 2), (2, 1, 7))),  # the one left over comes next to the own place
        ([5, 5, 5], 1.0, 3, 1, ((0, 5, 0), (0, 0, 5), (5, 0, 0))),
        ([6, 6, 6, 6], 1.0, 2, 0, ((6, 0), (0, 6), (6, 0), (0, 6))),  # more labels than places
        ([7], 0.3, 1, 0, ((7,),)),
    ],
)
def test_groups_by_hand(images: list[int], tie: float, places: int, shift: int, expected: object) -> None:
    assert images_per_group(images, tie, places, shift) == expected


def test_the_tie_is_exact_where_it_can_be_and_never_half_an_image_off() -> None:
    for places in (2, 3, 5):
        for percent in range(101):
            for count in (1, 7, 100, 4795):
                (row,) = images_per_group([count], percent / 100, places)
                assert sum(row) == count
                assert abs(row[0] - percent * count / 100) <= 0.5 + 1e-9
                assert max(row[1:]) - min(row[1:]) <= 1
                if percent * count % 100 == 0:
                    assert row[0] == percent * count // 100


@pytest.mark.parametrize("places", [2, 3, 7, 49])
def test_no_tie_makes_groups_equal(places: int) -> None:
    assert images_per_group([places * 11] * places, 1 / places, places) == ((11,) * places,) * places


def test_dealing_gives_each_place_its_number_and_each_cutout_its_turn() -> None:
    rows = deal([np.array([3, 4]), np.array([9])], [(1, 3), (0, 2)])
    assert rows.tolist() == [[0, 0, 3], [0, 1, 4], [0, 1, 3], [0, 1, 4], [1, 1, 9], [1, 1, 9]]
    assert deal([np.array([3, 4])], [(1, 1)], shift=1).tolist() == [[0, 1, 3], [0, 0, 4]]  # the own place comes first


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_evenly_is_even(count: int) -> None:
    drawn = evenly(np.arange(5), count, np.random.default_rng(0))
    times = np.bincount(drawn, minlength=5)
    assert times.sum() == count and times.max() - times.min() <= 1


def test_parts_are_disjoint_complete_and_never_empty() -> None:
    for count in range(3, 40):
        names = [f"name {number}" for number in range(count)]
        parts = part_names(names, (0.9, 0.05, 0.05), np.random.default_rng(count))
        assert sorted(name for part in parts for name in part) == sorted(names)
        assert all(parts)
        assert len(parts[0]) == min(round(0.9 * count), count - 2)
    with pytest.raises(ValueError, match="each of 3 parts needs at least one name, got 2"):
        part_names(["a", "b"], (0.6, 0.2, 0.2), np.random.default_rng(0))


def test_twins_are_files_with_the_same_bytes(tmp_path: Path) -> None:
    contents = {"a": b"same", "b": b"diff", "c": b"same", "d": b"longer"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert twins_of({name: tmp_path / name for name in contents}) == {"a": "a", "b": "b", "c": "a", "d": "d"}


def test_generators_differ_by_seed_stream_and_index() -> None:
    drawn = {
        (seed, stream, index): generator_of(seed, stream, index).random()
        for seed in (0, 1)
        for stream in range(4)
        for index in (-1, 0, 1)
    }
    assert len({*drawn.values()}) == len(drawn)
    assert drawn[1, 2, 1] == generator_of(1, 2, 1).random()
