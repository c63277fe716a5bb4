"""Reports of `data build` that took other sources, or other folders, for what they are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aimwrap.data.builder import backgrounds_in, backgrounds_of, build, cutouts_in, waterbirds

RNG = np.random.default_rng(0)


def cut_out(path: Path, side: int = 20, opaque: bool = False) -> None:
    pixels = RNG.integers(0, 256, (side, side, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    pixels[:4, :4, 3] *= opaque
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def sources(root: Path, *above: str) -> Path:
    """Cut-outs and backgrounds, below folders of splits or not."""
    for folder, names in (("cutouts", ("cat", "dog")), ("backgrounds", ("beach", "forest"))):
        for name in names:
            for split in above or ("",):
                for number in range(12):
                    cut_out(root / folder / split / name / f"{number}.png")
    return root


def make(root: Path, opacity: Path | None = None, any_value: bool = False) -> int:
    cutouts = [each._replace(any_value=any_value) for each in cutouts_in(root / "cutouts", opacity)]
    return len(build(root / "out", cutouts, backgrounds_in(root / "backgrounds"), waterbirds(), progress=False).records)


def test_other_files_of_the_same_names_are_other_sources(tmp_path: Path) -> None:
    """The folder was called complete, or went on as a mixture of both."""
    count = make(sources(tmp_path))
    assert make(tmp_path) == count
    for path in (tmp_path / "cutouts").rglob("*.png"):
        cut_out(path, side=24)
    with pytest.raises(FileExistsError, match="source_files: there"):
        make(tmp_path)


@pytest.mark.parametrize("suffix", ["bmp", "png"])
def test_files_of_the_same_sizes_are_other_sources_too(tmp_path: Path, suffix: str) -> None:
    """Only sizes were compared; of bitmaps all are the same."""
    sources(tmp_path)
    paths = [path.rename(path.with_suffix(f".{suffix}")) for path in (tmp_path / "backgrounds").rglob("*.png")]
    for seed in range(2):
        for number, path in enumerate(paths):
            noise = np.random.default_rng([seed, number]).integers(0, 256, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(noise).save(path, **{"compress_level": 0} if suffix == "png" else {})
        if seed == 0:
            count, size = make(tmp_path), paths[0].stat().st_size
    assert {path.stat().st_size for path in paths} == {size}
    with pytest.raises(FileExistsError, match="source_files: there"):
        make(tmp_path)
    shutil.rmtree(tmp_path / "out")
    assert make(tmp_path) == make(tmp_path) == count


def test_other_masks_are_other_sources(tmp_path: Path) -> None:
    sources(tmp_path)
    for path in (tmp_path / "cutouts").rglob("*.png"):
        for masks, side in (("one", 10), ("other", 12)):
            mask = np.zeros((20, 20), np.uint8)
            mask[:side, :side] = RNG.integers(128, 256, (side, side))
            (tmp_path / masks / path.parent.name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / masks / path.parent.name / path.name)
    make(tmp_path, tmp_path / "one")
    for others in ({}, {"opacity": tmp_path / "other"}, {"opacity": tmp_path / "one", "any_value": True}):
        with pytest.raises(FileExistsError, match="source_files: there"):
            make(tmp_path, **others)
    make(tmp_path, tmp_path / "one")


@pytest.mark.parametrize("names", [("training", "testing"), ("Train", "Test"), ("train", "Training_set", "test")])
def test_splits_of_usual_names_are_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    """They were two classes named after the splits."""
    root = sources(tmp_path, *names)
    for found in (cutouts_in(root / "cutouts"), backgrounds_in(root / "backgrounds")):
        assert {each.path.parents[1].name: each.split for each in found} == {
            name: "train" if "train" in name.lower() else "test" for name in names
        }
    assert {each.class_name for each in cutouts_in(root / "cutouts")} == {"cat", "dog"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("Train", "Car"):
        cut_out(tmp_path / name / "1.png")
    assert {(each.class_name, each.split) for each in cutouts_in(tmp_path)} == {("Train", None), ("Car", None)}


def test_cut_outs_that_are_opaque_all_over_are_refused(tmp_path: Path) -> None:
    """Photographs saved with alpha were pasted as rectangles, and their masks were all of the picture."""
    for path in (sources(tmp_path) / "cutouts").rglob("*.png"):
        cut_out(path, opaque=True)
    with pytest.raises(ValueError, match=r"png has no transparent pixel \(mode RGBA\); pass the folder of masks"):
        make(tmp_path)


@pytest.mark.parametrize("above", [(), ("train", "test")])
def test_loose_pictures_next_to_the_folders_are_refused(tmp_path: Path, above: tuple[str, ...]) -> None:
    """They were passed over in silence."""
    root = sources(tmp_path, *above)
    cut_out(root / "cutouts" / "/".join(above[:1]) / "loose.png")
    with pytest.raises(
        ValueError, match=r"folder for each class, .* has images next to them, such as loose\.png; move"
    ):
        cutouts_in(root / "cutouts")


@pytest.mark.parametrize("above", [("Train", "Test"), ("train", "test"), ("Training",)])
def test_folders_of_splits_without_classes_are_refused(tmp_path: Path, above: tuple[str, ...]) -> None:
    """Train and Test were two classes."""
    for name in above:
        cut_out(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match="must have a folder for each class, with images in it, and has none"):
        cutouts_in(tmp_path)


def test_loose_pictures_next_to_splits_are_refused(tmp_path: Path) -> None:
    """They were passed over in silence."""
    root = sources(tmp_path, "train", "test")
    cut_out(root / "cutouts" / "loose.png")
    with pytest.raises(ValueError, match=r"folders named after splits \(.*\) and others \(loose\.png\); it must"):
        cutouts_in(root / "cutouts")


@pytest.mark.parametrize("names", [("caf\u00e9", "cafe\u0301"), ("Cat", "cat")])
def test_classes_that_would_share_a_folder_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """Of accents, some systems make one folder of the two forms, and others two classes."""
    root = sources(tmp_path)
    for before, after in zip(("cat", "dog"), names, strict=True):
        (root / "cutouts" / before).rename(root / "cutouts" / f"new-{before}")
        (root / "cutouts" / f"new-{before}").rename(root / "cutouts" / after)
    with pytest.raises(ValueError, match="names that differ in more than case or accents"):
        make(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("all/cat", "all/dog"), r"one {0} only, .*\. Pass the folder whose folders are the {1} \(as .*all may be\)$"),
        (("train/all/cat", "train/all/dog", "test/all/cat"), "has one {0} only"),
        (("2020/cat", "2020/dog", "2021/cat", "2021/dog"), r"folders \(2020, 2021\) .* above the {1} \(cat, dog\)"),
        (("2020/in/cat", "2020/in/dog", "2021/out/cat", "2021/out/dog"), r"above the {1} \(cat, dog\)"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), r"above the {1} \(test, train\)"),
        (("pictures", "masks"), "to hold kinds of files"),
    ],
)
@pytest.mark.parametrize(("kind", "kinds"), [("class", "classes"), ("place", "places")])
def test_sources_one_level_off_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str, kind: str, kinds: str
) -> None:
    """A folder above the classes or places was the only one, or years were the classes: a set without a tie."""
    for name in names:
        cut_out(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match=message.format(kind, kinds)):
        (cutouts_in if kind == "class" else backgrounds_in)(tmp_path)


def test_folders_within_places_still_belong_to_them(tmp_path: Path) -> None:
    for name in ("land/bamboo", "land/forest", "water/lake", "water/ocean/1"):
        cut_out(tmp_path / "all" / name / "1.png")
    assert [each.place for each in backgrounds_in(tmp_path / "all")] == ["land", "land", "water", "water"]
    for name in ("sea/day", "sea/night", "forest/day", "forest/night"):
        cut_out(tmp_path / "alike" / name / "1.png")
    assert [each.place for each in backgrounds_in(tmp_path / "alike")] == ["forest", "forest", "sea", "sea"]


def test_one_place_ties_nothing(tmp_path: Path) -> None:
    cutouts = cutouts_in(sources(tmp_path) / "cutouts")
    with pytest.raises(ValueError, match="places must name two or more of sea, each once, got sea"):
        build(tmp_path / "out", cutouts, backgrounds_of({"sea": [tmp_path / "backgrounds"]}), waterbirds())


def test_two_cut_outs_do_not_share_a_mask(tmp_path: Path) -> None:
    """Of one name and two suffixes, as the reader of a folder refuses."""
    for folder in ("cutouts", "masks"):
        for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
            cut_out(tmp_path / folder / name)
    assert len(cutouts_in(tmp_path / "cutouts", tmp_path / "masks")) == 3
    cut_out(tmp_path / "cutouts" / "cat" / "1.webp")
    with pytest.raises(ValueError, match=r"1\.png would be the mask of two images; rename one of them"):
        cutouts_in(tmp_path / "cutouts", tmp_path / "masks")
    assert len(cutouts_in(tmp_path / "cutouts")) == 4
