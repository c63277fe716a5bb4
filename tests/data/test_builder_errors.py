"""Built sets: arguments and names that are refused, and odd names that are not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from builder_sources import Made

from aimwrap.data.builder import Placed, Tying, backgrounds_in, build, cutouts_in, travelingbirds, waterbirds


@pytest.mark.parametrize(
    ("tyings", "arguments", "message"),
    [
        (
            waterbirds(num_images={"train": 34}),
            {},
            "too few cut-outs of label cat in train: they give 16 images, and 17",
        ),
        (waterbirds(num_images={"train": 66}), {"cutout_uses": 2}, "they give 32 images, and 33 are needed"),
        (waterbirds(num_images={"train": 64}), {"cutout_uses": 2}, r"too few backgrounds .*background_uses=2 would do"),
        (
            waterbirds(num_images={"train": 3}),
            {},
            "for train must be a positive multiple of 2, .* of all labels, got 3",
        ),
        (waterbirds(num_images={"test": 6}), {}, "for test must be a positive multiple of 4, .* of all groups, got 6"),
        (waterbirds(1.1), {}, r"tie must be a share of the images, 0 to 1, got 1\.1"),
        (waterbirds(), {"seed": -1}, "seed must be 0 or more"),
        (waterbirds(), {"test_share": 1.0}, "test_share must be a share from 0 to below 1"),
        (waterbirds(num_images={"val": 4}), {"val_share": 0}, "val was asked for 4 images, but val_share is 0"),
        (waterbirds(), {"cutout_uses": 0}, "cutout_uses must be at least 1"),
        (waterbirds(), {"classes": ["cat", "cow"]}, "classes must name two or more of cat, dog, .* got cat, cow"),
        (waterbirds(), {"places": []}, "places must name two or more of beach, forest, each once, got none"),
        (waterbirds(), {"file_format": "gif"}, "file_format must be one of 'jpg', 'png', got 'gif'"),
        (waterbirds(), {"style": Placed(image_size=8)}, "image_size must be at least 16"),
        (waterbirds(), {"style": Placed(object_size=(0.9, 0.5))}, "object_size must be"),
        (waterbirds(), {"style": Placed(crop=(0.5, 1.5))}, "crop must be"),
        (waterbirds(), {"style": Placed(placement="corner")}, "placement must be one of 'anywhere', 'centre', 'edge'"),
        ({"dev": Tying(0.9)}, {}, r"tyings must have splits as keys \(train, val, test\), got 'dev'"),
    ],
)
def test_errors_name_the_way_out_and_touch_nothing(
    made: Made, tmp_path: Path, tyings: dict[str, Tying], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made.build(tmp_path / "out", tyings, **arguments)
    assert not (tmp_path / "out").exists()


def test_recipes_refuse_splits_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"num_images must name splits, .* got 'training'"):
        waterbirds(num_images={"training": 10})
    with pytest.raises(ValueError, match="shift must be at least 1"):
        travelingbirds(shift=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segmentations", "none may be called segmentations"),
        ("Dog", "differ in more than case"),
        ("..", "become folders, so their names must not .* got '..'"),
        ("a/b", "become folders, so their names must not .* got 'a/b'"),
        ("c:d", "become folders"),
        ("", "become folders"),
    ],
)
def test_names_that_clash_or_climb_out(made: Made, tmp_path: Path, name: str, message: str) -> None:
    renamed = [
        source._replace(class_name=name if source.class_name == "cat" else "dog")
        for source in cutouts_in(made.root / "cutouts")
    ]
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "out", renamed, backgrounds_in(made.root / "backgrounds"), waterbirds(), progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\udcff"])
def test_names_that_no_table_can_hold_are_refused_before_anything_is_drawn(tmp_path: Path, name: str) -> None:
    made = Made(tmp_path)
    (tmp_path / "cutouts" / "cat" / "cat00.png").rename(tmp_path / "cutouts" / "cat" / f"{name}.png")
    with pytest.raises(ValueError, match=r"names that a line of metadata.csv can hold.*Rename the file"):
        made.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ['a"b', "a,b", "a\tb", " a", "ä ü", "'"])
def test_other_names_are_read_back_as_they_are(tmp_path: Path, name: str) -> None:
    made = Made(tmp_path)
    (tmp_path / "cutouts" / "cat").rename(tmp_path / "cutouts" / "was")
    source = tmp_path / "cutouts" / "cat" / f"{name}.png"
    source.parent.mkdir()
    for path in sorted((tmp_path / "cutouts" / "was").iterdir()):
        path.rename(source.parent / f"{name}{path.name}")
    (tmp_path / "cutouts" / "was").rmdir()
    made.build(tmp_path / "out")
    with (tmp_path / "out" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        names = [row["cutout_filename"] for row in csv.DictReader(file)]
    assert sum(each.startswith(f"cat/{name}cat") for each in names) == len(names) // 2
