"""Finding cut-outs and backgrounds in folders."""

from pathlib import Path

import numpy as np
import pytest
from builder_sources import cutout, make_backgrounds, make_cutouts, save

from aimwrap.data.builder import backgrounds_in, backgrounds_of, cutouts_in, relabelled, water_or_land


def test_classes_are_folders_and_images_may_be_in_subfolders(tmp_path: Path) -> None:
    make_cutouts(tmp_path, count=2)
    save(tmp_path / "cat" / "more" / "UPPER.PNG", cutout(1, 1))
    (tmp_path / "cat" / "._cat00.png").write_bytes(b"what macOS leaves")
    (tmp_path / "cat" / "notes.txt").write_text("none of it")
    (tmp_path / ".cache").mkdir()
    found = [(source.name, source.class_name, source.split) for source in cutouts_in(tmp_path)]
    assert found == [
        ("cat/cat00.png", "cat", None),
        ("cat/cat01.png", "cat", None),
        ("cat/more/UPPER.PNG", "cat", None),
        ("dog/dog00.png", "dog", None),
        ("dog/dog01.png", "dog", None),
    ]


def test_images_of_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    """A set was built of the others, and nothing said so."""
    make_backgrounds(tmp_path, count=1)
    for folder, name in (("beach", "a.heic"), ("forest", "b.HEIC")):
        (tmp_path / folder / name).touch()
    with pytest.warns(UserWarning, match=r"2 images of kinds that are not read \(\.heic\) are left out, such as beach"):
        assert len(backgrounds_in(tmp_path)) == 2
    with pytest.warns(UserWarning, match=r"beach: 1 images of kinds .* such as a\.heic"):
        assert len(backgrounds_of({"sea": [tmp_path / "beach"]})) == 1


def test_splits_above_the_classes(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        make_backgrounds(tmp_path / split, count=1)
    found = [(source.name, source.place, source.split) for source in backgrounds_in(tmp_path)]
    assert found[0] == ("test/beach/beach00.png", "beach", "test")
    assert {split for _, _, split in found} == {"train", "val", "test"} and len(found) == 6
    make_backgrounds(tmp_path, count=1)
    with pytest.raises(ValueError, match=r"folders named after splits .* and others \(beach, forest\)"):
        backgrounds_in(tmp_path)


def test_opacity_has_the_same_names(tmp_path: Path) -> None:
    for name in ("cat/a", "dog/b"):
        save(tmp_path / "images" / f"{name}.jpg", np.zeros((8, 8, 3)))
        save(tmp_path / "masks" / f"{name}.png", np.zeros((8, 8)))
    found = cutouts_in(tmp_path / "images", tmp_path / "masks")
    assert [source.opacity_path for source in found] == [tmp_path / "masks" / f"{n}.png" for n in ("cat/a", "dog/b")]
    (tmp_path / "masks" / "dog" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png is not there; it belongs to .*b\.jpg"):
        cutouts_in(tmp_path / "images", tmp_path / "masks")


def test_folders_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cutouts must be a folder, and .*nowhere does not exist"):
        cutouts_in(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="must have a folder for each place, with images in it, and has none"):
        backgrounds_in(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a place and must have images \(.*\.bmp.*but empty has none"):
        backgrounds_in(tmp_path)


def test_a_place_of_several_folders(tmp_path: Path) -> None:
    """As Places has them: ocean and lake for water; the names say which folder an image is from."""
    make_backgrounds(tmp_path, ("ocean", "lake", "forest"), count=1)
    found = backgrounds_of({"land": [tmp_path / "forest"], "water": [tmp_path / "ocean", tmp_path / "lake"]})
    assert [(source.name, source.place) for source in found] == [
        ("land/forest/forest00.png", "land"),
        ("water/ocean/ocean00.png", "water"),
        ("water/lake/lake00.png", "water"),
    ]
    make_backgrounds(tmp_path / "another", ("lake",), count=1)
    with pytest.raises(ValueError, match=r"would both be called water/lake/lake00.png; rename one of the two folders"):
        backgrounds_of({"water": [tmp_path / "lake", tmp_path / "another" / "lake"]})
    with pytest.raises(FileNotFoundError, match=r"the folder of place 'sky' must be a folder, and .*sky does not"):
        backgrounds_of({"sky": [tmp_path / "sky"]})


def test_classes_are_merged_into_labels(tmp_path: Path) -> None:
    make_cutouts(tmp_path, ("cat", "dog", "wolf"), count=1)
    merged = relabelled(cutouts_in(tmp_path), {"cat": "cat", "dog": "canine", "wolf": "canine"})
    assert [(source.name, source.class_name) for source in merged] == [
        ("cat/cat00.png", "cat"),
        ("dog/dog00.png", "canine"),
        ("wolf/wolf00.png", "canine"),
    ]
    with pytest.raises(ValueError, match=r"labels must have a label for each class of the cut-outs, .* for dog, wolf"):
        relabelled(cutouts_in(tmp_path), {"cat": "cat"})


def test_water_birds_are_recognised_by_complete_words() -> None:
    """The three land birds in whose names Waterbirds' script finds a "tern" are land birds here."""
    land = ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee")
    water = (
        "001.Black_footed_Albatross",
        "053.Western_Grebe",
        "044.Frigatebird",
        "100.Brown_Pelican",
        "086.Pacific_Loon",
    )
    assert {water_or_land(name) for name in land} == {"landbird"}
    assert {water_or_land(name) for name in water} == {"waterbird"}


def test_copies_that_programs_leave_are_no_sources(tmp_path: Path) -> None:
    make_cutouts(tmp_path, count=1)
    save(tmp_path / "cat" / ".ipynb_checkpoints" / "cat00-checkpoint.png", cutout(1, 1))
    save(tmp_path / "__MACOSX" / "cat" / "cat00.png", cutout(1, 1))
    assert [source.name for source in cutouts_in(tmp_path)] == ["cat/cat00.png", "dog/dog00.png"]


def test_links_are_followed_and_the_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cutouts(tmp_path / "cutouts", count=1)
    make_backgrounds(tmp_path / "far", ("ocean", "forest"), count=1)
    (tmp_path / "cutouts" / "cat" / "more").symlink_to(tmp_path / "cutouts" / "dog")
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [source.name for source in cutouts_in("~/cutouts")]
    assert names == ["cat/cat00.png", "cat/more/dog00.png", "dog/dog00.png"]
    assert [len(backgrounds_in("~/far")), len(backgrounds_of({"water": ["~/far/ocean"]}))] == [2, 1]
    (tmp_path / "cutouts" / "dog" / "back").symlink_to(tmp_path / "cutouts" / "cat")
    with pytest.raises(ValueError, match="listing would never end"):
        cutouts_in(tmp_path / "cutouts")
