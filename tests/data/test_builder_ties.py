"""Built sets: exact ties, no source in two splits, and numbers of images as asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builder_sources import SMALL, Made, contents, groups, make_backgrounds, make_cutouts, save, table

from aimwrap.data import Built
from aimwrap.data.builder import (
    Background,
    Cutout,
    InPlace,
    Tying,
    backgrounds_in,
    build,
    cutouts_in,
    cutouts_of,
    relabelled,
    travelingbirds,
    waterbirds,
)
from aimwrap.data.builder.plan import Shot, plan_shots
from aimwrap.data.release import SPLITS, Record, Release


def test_table_has_the_columns_that_others_read(built: Path) -> None:
    header = (built / "metadata.csv").read_text().splitlines()[0]
    assert header.startswith("img_id,img_filename,y,split,place,place_filename")
    rows = table(built)
    assert [int(row["img_id"]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        name = Path(row["img_filename"])
        assert (built / name).is_file() and (built / "segmentations" / name.with_suffix(".png")).is_file()
        assert name.parent.name == ("cat", "dog")[int(row["y"])]
        assert row["place_filename"].startswith(("beach", "forest")[int(row["place"])])
        assert row["cutout_filename"].startswith(name.parent.name)
    assert len(contents(built)) == 2 * len(rows) + 2
    assert {path.name for path in built.iterdir()} == {"build.json", "cat", "dog", "metadata.csv", "segmentations"}


def test_the_tie_is_exact_in_training_and_the_others_are_balanced(built: Path) -> None:
    assert groups(built, 0) == {(0, 0): 14, (0, 1): 2, (1, 0): 2, (1, 1): 14}  # 0.9 * 16 = 14.4
    assert groups(built, 1) == dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 2)
    assert groups(built, 2) == dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 2)


@pytest.mark.parametrize("tie", [0.5, 0.75, 0.95, 1.0, 0.0])
def test_any_tie(made: Made, tmp_path: Path, tie: float) -> None:
    made.build(tmp_path / "out", waterbirds(tie, num_images={"train": 20, "val": 4, "test": 8}))
    own = round(tie * 10)
    expected = Counter({(0, 0): own, (0, 1): 10 - own, (1, 0): 10 - own, (1, 1): own})
    assert groups(tmp_path / "out", 0) == +expected
    assert {*groups(tmp_path / "out", 1).values()} == {1} and {*groups(tmp_path / "out", 2).values()} == {2}


def test_labels_keep_their_shares_where_asked(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=20, backgrounds=80)
    make_cutouts(tmp_path / "cutouts", classes=("cat",), count=50)
    made.build(tmp_path / "equal")
    assert [Counter(row["y"] for row in table(tmp_path / "equal") if row["split"] == s) for s in "12"] == [
        {"0": 2, "1": 2},  # of 3 cut-outs of dogs, 2 make equal places
        {"0": 4, "1": 4},
    ]
    made.build(tmp_path / "kept", waterbirds(0.9, keep_label_shares=True))
    assert [Counter(row["y"] for row in table(tmp_path / "kept") if row["split"] == s) for s in "12"] == [
        {"0": 8, "1": 2},
        {"0": 10, "1": 4},
    ]
    for split in (1, 2):
        found = groups(tmp_path / "kept", split)
        assert all(found[label, 0] == found[label, 1] for label in (0, 1))


def test_no_source_is_in_two_splits_or_used_too_often(built: Path) -> None:
    for column in ("cutout_filename", "place_filename"):
        uses = Counter(row[column] for row in table(built))
        assert max(uses.values()) == 1


def test_uses_are_spread_evenly_and_stay_in_their_split(made: Made, tmp_path: Path) -> None:
    numbers = {"train": 64, "val": 8, "test": 8}
    made.build(tmp_path / "out", waterbirds(0.5, num_images=numbers), cutout_uses=2, background_uses=3)
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        for column in ("cutout_filename", "place_filename"):
            splits.setdefault(row[column], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    uses = Counter(row["cutout_filename"] for row in table(tmp_path / "out") if row["split"] == "0")
    assert {*uses.values()} == {2} and len(uses) == 32


def test_the_same_picture_under_two_names_stays_in_one_split(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=12)
    for path in sorted((tmp_path / "cutouts" / "cat").iterdir()):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    made.build(tmp_path / "out", keep_label_shares(), seed=1)
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        splits.setdefault(row["cutout_filename"].replace("copy of ", ""), set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def keep_label_shares() -> dict[str, Tying]:
    return waterbirds(0.9, keep_label_shares=True)


def test_travelingbirds_moves_every_class_to_another_place_in_the_test(tmp_path: Path) -> None:
    classes, places = ("ant", "bee", "cat"), ("desert", "lake", "meadow", "town")  # the fourth is not needed
    make_cutouts(tmp_path / "cutouts", classes, count=15)
    make_backgrounds(tmp_path / "backgrounds", places, count=15)
    sources = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    release = build(tmp_path / "out", *sources, travelingbirds(), style=SMALL, progress=False)
    assert release.places == places[:3]
    assert {*groups(tmp_path / "out", 0)} == {*groups(tmp_path / "out", 1)} == {(0, 0), (1, 1), (2, 2)}
    assert {*groups(tmp_path / "out", 2)} == {(0, 1), (1, 2), (2, 0)}
    shifted = build(tmp_path / "two", *sources, travelingbirds(0.5, shift=2), style=SMALL, progress=False)
    assert groups(tmp_path / "two", 2)[0, 2] > groups(tmp_path / "two", 2)[0, 0] > 0
    with pytest.raises(ValueError, match="shift must not be a multiple of the number of places"):
        build(tmp_path / "three", *sources, travelingbirds(shift=3), progress=False)
    with pytest.raises(ValueError, match=r"as many places as classes, .* got 4 places and 3 classes"):
        build(tmp_path / "three", *sources, travelingbirds(), places=places, progress=False)
    assert len(shifted.records) == 45


def test_as_many_backgrounds_as_images_are_enough(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=6, backgrounds=5)
    only_train = {"tyings": {"train": Tying(1.0)}, "test_share": 0, "val_share": 0}
    with pytest.raises(ValueError, match="too few backgrounds of place beach in train: 5, each used 1 times, for 6"):
        made.build(tmp_path / "out", **only_train)
    make_backgrounds(tmp_path / "backgrounds", count=6)
    assert len(made.build(tmp_path / "out", **only_train).records) == 12


def test_the_same_picture_in_two_classes_stays_in_one_split(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=12)
    for path in sorted((tmp_path / "cutouts" / "cat").iterdir()):
        (tmp_path / "cutouts" / "dog" / path.name).write_bytes(path.read_bytes())
    made.build(tmp_path / "out", keep_label_shares())
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        splits.setdefault(Path(row["cutout_filename"]).name, set()).add(row["split"])
    assert len(splits) > 12 and all(len(found) == 1 for found in splits.values())


def planned(cutouts: int, seed: int, tyings: dict[str, Tying]) -> list[Shot]:
    """With splits of the sources' own, so that the seed alone says which object is on which background."""
    names = [f"{number:03d}" for number in range(cutouts)]
    objects = {kind: [Cutout(kind + n, Path(n), kind, split=s) for s in SPLITS for n in names] for kind in "ab"}
    for sources in objects.values():
        sources[:] = [source._replace(name=f"{source.split}/{source.name}") for source in sources]
    behind = {k: [Background(c.name, c.path, k, c.split) for c in objects[k]] for k in "ab"}
    return plan_shots(objects, behind, tyings, seed, background_uses=2)


def test_which_cutouts_stand_elsewhere_is_random() -> None:
    elsewhere = set()
    for seed in range(20):
        shots = planned(10, seed, waterbirds(0.9))
        elsewhere |= {shot.cutout.name for shot in shots if shot.split == "train" and shot.label != shot.place}
    assert len(elsewhere) > 10


def test_splits_are_shuffled_by_themselves() -> None:
    shots = planned(20, 0, waterbirds(0.9))
    val, test = ([(shot.label, shot.place) for shot in shots if shot.split == split] for split in ("val", "test"))
    assert sorted(val) == sorted(test) and val != test and val != sorted(val)


def test_splits_of_the_source_are_kept(tmp_path: Path) -> None:
    for split, count, first in (("train", 10, 0), ("test", 4, 50)):
        make_cutouts(tmp_path / "cutouts" / split, count=count, first=first)
    make_backgrounds(tmp_path / "backgrounds", count=30)
    sources = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    build(tmp_path / "out", *sources, waterbirds(1.0), style=SMALL, progress=False)
    found = Counter((row["split"], row["cutout_filename"].split("/")[0]) for row in table(tmp_path / "out"))
    assert found == {("0", "train"): 16, ("1", "train"): 4, ("2", "test"): 8}  # the validation is of the training's
    with pytest.raises(ValueError, match="have their own splits, train, so they must also have the split test"):
        only_train = [source for source in sources[0] if source.split == "train"]
        build(tmp_path / "another", only_train, sources[1], waterbirds(), progress=False)
    with pytest.raises(ValueError, match="all cut-outs must have a split, or none"):
        mixed = [sources[0][0]._replace(split=None), *sources[0][1:]]
        build(tmp_path / "another", mixed, sources[1], waterbirds(), progress=False)


def test_too_few_to_part(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=2, backgrounds=9)
    with pytest.raises(ValueError, match=r"too few cut-outs of label cat: 2 different images, .* at least 3"):
        made.build(tmp_path / "out")
    made.build(tmp_path / "out", waterbirds(1.0, num_images={"test": 4}), val_share=0, cutout_uses=2)
    assert {row["split"] for row in table(tmp_path / "out")} == {"0", "2"}


def test_a_release_with_masks_is_a_source_of_cutouts(tmp_path: Path) -> None:
    """As CUB with its segmentations: image and mask are two files, and there is a split for training and test."""
    records = []
    for number in range(24):
        pixels = np.full((30, 40, 3), 80 + number)
        mask = np.zeros((30, 40))
        mask[10:20, 5:25] = 255
        species = number % 4
        image = save(tmp_path / "images" / f"{species}" / f"{number}.png", pixels)
        mask_path = save(tmp_path / "segmentations" / f"{number}.png", mask)
        split = "train" if number < 16 else "test"
        records.append(Record(str(number), image, species, split, mask_path=mask_path))
    release = Release("birds", tmp_path, tuple(records), ("1.Gull", "2.Wren", "3.Tern", "4.Crow"))
    make_backgrounds(tmp_path / "backgrounds", count=12)
    found = relabelled(
        cutouts_of(release), {"1.Gull": "waterbird", "2.Wren": "landbird", "3.Tern": "waterbird", "4.Crow": "landbird"}
    )
    backgrounds = backgrounds_in(tmp_path / "backgrounds")
    out = tmp_path / "out"
    built = build(out, found, backgrounds, waterbirds(1.0), style=InPlace(), background_uses=2, progress=False)
    assert built.classes == ("landbird", "waterbird")
    assert Counter(record.split for record in built.records) == {"train": 12, "val": 4, "test": 8}
    sample = Built(out, "test")[0]
    assert sample.object_mask.sum() == 200 and 80 <= int(np.asarray(sample.image)[15, 15, 0]) <= 104
    with pytest.raises(ValueError, match="must have a mask of the object for each image"):
        cutouts_of(Release("birds", tmp_path, (records[0]._replace(mask_path=None),), release.classes))


def test_twins_in_splits_of_their_own_are_kept_out_of_the_training(tmp_path: Path) -> None:
    for split, count, first in (("train", 12, 0), ("val", 5, 4), ("test", 5, 8)):  # of 12, 5 to 8 and 9 to 12 again
        make_cutouts(tmp_path / "cutouts" / split, count=count, first=first)
    make_backgrounds(tmp_path / "backgrounds", count=40)
    cutouts, backgrounds = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    build(tmp_path / "out", cutouts, backgrounds, waterbirds(0.5), style=SMALL, progress=False)
    shown: dict[str, set[bytes]] = {"0": set(), "1": set(), "2": set()}
    for row in table(tmp_path / "out"):
        shown[row["split"]].add((tmp_path / "cutouts" / row["cutout_filename"]).read_bytes())
    train, val, test = shown.values()
    assert not train & val and not train & test and not val & test
    assert [len(train), len(val), len(test)] == [8, 8, 8]
