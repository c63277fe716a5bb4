"""Each planted fault is found and named, and nothing is found on healthy trees."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from releases import cut_off, make_bomb, make_cub, make_traveling_birds, make_waterbirds, waterbirds_rows, write_table

from aimwrap.data.doctor import Examination, examine

WATERBIRDS = "waterbird_complete95_forest2water2"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUB, Waterbirds and TravelingBirds next to each other."""
    parent = tmp_path_factory.mktemp("healthy")
    make_cub(parent)
    make_waterbirds(parent)
    (parent / "traveling_birds").mkdir()
    make_traveling_birds(parent / "traveling_birds")
    return parent


@pytest.fixture
def trees(healthy: Path, tmp_path: Path) -> Path:
    """CUB and Waterbirds, to be broken."""
    return Path(shutil.copytree(healthy, tmp_path / "trees", ignore=shutil.ignore_patterns("traveling_birds")))


def findings(found: Examination) -> dict[str, list[str]]:
    """All that is not in order: mark and name of the check, and what it found."""
    return {
        f"{check.mark} {check.name}": [f"{finding.subject}: {finding.message}" for finding in check.findings]
        or [check.summary]
        for check in found.checks
        if check.mark != "ok"
    }


@pytest.mark.parametrize("name", ["CUB_200_2011", WATERBIRDS, "traveling_birds", "traveling_birds/CUB_black"])
def test_healthy_trees_are_healthy(healthy: Path, name: str) -> None:
    found = examine(healthy / name, official=False)
    assert findings(found) == {}
    assert found.healthy and found.exit_code == 0
    assert sum(count.images for count in found.counts) == 96
    assert found.notes


def test_the_folder_is_left_as_it_was(trees: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trees.rglob("*")}
    examine(trees / WATERBIRDS)
    assert {path: path.stat().st_mtime_ns for path in trees.rglob("*")} == before


def test_counts_by_split_and_group(healthy: Path) -> None:
    found = examine(healthy / WATERBIRDS, official=False)
    assert [(count.split, count.images, count.labels, count.groups) for count in found.counts] == [
        ("train", 24, (4, 20), (3, 1, 5, 15)),
        ("val", 24, (4, 20), (2, 2, 10, 10)),
        ("test", 48, (8, 40), (4, 4, 20, 20)),
    ]


def test_a_part_of_a_release_is_reported_unless_it_is_one_on_purpose(healthy: Path) -> None:
    found = examine(healthy / WATERBIRDS)
    assert findings(found) == {
        "fault counts": [
            "train: 24 images, and the official release has 4,795",
            "val: 24 images, and the official release has 1,199",
            "test: 48 images, and the official release has 5,794",
        ]
    }
    assert not found.healthy and found.exit_code == 1
    assert "fault labels" in findings(examine(healthy / "CUB_200_2011"))  # six of 200 species


def missing_image(trees: Path) -> None:
    first_image(trees).unlink()


def image_in_other_case(trees: Path) -> None:
    path = first_image(trees)
    path.rename(path.with_suffix(".JPG"))


def missing_species(trees: Path) -> None:
    shutil.rmtree(trees / WATERBIRDS / "059.California_Gull")


def missing_mask(trees: Path) -> None:
    first_mask(trees).unlink()


def cut_image(trees: Path) -> None:
    cut_off(first_image(trees), share=0.95)


def image_that_is_text(trees: Path) -> None:
    first_image(trees).write_text("<html>404 Not Found</html>")


def postscript_in_disguise(trees: Path) -> None:
    """Which Pillow would give to Ghostscript to run."""
    first_image(trees).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 41 33\n(x) run\n")


def empty_file(trees: Path) -> None:
    first_image(trees).write_bytes(b"")


def bomb(trees: Path) -> None:
    first_image(trees).unlink()
    make_bomb(first_image(trees))


def cut_mask(trees: Path) -> None:
    cut_off(first_mask(trees))


def resized_mask(trees: Path) -> None:
    mask = Image.new("L", (20, 10))
    mask.paste(255, (2, 2, 9, 8))
    mask.save(first_mask(trees))


def empty_mask(trees: Path) -> None:
    write_mask(trees, 0)


def full_mask(trees: Path) -> None:
    write_mask(trees, 255)


def mask_of_class_numbers(trees: Path) -> None:
    write_mask(trees, 2)


def mask_of_ones(trees: Path) -> None:
    write_mask(trees, 1)


def unnamed_image(trees: Path) -> None:
    shutil.copy(first_image(trees), trees / WATERBIRDS / "new.jpg")


def image_of_the_test_in_training(trees: Path) -> None:
    """With its mask, whose box is nearly the same."""
    for path in (first_image(trees), first_mask(trees)):
        shutil.copy(path.with_name(path.name.replace("0001_100", "0010_1000")), path)


def without_a_column(trees: Path) -> None:
    replace(trees / WATERBIRDS / "metadata.csv", "split,place", "part,place")


def unknown_split(trees: Path) -> None:
    write_waterbirds(trees, lambda rows: rows[5].__setitem__(3, 3))


def path_that_climbs_out(trees: Path) -> None:
    write_waterbirds(trees, lambda rows: rows[5].__setitem__(1, "../../secret.jpg"))


def shuffled_boxes(trees: Path) -> None:
    """Ids stay in order and boxes move, as when a column is sorted alone."""
    rows = [line.split() for line in (trees / "CUB_200_2011" / "bounding_boxes.txt").read_text().splitlines()]
    boxes = [row[1:] for row in rows]
    random.Random(0).shuffle(boxes)
    moved = [(float(x) + 12 * (n % 2), *rest) for n, (x, *rest) in enumerate(boxes)]  # the birds' own are much alike
    write_table(
        trees / "CUB_200_2011" / "bounding_boxes.txt", [(row[0], *box) for row, box in zip(rows, moved, strict=True)]
    )


def box_outside(trees: Path) -> None:
    replace(trees / "CUB_200_2011" / "bounding_boxes.txt", "1 5.0 4.0 ", "1 500.0 4.0 ")


def group_without_test_images(trees: Path) -> None:
    def turn(rows: list[list[object]]) -> None:
        for row in rows:
            if row[3] == 2 and row[2] == 0:
                row[4] = 0

    write_waterbirds(trees, turn)


def first_image(trees: Path) -> Path:
    return trees / WATERBIRDS / "001.Black_footed_Albatross" / "Black_footed_Albatross_0001_100.jpg"


def first_mask(trees: Path) -> Path:
    folder = trees / "CUB_200_2011" / "segmentations" / "001.Black_footed_Albatross"
    return folder / "Black_footed_Albatross_0001_100.png"


def write_mask(trees: Path, value: int) -> None:
    Image.new("L", (41, 33), value).save(first_mask(trees))


def write_waterbirds(trees: Path, change: Callable[[list[list[object]]], None]) -> None:
    rows = waterbirds_rows()
    change(rows)
    make_waterbirds(trees, rows=rows, pictures=False)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("plant", "check", "number", "named"),
    [
        (missing_image, "fault images", 1, "001.Black_footed_Albatross/Black_footed_Albatross_0001_100.jpg: missing"),
        (image_in_other_case, "fault images", 1, "there is Black_footed_Albatross_0001_100.JPG"),
        (missing_species, "fault images", 16, "missing, with its complete folder"),
        (missing_mask, "fault object masks", 1, "Black_footed_Albatross_0001_100.png: missing"),
        (cut_image, "fault readable", 1, "Black_footed_Albatross_0001_100.jpg: is not complete"),
        (image_that_is_text, "fault readable", 1, "Black_footed_Albatross_0001_100.jpg: is not an image"),
        (postscript_in_disguise, "fault readable", 1, "is not an image"),
        (empty_file, "fault readable", 1, "is not an image"),
        (bomb, "fault readable", 1, "pixels"),
        (cut_mask, "fault readable", 1, "Black_footed_Albatross_0001_100.png: is not complete"),
        (resized_mask, "fault sizes", 1, "20 x 10 pixels (W x H), and its image 41 x 33"),
        (empty_mask, "fault mask contents", 1, "Black_footed_Albatross_0001_100.png: empty"),
        (full_mask, "fault mask contents", 1, "every pixel is object"),
        (mask_of_class_numbers, "fault readable", 1, "no value above 2 of 255: it was saved with 1, or with"),
        (mask_of_ones, "fault readable", 1, "no value above 1 of 255"),
        (unnamed_image, "warning other files", 1, "new.jpg"),
        (image_of_the_test_in_training, "fault duplicates", 1, "(train, water bird): the same as 001.Black"),
        (without_a_column, "fault tables", 1, "lacks split"),
        (unknown_split, "fault tables", 1, "split must be an integer from 0 to 2, got '3'"),
        (path_that_climbs_out, "fault tables", 1, "'../../secret.jpg' must be a path below"),
        (box_outside, "fault boxes", 1, "box (500, 4, 515, 17) is not inside its 41 x 33 pixels"),
        (group_without_test_images, "warning groups", 1, "test, land bird on water: no images"),
    ],
)
def test_a_planted_fault_is_found(
    trees: Path, plant: Callable[[Path], None], check: str, number: int, named: str
) -> None:
    plant(trees)
    found = examine(trees / WATERBIRDS, official=False)
    seen = findings(found)
    if plant is image_in_other_case:
        assert seen.pop("warning other files")  # the same file again
    assert seen.keys() == {check}
    assert len(seen[check]) == number
    assert named in seen[check][0]
    assert found.exit_code == (1 if check.startswith("fault") else 0)


def test_shuffled_boxes_are_found(trees: Path) -> None:
    shuffled_boxes(trees)
    for name in ("CUB_200_2011", WATERBIRDS):
        seen = findings(examine(trees / name, official=False))
        assert seen.keys() == {"fault boxes"}
        assert len(seen["fault boxes"]) > 24


def test_all_faults_are_listed_at_once(trees: Path) -> None:
    for plant in (empty_mask, unnamed_image, box_outside):
        plant(trees)
    for path in sorted((trees / WATERBIRDS / "059.California_Gull").iterdir())[:12]:
        cut_off(path)
    seen = findings(examine(trees / WATERBIRDS, official=False))
    assert seen.keys() == {"fault mask contents", "warning other files", "fault boxes", "fault readable"}
    assert len(seen["fault readable"]) == 12


def test_damaged_images_are_found_though_the_table_cannot_be_read(trees: Path) -> None:
    without_a_column(trees)
    cut_image(trees)
    assert findings(examine(trees / WATERBIRDS)).keys() == {"fault tables", "fault readable"}


def test_headers_alone(trees: Path) -> None:
    cut_image(trees)
    resized_mask(trees)
    found = examine(trees / WATERBIRDS, official=False, quick=True)
    assert findings(found).keys() == {"fault sizes"}
    assert "only headers" in str(found)


def test_without_masks_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    cub = make_cub(tmp_path, segmentations=None)
    found = examine(cub, official=False)
    assert findings(found).keys() == {"warning object masks"}
    assert "segmentations.tgz" in str(found) and found.exit_code == 0


def test_masks_from_elsewhere(tmp_path: Path) -> None:
    home = make_waterbirds(tmp_path / "birds")
    make_cub(tmp_path / "elsewhere")
    assert "warning object masks" in findings(examine(home, official=False))
    assert findings(examine(home, official=False, cub=tmp_path / "elsewhere")) == {}


def test_links_are_followed_and_never_in_a_circle(trees: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (trees / WATERBIRDS / "059.California_Gull").rename(elsewhere)
    (trees / WATERBIRDS / "059.California_Gull").symlink_to(elsewhere)
    (trees / WATERBIRDS / "001.Black_footed_Albatross" / "up").symlink_to(trees / WATERBIRDS)
    (trees / WATERBIRDS / "self").symlink_to("self")
    assert findings(examine(trees / WATERBIRDS, official=False)) == {}


def test_cut_files_are_found_where_a_script_lets_pillow_take_them(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_image(trees)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "fault readable" in findings(examine(trees / WATERBIRDS, official=False))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_threads_change_nothing_not_even_the_warnings_that_are_shown(healthy: Path) -> None:
    one, many = (examine(healthy / WATERBIRDS, official=False, workers=workers) for workers in (1, 7))
    assert one == many
    with pytest.warns(UserWarning, match="still shown"):
        warnings.warn("still shown", stacklevel=1)
    with pytest.raises(ValueError, match="workers must be a positive number"):
        examine(healthy / WATERBIRDS, workers=0)


@pytest.mark.parametrize("content", [b"", b"\x00" * 400, b"\xff\xfe\x00x", b'"' * 200_000, b"img_id,y\n1"])
def test_any_table_gets_an_answer(trees: Path, content: bytes) -> None:
    (trees / WATERBIRDS / "metadata.csv").write_bytes(content)
    assert findings(examine(trees / WATERBIRDS)).keys() == {"fault tables"}
    for name in ("images.txt", "classes.txt", "bounding_boxes.txt"):
        (trees / "CUB_200_2011" / name).write_bytes(content)
        assert findings(examine(trees / "CUB_200_2011", official=False)).keys() == {"fault tables"}


def test_damage_anywhere_in_a_file_gets_an_answer(trees: Path) -> None:
    """Whatever bytes change, the doctor says something and raises nothing."""
    images = sorted((trees / WATERBIRDS).rglob("*.jpg")) + sorted((trees / "CUB_200_2011/segmentations").rglob("*.png"))
    rng = np.random.default_rng(0)
    for path in images:
        content = bytearray(path.read_bytes())
        for position in rng.integers(0, min(len(content), 700), 6):
            content[position] = rng.integers(256)
        path.write_bytes(content)
    found = examine(trees / WATERBIRDS, official=False)
    assert "fault readable" in findings(found)
    assert str(found) and found.as_dict()
