"""The official numbers, without the images."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimwrap.data.doctor.checks import (
    check_counts,
    check_groups,
    check_images_there,
    check_labels,
    check_masks_there,
    count,
    worth_a_digest,
)
from aimwrap.data.io import FolderListing
from aimwrap.data.release import Record, Release
from aimwrap.data.sets.cub import CUB200
from aimwrap.data.sets.waterbirds import FULLY_TIED_TRAIN, FULLY_TIED_VAL, OFFICIAL_COUNTS, Waterbirds

Groups = dict[str, tuple[int, ...]]
FULLY_TIED: Groups = {"train": FULLY_TIED_TRAIN, "val": (461, 460, 139, 139), "test": OFFICIAL_COUNTS["test"]}


def waterbirds(groups: Groups, towhees: int = 1) -> Release:
    """Images of these groups; one water bird of the test is a Towhee, which shows the version of the labels."""
    records = [
        Record(f"{split}{group}.{number}", Path(f"1.Gull_{group}/{split}{number}.jpg"), group // 2, split, group % 2)
        for split, counts in groups.items()
        for group, number_of in enumerate(counts)
        for number in range(number_of)
    ]
    for number, record in enumerate(records):
        if record.split == "test" and record.label == towhees:
            records[number] = record._replace(path=Path("21.Eastern_Towhee/a.jpg"))
            break
    return Release("Waterbirds", Path("."), tuple(records), ("land bird", "water bird"), ("land", "water"))


def differences(release: Release) -> list[str]:
    check = check_counts(count(release), release, Waterbirds.expected(release), "the official release")
    assert (check.mark == "ok") == (not check.findings)
    return [f"{finding.subject}: {finding.message}" for finding in check.findings]


@pytest.mark.parametrize("groups", [OFFICIAL_COUNTS, FULLY_TIED])
def test_official_numbers_are_right(groups: Groups) -> None:
    assert differences(waterbirds(groups)) == []


def test_both_releases_part_the_same_birds() -> None:
    for label in (0, 1):
        birds = [sum(OFFICIAL_COUNTS[split][2 * label : 2 * label + 2]) for split in ("train", "val")]
        assert sum(birds) == sum(FULLY_TIED_TRAIN[2 * label : 2 * label + 2]) + FULLY_TIED_VAL[label]
    assert sum(FULLY_TIED_TRAIN) == 4795 and sum(FULLY_TIED_VAL) == 1199


@pytest.mark.parametrize(
    ("groups", "changed", "found"),
    [
        (OFFICIAL_COUNTS, {"train": (3497, 184, 56, 1057)}, ["train: 4,794 images", "train, land bird on land: 3,497"]),
        (
            OFFICIAL_COUNTS,
            {"val": (466, 467, 133, 133)},
            ["val, land bird on land: 466 images", "val, land bird on water: 467 images"],
        ),
        (
            FULLY_TIED,
            {"train": (3693, 1, 0, 1101)},
            ["train, land bird on land: 3,693 images", "train, land bird on water: 1 image, and the official release"],
        ),
        (FULLY_TIED, {"val": (463, 458, 139, 139)}, ["val, land bird: 463 and 458 images on the places"]),
        (FULLY_TIED, {"test": ()}, ["test: 0 images"]),
    ],
)
def test_one_image_that_moved_is_found(groups: Groups, changed: Groups, found: list[str]) -> None:
    seen = differences(waterbirds({**groups, **changed}))
    assert [text for text in seen if any(text.startswith(start) for start in found)] == seen[: len(found)]
    assert len(seen) >= len(found)


def test_corrected_labels_and_other_ties_are_held_against_the_sizes_alone() -> None:
    corrected = waterbirds({**OFFICIAL_COUNTS, "test": (2300, 2300, 597, 597)}, towhees=0)
    assert differences(corrected) == []
    half = waterbirds({**OFFICIAL_COUNTS, "train": (2000, 1682, 500, 613)})
    assert differences(half) == []


def test_nothing_to_hold_against() -> None:
    release = waterbirds({"train": (1, 0, 0, 1), "test": (1, 1, 1, 1)})
    check = check_counts(count(release), release, None, "")
    assert (check.mark, check.summary) == ("ok", "6 images (2 train + 4 test), not compared with official counts")
    cub = check_counts(count(release), release, CUB200.expected(release), "the official release")
    assert [finding.subject for finding in cub.findings] == ["train", "test"]


def test_what_is_named_twice_is_found(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    names = (("1", "a.jpg", "train"), ("2", "a.jpg", "test"), ("2", "b.jpg", "test"))
    records = tuple(Record(id, tmp_path / name, 0, split) for id, name, split in names)
    check = check_images_there(Release("r", tmp_path, records, ("a",)), FolderListing())
    assert check.mark == "fault"
    assert [tuple(finding) for finding in check.findings] == [
        ("a.jpg", "named 2 times; it must be once"),
        ("2", "the id of 2 images; it must be of one"),
    ]


def test_masks_that_some_lack(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"")
    records = (
        Record("1", tmp_path / "a.jpg", 0, "train", mask_path=tmp_path / "m.png"),
        Record("2", tmp_path / "b.jpg", 0, "train"),
    )
    check = check_masks_there(Release("r", tmp_path, records, ("a",)), FolderListing(), "Get them.")
    assert (check.mark, check.summary) == ("warning", "1 of 2 images without one")
    assert [finding.subject for finding in check.findings] == ["b.jpg"]


def test_files_of_one_size_get_a_digest(tmp_path: Path) -> None:
    for name, content in (("a", b"xy"), ("b", b"xz"), ("c", b"x")):
        (tmp_path / name).write_bytes(content)
    assert worth_a_digest([tmp_path / name for name in "abc"], FolderListing()) == {tmp_path / "a", tmp_path / "b"}


def test_labels_and_groups_that_are_lacking() -> None:
    release = waterbirds({"train": (19, 1, 0, 0), "test": (1, 1, 1, 0)})
    labels = check_labels(count(release), release, 2)
    assert [finding.subject for finding in labels.findings] == ["train, water bird"] and labels.mark == "warning"
    assert check_labels(count(release), release, 200).mark == "fault"
    groups = check_groups(count(release), release)
    assert groups.summary.startswith("in training land bird on land 95.0 %; some have no images")
    assert [finding.subject for finding in groups.findings] == ["test, water bird on water"]
