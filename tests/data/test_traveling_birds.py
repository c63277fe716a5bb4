"""TravelingBirds as it is on disk: split by CUB, whatever its folders hold."""

import shutil
from pathlib import Path

import pytest
from releases import (
    SPECIES,
    Breaking,
    assert_refused,
    make_cub,
    make_traveling_birds,
    photographs,
    remove,
    write,
    write_places,
)
from test_cub import assert_mask_on_bird

from aimwrap.data import TravelingBirds, read_traveling_birds

BIRDS = photographs()
BACKGROUND = {"train": 60, "test": 100}  # of CUB_fixed


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants with CUB next to them; read only."""
    parent = tmp_path_factory.mktemp("traveling")
    make_cub(parent, "beside")
    return make_traveling_birds(parent)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The same without images, to be broken."""
    make_cub(tmp_path, pictures=False)
    return make_traveling_birds(tmp_path, pictures=False)


def background_of(sample: object) -> int:
    return sample.image.getpixel((0, 0))[0]


class TestFixed:
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_split_is_cubs_and_images_are_of_its_folder(self, tree: Path, split: str) -> None:
        data = TravelingBirds(tree, split)
        birds = [bird for bird in BIRDS if bird.training == (split == "train")]
        for bird, sample in zip(birds, data, strict=True):
            x, y, width, height = bird.box
            assert (sample.id, sample.label) == (str(bird.id), bird.label - 1)
            assert sample.path == str(tree / "CUB_fixed" / split / bird.name)
            assert abs(background_of(sample) - BACKGROUND[split]) < 8
            assert sample.boxes.tolist() == [[x, y, x + width, y + height]]
            assert_mask_on_bird(sample)

    def test_no_bird_is_in_both_splits(self, tree: Path) -> None:
        ids = [{record.id for record in TravelingBirds(tree, split).records} for split in ("train", "test")]
        assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == len(BIRDS)

    def test_all_leaks_and_says_so(self, tree: Path) -> None:
        for split in ("train", "test"):
            data = TravelingBirds(tree, split, split_by="all")
            assert [int(record.id) for record in data.records] == [bird.id for bird in BIRDS]
            assert all(record.path.is_relative_to(tree / "CUB_fixed" / split) for record in data.records)
        assert "all birds in both splits" in data.release.name
        assert any("tests on the birds of the training" in note for note in data.release.notes)
        assert not any("no bird of the test is trained on" in note for note in data.release.notes)

    def test_places_travel(self, tree: Path) -> None:
        train, test = TravelingBirds(tree, "train"), TravelingBirds(tree, "test")
        assert train.places == tuple(f"Places365 class {id}" for id in (17, 3, 200, 56, 364, 0))
        assert train.place_numbers.tolist() == train.labels.tolist()
        assert test.place_numbers.tolist() == [(label - 1) % 6 for label in test.labels.tolist()]
        assert test[0].place == 5 and test[0].group == 5
        assert len(train.group_names) == 36

    def test_places_that_do_not_travel_are_refused(self, tables: Path) -> None:
        """One table was a copy of the other, and the test's places were said to be the training's."""
        shutil.copy(tables / "CUB_fixed" / "train_places.json", tables / "CUB_fixed" / "test_places.json")
        with pytest.raises(ValueError, match=r"gives 6 of 6 species the place of train_places\.json"):
            read_traveling_birds(tables)

    def test_places_are_optional(self, tables: Path) -> None:
        for table in (tables / "CUB_fixed").glob("*.json"):
            table.unlink()
        data = TravelingBirds(tables)
        assert data.places == () and data.groups is None and data.records[0].place is None

    def test_there_is_no_validation_split(self, tree: Path) -> None:
        with pytest.raises(ValueError, match=r"split must be among 'train', 'test' for TravelingBirds \(CUB_fixed\)"):
            TravelingBirds(tree, "val")


@pytest.mark.parametrize("variant", ["black", "random"])
def test_flat_variants(tree: Path, variant: str) -> None:
    for split in ("train", "test"):
        data = TravelingBirds(tree, split, variant=variant)
        birds = [bird for bird in BIRDS if bird.training == (split == "train")]
        for bird, sample in zip(birds, data, strict=True):
            assert sample.path == str(tree / f"CUB_{variant}" / bird.name) and sample.place is None
            assert abs(background_of(sample) - (0 if variant == "black" else 20 + bird.id)) < 8
            assert_mask_on_bird(sample)


class TestFinding:
    @pytest.mark.parametrize("variant", ["fixed", "black", "random"])
    def test_root_may_be_the_variants_folder(self, tree: Path, variant: str) -> None:
        assert read_traveling_birds(tree / f"CUB_{variant}", variant) == read_traveling_birds(tree, variant)

    def test_renamed_folder(self, tables: Path) -> None:
        (tables / "CUB_fixed").rename(tables / "travelingbirds")
        assert len(read_traveling_birds(tables / "travelingbirds").records) == len(BIRDS)

    def test_cub_elsewhere(self, tmp_path: Path) -> None:
        make_traveling_birds(tmp_path / "a", pictures=False)
        make_cub(tmp_path / "b" / "c", pictures=False)
        with pytest.raises(
            FileNotFoundError, match=r"cub must be the folder CUB_200_2011: .*There is no such folder next to"
        ):
            read_traveling_birds(tmp_path / "a")
        for cub in (tmp_path / "b" / "c", tmp_path / "b" / "c" / "CUB_200_2011"):
            record = read_traveling_birds(tmp_path / "a", cub=cub).records[0]
            assert record.mask_path.is_relative_to(cub) and record.boxes is not None

    @pytest.mark.parametrize(
        ("root", "variant"), [(".", "random"), ("CUB_fixed", "random"), ("CUB_black", "fixed"), ("CUB_black", "random")]
    )
    def test_another_variant_than_there_is(self, tables: Path, root: str, variant: str) -> None:
        shutil.rmtree(tables / "CUB_random")
        if root == "CUB_black":
            (tables / "CUB_black" / "train").mkdir()
            (tables / "CUB_black" / "test").mkdir()
        with pytest.raises(FileNotFoundError, match=f"variant='{variant}' needs the folder CUB_{variant}, and"):
            read_traveling_birds(tables / root, variant)

    def test_those_that_there_are_are_named(self, tables: Path) -> None:
        shutil.rmtree(tables / "CUB_random")
        with pytest.raises(FileNotFoundError, match="it has variant 'fixed' and 'black'"):
            read_traveling_birds(tables, "random")

    def test_no_such_variant(self, tree: Path) -> None:
        with pytest.raises(ValueError, match="variant must be one of 'fixed', 'black', 'random', got 'green'"):
            read_traveling_birds(tree, "green")

    def test_no_such_split_by(self, tree: Path) -> None:
        with pytest.raises(ValueError, match="split_by must be one of 'cub', 'all', got 'folder'"):
            read_traveling_birds(tree, split_by="folder")

    def test_all_is_for_fixed(self, tree: Path) -> None:
        with pytest.raises(ValueError, match=r"split_by='all' is for variant='fixed'.* got 'black'"):
            read_traveling_birds(tree, "black", "all")

    def test_masks_demanded(self, tmp_path: Path) -> None:
        make_cub(tmp_path, segmentations=None, pictures=False)
        make_traveling_birds(tmp_path, pictures=False)
        assert read_traveling_birds(tmp_path).records[0].mask_path is None
        with pytest.raises(FileNotFoundError, match="CUB's segmentations are not in"):
            read_traveling_birds(tmp_path, object_masks=True)


IDS = dict(zip(SPECIES, range(6), strict=True))
NO_PLACES = "must give the number of a place to each of CUB's 6"


def places(name: str, values: dict[str, object]) -> Breaking:
    return lambda fixed: write_places(fixed / name, values)


BROKEN: dict[str, tuple[Breaking, type[Exception], str]] = {
    "no test folder": (remove("test"), FileNotFoundError, "folder of images must be a folder"),
    "a species missing": (
        remove(f"test/{SPECIES[2]}"),
        FileNotFoundError,
        f"test lacks 1 of 6 species, the first of them {SPECIES[2]}",
    ),
    "one table of places": (
        remove("test_places.json"),
        FileNotFoundError,
        "test_places.json is not there, and the other of the two tables is",
    ),
    "places cut off": (write("train_places.json", '{"001'), ValueError, "train_places.json is not JSON"),
    "places not UTF-8": (write("train_places.json", b"\xff"), ValueError, "is not JSON"),
    "places too deep": (write("train_places.json", "[" * 200_000), ValueError, "is not JSON"),
    "places are a list": (write("train_places.json", "[1, 2]"), ValueError, NO_PLACES),
    "places by name": (places("train_places.json", {**IDS, SPECIES[0]: "/a/abbey"}), ValueError, NO_PLACES),
    "places by truth": (places("train_places.json", {**IDS, SPECIES[0]: True}), ValueError, NO_PLACES),
    "a species without place": (places("test_places.json", {SPECIES[0]: 1}), ValueError, NO_PLACES),
    "a species too many": (places("test_places.json", {**IDS, "201.Dodo": 9}), ValueError, NO_PLACES),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_trees_are_refused(tables: Path, name: str) -> None:
    root = tables if name == "no test folder" else tables / "CUB_fixed"
    assert_refused(lambda: read_traveling_birds(root), tables / "CUB_fixed", BROKEN[name])


def test_missing_image_is_refused_when_it_is_read(tables: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CUB_fixed/train/.* is not there"):
        TravelingBirds(tables)[0]
