"""CUB-200-2011 as it is on disk, and every way in which it can be broken."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from releases import (
    IMAGES_PER_SPECIES,
    MASK_MODES,
    SPECIES,
    assert_refused,
    change,
    cut_off,
    make_bomb,
    make_cub,
    paint_mask,
    photographs,
    recode,
    remove,
    write,
    write_table,
)
from torchvision import tv_tensors

from aimwrap.data import CUB200, read_cub
from aimwrap.data.sample import Sample
from aimwrap.data.sets.cub import mask_of, read_birds

BIRDS = photographs()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy tree, read only."""
    return make_cub(tmp_path_factory.mktemp("cub"))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Tables and folders without images, to be broken."""
    return make_cub(tmp_path, pictures=False)


def assert_mask_on_bird(sample: Sample) -> None:
    """The painted bird is bright, the ground is dark: where the mask says bird, and only there, the image is bright."""
    bright = np.asarray(sample.image).mean(-1) > 150
    assert (bright == (sample.object_mask[0] >= 0.5).numpy()).all(), sample.path


class TestHealthy:
    def test_samples_are_what_the_tables_say(self, tree: Path) -> None:
        data = CUB200(tree, None)
        assert len(data) == len(BIRDS)
        for bird, sample in zip(BIRDS, data, strict=True):
            x, y, width, height = bird.box
            assert (sample.id, sample.label) == (str(bird.id), bird.label - 1)
            assert sample.path == str(tree / "images" / bird.name)
            assert sample.image.size == bird.size and sample.image.mode == "RGB"
            assert sample.boxes.tolist() == [[x, y, x + width, y + height]]
            assert isinstance(sample.boxes, tv_tensors.BoundingBoxes) and isinstance(
                sample.object_mask, tv_tensors.Mask
            )
            assert sample.place is None and sample.group is None
            assert_mask_on_bird(sample)

    def test_split_is_cubs(self, tree: Path) -> None:
        ids = {split: {int(record.id) for record in CUB200(tree, split).records} for split in ("train", "test")}
        assert ids["train"] == {bird.id for bird in BIRDS if bird.training}
        assert ids["test"] == {bird.id for bird in BIRDS if not bird.training}

    def test_there_is_no_validation_split(self, tree: Path) -> None:
        with pytest.raises(ValueError, match=r"split must be among 'train', 'test' for CUB-200-2011, got 'val'"):
            CUB200(tree, "val")

    def test_classes_are_the_species_in_the_tables_order(self, tree: Path) -> None:
        data = CUB200(tree)
        assert data.classes == SPECIES and data.places == () and data.groups is None
        assert data.labels.unique().tolist() == list(range(len(SPECIES)))

    def test_root_may_be_the_parent(self, tree: Path) -> None:
        assert read_cub(tree.parent) == read_cub(tree) == read_cub(str(tree))

    def test_soft_values_are_shares_of_the_pixel(self, tree: Path) -> None:
        bird = next(bird for bird in BIRDS if MASK_MODES[bird.id % len(MASK_MODES)] == "RGB")
        sample = CUB200(tree, None)[bird.id - 1]
        x, y, *_ = bird.box
        assert sample.object_mask[0, y, x] == 128 / 255
        assert sample.object_mask[0, y, x + 1] == 1 and sample.object_mask[0, 0, 0] == 0

    def test_upper_case_extensions(self, tree: Path) -> None:
        sample = CUB200(tree, None)[1]
        assert sample.path.endswith(".JPG") and sample.object_mask is not None

    def test_row_order_means_nothing(self, tmp_path: Path, tree: Path) -> None:
        shuffled = make_cub(tmp_path, shuffle_boxes=True)
        assert (shuffled / "bounding_boxes.txt").read_text() != (tree / "bounding_boxes.txt").read_text()
        assert [r.boxes for r in read_cub(shuffled).records] == [r.boxes for r in read_cub(tree).records]

    def test_notes_tell_an_incomplete_release(self, tables: Path) -> None:
        change("train_test_split.txt", "1 1\n", "1 0\n")(tables)
        note = "The tables have 47 images for training and 49 for the test, the official ones 5994 and 5794"
        assert any(text.startswith(note) for text in read_cub(tables).notes)

    def test_boxes_may_be_a_pixel_small(self, tables: Path) -> None:
        change("bounding_boxes.txt", BOX, "1 5.0 4.0 1 0.5\n")(tables)
        assert read_cub(tables).records[0].boxes == ((5, 4, 6, 4.5),)

    def test_tables_of_windows(self, tables: Path) -> None:
        before = read_cub(tables)
        for table in tables.glob("*.txt"):
            table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        assert read_cub(tables) == before


class TestSegmentations:
    @pytest.mark.parametrize("where", ["inside", "beside"])
    def test_found(self, tmp_path: Path, where: str) -> None:
        cub = make_cub(tmp_path, where, pictures=False)
        expected = {"inside": cub, "beside": tmp_path}[where] / "segmentations"
        for record, bird in zip(read_cub(tmp_path).records, BIRDS, strict=True):
            assert record.mask_path == (expected / bird.name).with_suffix(".png")

    def test_given(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, pictures=False)
        elsewhere = shutil.move(cub / "segmentations", tmp_path / "elsewhere")
        assert all(record.mask_path is None for record in read_cub(cub).records)
        assert read_cub(cub, elsewhere).records[0].mask_path.parent.parent == tmp_path / "elsewhere"

    @pytest.mark.parametrize(
        ("name", "mask"),
        [
            ("1.A/b.jpg", "1.A/b.png"),
            ("1.A/b.c.JPG", "1.A/b.c.png"),
            ("1.A/b", "1.A/b.png"),
            ("b.jpg", "b.png"),
            ("b", "b.png"),
        ],
    )
    def test_of_an_image(self, name: str, mask: str) -> None:
        assert mask_of(Path("masks"), name) == Path("masks", mask)

    def test_optional(self, tmp_path: Path) -> None:
        release = read_cub(make_cub(tmp_path, segmentations=None))
        assert all(record.mask_path is None for record in release.records)
        assert any("Without CUB's segmentations" in note for note in release.notes)
        assert CUB200(tmp_path)[0].object_mask is None

    def test_demanded(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, segmentations=None, pictures=False)
        with pytest.raises(FileNotFoundError, match=r"segmentations are not in .*get segmentations.tgz"):
            read_cub(cub, object_masks=True)

    def test_given_and_not_there(self, tables: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"segmentations must be a folder.*does not exist"):
            read_cub(tables, tables / "nowhere")
        with pytest.raises(FileNotFoundError, match="segmentations are not in"):
            read_cub(tables, tables.parent)

    def test_unwanted(self, tree: Path) -> None:
        assert CUB200(tree, object_masks=False)[0].object_mask is None
        with pytest.raises(ValueError, match="leave one of the two out"):
            read_cub(tree, tree / "segmentations", object_masks=False)

    def test_incomplete(self, tables: Path) -> None:
        (tables / "segmentations" / SPECIES[3]).rmdir()
        with pytest.raises(FileNotFoundError, match=f"lack 1 of 6 species, the first of them {SPECIES[3]}"):
            read_cub(tables)

    def test_another_s_next_to_it_are_not_taken(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, segmentations=None, pictures=False)
        (tmp_path / "segmentations" / "ADE20K").mkdir(parents=True)
        assert read_cub(cub).records[0].mask_path is None


FIRST = f"1 {BIRDS[0].name}\n"
BOX = "1 5.0 4.0 15.0 13.0\n"
BROKEN_TABLES = {
    "images.txt missing": (remove("images.txt"), FileNotFoundError, "neither images.txt nor"),
    "images missing": (remove("images"), FileNotFoundError, "CUB's images must be a folder"),
    **{
        f"{name} missing": (remove(name), FileNotFoundError, f"{name} is not there")
        for name in ("classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    },
    "too few columns": (
        change("images.txt", FIRST, "1\n"),
        ValueError,
        r"images.txt, line 1: a row must have 2 values",
    ),
    "too many columns": (change("bounding_boxes.txt", BOX, BOX[:-1] + " 9\n"), ValueError, r"5 values .*got 6"),
    "no integer": (
        change("train_test_split.txt", "1 1\n", "1 yes\n"),
        ValueError,
        "must be an integer from 0 to 1, got",
    ),
    "another split code": (
        change("train_test_split.txt", "1 1\n", "1 2\n"),
        ValueError,
        "integer from 0 to 1, got '2'",
    ),
    "class out of range": (change("image_class_labels.txt", "1 1\n", "1 7\n"), ValueError, "from 1 to 6, got '7'"),
    "class from zero": (change("image_class_labels.txt", "1 1\n", "1 0\n"), ValueError, "from 1 to 6, got '0'"),
    "another class": (change("image_class_labels.txt", "1 1\n", "1 2\n"), ValueError, "image 1 has class 2"),
    "id twice": (change("images.txt", "2 ", "1 "), ValueError, "id 1 is there twice"),
    "box id twice": (
        change("bounding_boxes.txt", "\n2 ", "\n1 "),
        ValueError,
        "bounding_boxes.txt.*id 1 is there twice",
    ),
    "box id unknown": (change("bounding_boxes.txt", "1 ", "999 "), ValueError, r"\[999\]"),
    "name twice": (
        change("images.txt", BIRDS[1].name, BIRDS[0].name),
        ValueError,
        "is there twice, with different ids",
    ),
    "no boxes": (write("bounding_boxes.txt", ""), ValueError, "is empty"),
    "rows cut off": (
        lambda cub: cut_off(cub / "bounding_boxes.txt"),
        ValueError,
        "values|must have one row for each id",
    ),
    "box without width": (change("bounding_boxes.txt", BOX, "1 5.0 4.0 0 13\n"), ValueError, "a width and a height"),
    "box without height": (change("bounding_boxes.txt", BOX, "1 5.0 4.0 15 -1\n"), ValueError, "a width and a height"),
    "box of nan": (change("bounding_boxes.txt", BOX, "1 nan 4.0 15 13\n"), ValueError, "x must be a number, got 'nan'"),
    "gap in classes": (change("classes.txt", "6 200", "7 200"), ValueError, "from 1 to 6, without gaps"),
    "not UTF-8": (
        change("images.txt", FIRST, FIRST.encode() + b"\xff\xfe\n"),
        ValueError,
        "images.txt is not UTF-8 text",
    ),
    "UTF-16": (recode("classes.txt", "utf-16"), ValueError, "classes.txt is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_broken_tables_are_refused(tables: Path, name: str) -> None:
    assert_refused(lambda: read_cub(tables), tables, BROKEN_TABLES[name])


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x.jpg", "C:/x.jpg", "a/..\\..\\x.jpg", "a/../../x.jpg"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    """Even where all tables agree on them."""
    cub = tmp_path / "CUB_200_2011"
    (cub / "images").mkdir(parents=True)
    write_table(cub / "images.txt", [(1, path)])
    write_table(cub / "classes.txt", [(1, path.rpartition("/")[0])])
    write_table(cub / "image_class_labels.txt", [(1, 1)])
    write_table(cub / "train_test_split.txt", [(1, 1)])
    write_table(cub / "bounding_boxes.txt", [(1, 1, 1, 2, 2)])
    with pytest.raises(ValueError, match="must be a path below"):
        read_cub(cub)


@pytest.mark.parametrize("root", ["nowhere", "file.tgz", "empty"])
def test_roots_that_are_none(tmp_path: Path, root: str) -> None:
    (tmp_path / "file.tgz").touch()
    (tmp_path / "empty").mkdir()
    message = {"nowhere": "does not exist", "file.tgz": "is a file: unpack it first", "empty": "neither images.txt nor"}
    with pytest.raises(FileNotFoundError, match=f"root must be .*{message[root]}"):
        read_cub(tmp_path / root)


class TestBrokenPictures:
    """The tables are complete, so reading them works; the sample is refused, and the others are read."""

    @pytest.fixture
    def broken(self, tree: Path, tmp_path: Path) -> Path:
        cub = tmp_path / "CUB_200_2011"
        for part in ("images", "segmentations"):
            shutil.copytree(tree / part / SPECIES[0], cub / part / SPECIES[0])
            for species in SPECIES[1:]:
                (cub / part / species).mkdir()
        for table in tree.glob("*.txt"):
            shutil.copy(table, cub)
        return cub

    def refused(self, cub: Path, error: type[Exception], message: str) -> None:
        data = CUB200(cub, None)
        with pytest.raises(error, match=message):
            data[2]
        for index in set(range(IMAGES_PER_SPECIES)) - {2}:
            assert_mask_on_bird(data[index])

    def test_missing_image(self, broken: Path) -> None:
        (broken / "images" / BIRDS[2].name).unlink()
        self.refused(broken, FileNotFoundError, f"{BIRDS[2].name} is not there")

    def test_missing_mask(self, broken: Path) -> None:
        (broken / "segmentations" / BIRDS[2].name).with_suffix(".png").unlink()
        self.refused(broken, FileNotFoundError, r"\.png is not there")

    @pytest.mark.parametrize("share", [0, 0.3, 0.9])
    def test_truncated_jpeg(self, broken: Path, share: float) -> None:
        cut_off(broken / "images" / BIRDS[2].name, share)
        self.refused(broken, ValueError, f"{BIRDS[2].name} (is not complete|is not an image)")

    @pytest.mark.parametrize("share", [0, 0.3, 0.8])
    def test_truncated_png(self, broken: Path, share: float) -> None:
        cut_off((broken / "segmentations" / BIRDS[2].name).with_suffix(".png"), share)
        self.refused(broken, ValueError, r"\.png (is not complete|is not an image)")

    def test_web_page_in_place_of_an_image(self, broken: Path) -> None:
        (broken / "images" / BIRDS[2].name).write_text("<html>404</html>")
        self.refused(broken, ValueError, "is not an image that Pillow can read")

    @pytest.mark.parametrize("side", [12_000, 20_000, 2_000_000_000])
    def test_decompression_bomb(self, broken: Path, side: int) -> None:
        make_bomb((broken / "segmentations" / BIRDS[2].name).with_suffix(".png"), side)
        self.refused(broken, ValueError, "pixels.*not decoded|is not an image")

    def test_mask_of_another_size(self, broken: Path) -> None:
        mask = paint_mask(BIRDS[2])
        mask.resize((mask.width, mask.height + 1)).save((broken / "segmentations" / BIRDS[2].name).with_suffix(".png"))
        self.refused(broken, ValueError, r"36 x 43 pixels.*35 x 43: they belong to different releases")

    def test_mask_of_zeros_and_ones(self, broken: Path) -> None:
        mask = paint_mask(BIRDS[2]).convert("L").point(lambda value: value // 255)
        mask.save((broken / "segmentations" / BIRDS[2].name).with_suffix(".png"))
        self.refused(broken, ValueError, "no value above 1 of 255")

    def test_box_outside_of_its_image(self, broken: Path) -> None:
        """As happens where boxes were joined by row: another image's box need not fit."""
        box = f"3 {' '.join(map(str, map(float, BIRDS[2].box)))}\n"
        change("bounding_boxes.txt", box, "3 30.0 3.0 25.0 10.0\n")(broken)
        self.refused(broken, ValueError, "are not inside its")


def test_reads_no_image(tables: Path) -> None:
    """Tables and folders are enough: there is no image."""
    assert len(read_cub(tables).records) == len(BIRDS)
    assert torch.equal(CUB200(tables, None).labels, torch.tensor([bird.label - 1 for bird in BIRDS]))


@pytest.mark.parametrize("edges", [False, True])
def test_edges_in_place_of_width_and_height_are_refused(tmp_path: Path, edges: bool) -> None:
    """Small boxes stayed inside their images, twice as large as they should be."""
    numbers = range(1, 302)
    write_table(tmp_path / "classes.txt", [(1, "a")])
    write_table(tmp_path / "images.txt", [(id, f"a/{id}.jpg") for id in numbers])
    for name in ("image_class_labels", "train_test_split"):
        write_table(tmp_path / f"{name}.txt", [(id, 1) for id in numbers])
    boxes = [(id, id % 60, id % 50, id % 60 * edges + 40, id % 50 * edges + 30) for id in numbers]
    write_table(tmp_path / "bounding_boxes.txt", boxes)
    if edges:
        with pytest.raises(ValueError, match="in every row: these are the right and the bottom edge"):
            read_birds(tmp_path)
    else:
        assert len(read_birds(tmp_path)[1]) == 301
