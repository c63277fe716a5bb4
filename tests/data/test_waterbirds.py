"""Waterbirds as it is on disk, in all its versions, and every way in which it can be broken."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import (
    COLUMNS,
    MISLABELLED,
    SPECIES,
    WATER,
    Breaking,
    assert_refused,
    change,
    cut_off,
    make_cub,
    make_traveling_birds,
    make_waterbirds,
    photographs,
    recode,
    remove,
    waterbirds_rows,
    write,
    write_table,
)
from test_cub import assert_mask_on_bird

from aimwrap.data import CUB200, TravelingBirds, Waterbirds, read_cub, read_waterbirds
from aimwrap.data.release import Record
from aimwrap.data.sets.waterbirds import OFFICIAL_COUNTS, notes_on, percent, tie_of, version_of

BIRDS = photographs()
Rows = list[list[object]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy 95 % folder's parent, with CUB next to it; read only."""
    parent = tmp_path_factory.mktemp("waterbirds")
    make_cub(parent)
    make_waterbirds(parent)
    return parent


class TestHealthy:
    def test_samples_are_what_the_table_says(self, tree: Path) -> None:
        data = Waterbirds(tree, None)
        for bird, row, sample in zip(BIRDS, waterbirds_rows(), data, strict=True):
            id, name, label, _, place, _ = row
            x, y, width, height = bird.box
            assert (sample.id, sample.label, sample.place) == (str(id), label, place)
            assert sample.group == 2 * label + place
            assert sample.path == str(tree / "waterbird_complete95_forest2water2" / name)
            assert abs(sample.image.getpixel((0, 0))[0] - (60 if place else 20)) < 8
            assert sample.boxes.tolist() == [[x, y, x + width, y + height]]
            assert_mask_on_bird(sample)

    def test_boxes_count_the_pixels_on_disk(self, tree: Path) -> None:
        """They are CUB's, and only CUB itself said so: turned pictures got them in another place."""
        for release in (read_waterbirds(tree), read_cub(tree)):
            assert release.boxes_as_stored and all(record.boxes for record in release.records)

    def test_splits(self, tree: Path) -> None:
        for code, split in enumerate(("train", "val", "test")):
            ids = [str(row[0]) for row in waterbirds_rows() if row[3] == code]
            assert [record.id for record in Waterbirds(tree, split).records] == ids

    def test_names_and_groups(self, tree: Path) -> None:
        data = Waterbirds(tree)
        assert data.classes == ("land bird", "water bird") and data.places == ("land", "water")
        assert data.group_names == ("land bird, land", "land bird, water", "water bird, land", "water bird, water")
        assert data.groups is not None and data.place_numbers is not None
        assert data.groups.tolist() == (2 * data.labels + data.place_numbers).tolist()

    def test_tie_and_version_are_found(self, tree: Path) -> None:
        data = Waterbirds(tree)
        assert data.tie == 0.75 and data.version == "original"
        assert data.release.name == "Waterbirds (75 %, original labels)"
        note = "The tie is 75 %: in training 3 of 4 land birds are on land and 15 of 20 water birds on water."
        assert note in data.release.notes

    def test_mixed_case_place_filename_is_not_opened(self, tree: Path) -> None:
        """It starts with a slash and names a file of Places that need not be there."""
        table = (tree / "waterbird_complete95_forest2water2" / "metadata.csv").read_text()
        assert ",/b/bamboo_forest/1.jpg" in table and ",/o/ocean/1.jpg" in table

    @pytest.mark.parametrize("name", ["waterbird_complete95_forest2water2", "waterbirds_v1.0", "raw"])
    def test_root_by_any_name(self, tmp_path: Path, name: str) -> None:
        home = make_waterbirds(tmp_path, name, pictures=False)
        assert read_waterbirds(home).root == read_waterbirds(tmp_path).root == home

    def test_layout_of_subpopbench(self, tmp_path: Path) -> None:
        home = make_waterbirds(tmp_path / "waterbirds", pictures=False)
        (tmp_path / "waterbirds" / "metadata_waterbirds.csv").write_text("id,filename,split,y,a\n")
        assert read_waterbirds(tmp_path).root == home

    def test_folders_of_other_sets_next_to_it(self, tmp_path: Path) -> None:
        home = make_waterbirds(tmp_path, pictures=False)
        (tmp_path / "celebA").mkdir()
        (tmp_path / "celebA" / "metadata.csv").write_text("id,filename\n")
        assert read_waterbirds(tmp_path).root == home

    def test_columns_in_another_order_and_more_of_them(self, tmp_path: Path) -> None:
        order = [4, 0, 3, 5, 2, 1]
        columns = [*(COLUMNS[position] for position in order), "extra"]
        rows = [[*(row[position] for position in order), "x"] for row in waterbirds_rows()]
        expected = read_waterbirds(make_waterbirds(tmp_path, "a", pictures=False)).records
        changed = read_waterbirds(make_waterbirds(tmp_path, "b", rows=rows, columns=columns, pictures=False)).records
        assert [r[2:5] for r in changed] == [r[2:5] for r in expected]

    def test_place_filename_is_not_needed(self, tmp_path: Path) -> None:
        rows = [row[:5] for row in waterbirds_rows()]
        make_waterbirds(tmp_path, rows=rows, columns=COLUMNS[:5], pictures=False)
        assert len(read_waterbirds(tmp_path).records) == len(rows)


class TestTies:
    def test_perfect_tie_leaves_groups_empty(self, tmp_path: Path) -> None:
        data = Waterbirds(make_waterbirds(tmp_path, "waterbird_1.0_forest2water2", tie=1.0, pictures=False))
        assert data.groups is not None and set(data.groups.tolist()) == {0, 3}
        assert data.tie == 1 and data.release.name == "Waterbirds (100 %, original labels)"
        assert len(data.group_names) == 4
        assert any(
            "no training images (1 and 2" in note and "do not take its split" in note for note in data.release.notes
        )

    def test_tie_does_not_depend_on_the_labels_version(self, tmp_path: Path) -> None:
        """The three species were pasted by their first label: corrected, they would loosen a perfect tie."""
        home = make_waterbirds(tmp_path, tie=1.0, version="corrected", pictures=False)
        records = read_waterbirds(home).records
        assert sum(r.label != r.place for r in records if r.split == "train") == 12
        assert tie_of(records) == 1

    def test_tie_of_nothing(self, tmp_path: Path) -> None:
        assert math.isnan(tie_of([]))
        rows = [row for row in waterbirds_rows() if row[3]]
        release = read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False))
        assert release.name == "Waterbirds (no training images, original labels)"

    def test_several_ties_in_one_folder_are_not_guessed(self, tmp_path: Path) -> None:
        make_waterbirds(tmp_path, pictures=False)
        make_waterbirds(tmp_path, "waterbird_1.0_forest2water2", tie=1.0, pictures=False)
        with pytest.raises(ValueError, match=r"has several: .*waterbird_1\.0.*Pass one of them"):
            read_waterbirds(tmp_path)

    @pytest.mark.parametrize(
        ("share", "text"),
        [(1, "100 %"), (0.95, "95 %"), (4555 / 4795, "95 %"), (0.9998, "99.98 %"), (0.5, "50 %"), (0, "0 %")],
    )
    def test_a_tie_that_is_nearly_perfect_is_not_called_perfect(self, share: float, text: str) -> None:
        assert percent(share) == text

    def test_official_counts_are_recognised(self) -> None:
        records = [
            Record("1", Path("a/001.Gull/b.jpg"), group // 2, split, group % 2)
            for split, counts in OFFICIAL_COUNTS.items()
            for group, number in enumerate(counts)
            for _ in range(number)
        ]
        assert len(records) == 11788 and percent(tie_of(records)) == "95 %"
        assert "The groups are as large as in the official 95 % release." in notes_on(records, "original")
        assert not any("cut off" in note for note in notes_on(records, "original"))
        fewer = notes_on(records[1:], "original")
        assert "The groups are as large as in the official 95 % release." not in fewer
        assert any("The table has 11787 images, and the official ones 11788" in note for note in fewer)


class TestVersions:
    @pytest.mark.parametrize("version", ["original", "corrected"])
    def test_recognised(self, tmp_path: Path, version: str) -> None:
        home = make_waterbirds(tmp_path, version=version, pictures=False)
        data = Waterbirds(home, version=version)
        assert data.version == version and f"{version} labels" in data.release.name
        notes = " ".join(data.release.notes)
        assert f"These are the {version} labels: Eastern Towhee, Western Meadowlark and Western Wood Pewee" in notes
        assert ("are labelled water birds, though they are land birds" in notes) == (version == "original")
        assert ("judged without the three species" in notes) == (version == "corrected")
        by_species = {record.path.parent.name: record.label for record in read_waterbirds(home).records}
        water = {*WATER, *MISLABELLED} if version == "original" else {*WATER}
        assert by_species == {species: int(species in water) for species in SPECIES}

    @pytest.mark.parametrize(("there", "asked"), [("original", "corrected"), ("corrected", "original")])
    def test_the_other_is_refused(self, tmp_path: Path, there: str, asked: str) -> None:
        home = make_waterbirds(tmp_path, version=there, pictures=False)
        with pytest.raises(ValueError, match=f"version='{asked}' was asked for, and .*has the {there} labels"):
            read_waterbirds(home, version=asked)

    def test_mixed_are_refused(self, tmp_path: Path) -> None:
        rows = waterbirds_rows()
        for row in rows:
            if row[1].startswith(MISLABELLED[1]):
                row[2] = 0
        with pytest.raises(ValueError, match="mix two versions: Eastern_Towhee has 1, Western_Meadowlark has 0, Wes"):
            read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False))

    def test_mixed_within_a_species_are_refused(self, tmp_path: Path) -> None:
        rows = waterbirds_rows()
        next(row for row in rows if row[1].startswith(MISLABELLED[0]))[2] = 0
        with pytest.raises(ValueError, match="mix two versions: Eastern_Towhee has 0 and 1"):
            read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False))

    def test_unknown_without_the_three_species(self, tmp_path: Path) -> None:
        rows = [row for row in waterbirds_rows() if not row[1].startswith(MISLABELLED)]
        home = make_waterbirds(tmp_path, rows=rows, pictures=False)
        assert Waterbirds(home).version is None and "other birds" in Waterbirds(home).release.name
        assert not any(note.startswith("These are the") for note in read_waterbirds(home).notes)
        with pytest.raises(ValueError, match="has none of the species that show it"):
            read_waterbirds(home, version="original")

    def test_no_such_version(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="version must be 'original', 'corrected' or None, got 'new'"):
            read_waterbirds(tmp_path, version="new")

    @pytest.mark.parametrize("species", ["images", "set.one", "12.", "."])
    def test_folders_that_are_no_species_may_hold_both_labels(self, tmp_path: Path, species: str) -> None:
        rows = [[number, f"{species}/{number}.png", number % 2, 0, number % 2, ""] for number in range(1, 9)]
        release = read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False))
        assert [record.label for record in release.records] == [1, 0] * 4

    def test_name_not_number_tells_a_species(self) -> None:
        assert version_of([Record("1", Path("x/7.Eastern_Towhee/a.jpg"), 1, "train", 0)]) == "original"


def swap(column: int, row: int, other: int) -> Callable[[Rows], None]:
    def breaking(rows: Rows) -> None:
        rows[row][column], rows[other][column] = rows[other][column], rows[row][column]

    return breaking


def put(column: str, value: object, row: int = 4) -> Callable[[Rows], None]:
    def breaking(rows: Rows) -> None:
        rows[row][COLUMNS.index(column)] = value

    return breaking


BROKEN_ROWS: dict[str, tuple[Callable[[Rows], object], str]] = {
    "split code": (put("split", 3), r"metadata.csv, line 6: split must be an integer from 0 to 2, got '3'"),
    "split by name": (put("split", "train"), "split must be an integer from 0 to 2, got 'train'"),
    "split as float": (put("split", "0.0"), r"split must be an integer from 0 to 2, got '0\.0'"),
    "label": (put("y", 2), "y must be an integer from 0 to 1, got '2'"),
    "negative label": (put("y", -1), "y must be an integer from 0 to 1, got '-1'"),
    "empty label": (put("y", ""), "y must be an integer from 0 to 1, got ''"),
    "place": (put("place", 5), "place must be an integer from 0 to 1, got '5'"),
    "id zero": (put("img_id", 0), "img_id must be an integer from 1"),
    "id of another script": (put("img_id", "٣"), "img_id must be an integer from 1"),
    "id with underscore": (put("img_id", "1_0"), "img_id must be an integer from 1"),
    "id twice": (put("img_id", 1), "img_id 1 or img_filename .* is there twice"),
    "name twice": (put("img_filename", BIRDS[0].name), "is there twice"),
    "label of one image": (put("y", 0), "Black_footed_Albatross has y=0 here and y=1 above"),
    "labels swapped": (swap(2, 4, -1), "Black_footed_Albatross has y=0 here and y=1 above"),
    "labels inverted": (
        lambda rows: [row.__setitem__(2, 1 - row[2]) for row in rows],
        "as land birds .* labels are inverted",
    ),
    "climbs out": (put("img_filename", "../../etc/passwd.jpg"), "must be a path below .* without '..'"),
    "climbs out in the middle": (put("img_filename", f"{SPECIES[0]}/../../x.jpg"), "must be a path below"),
    "absolute": (put("img_filename", "/etc/passwd.jpg"), "must be a path below"),
    "Windows": (put("img_filename", f"{SPECIES[0]}\\x.jpg"), "must be a path below"),
    "drive": (put("img_filename", "C:/x.jpg"), "must be a path below"),
    "network": (put("img_filename", "//server/x.jpg"), "must be a path below"),
    "NUL": (put("img_filename", "a\0.jpg"), "must be a path below|not a table of comma-separated values"),
    "empty name": (put("img_filename", ""), "must be a path below"),
    "no rows": (lambda rows: rows.clear(), "a header and no images"),
    "a value short": (lambda rows: rows[4].pop(), "line 6: a row must have 6 values"),
    "a value more": (lambda rows: rows[4].append(1), "line 6: a row must have 6 values"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_broken_rows_are_refused(tmp_path: Path, name: str) -> None:
    breaking, message = BROKEN_ROWS[name]
    rows = waterbirds_rows()
    read_waterbirds(make_waterbirds(tmp_path, "healthy", rows=rows, pictures=False))
    breaking(rows)
    with pytest.raises(ValueError, match=message):
        read_waterbirds(make_waterbirds(tmp_path, "broken", rows=rows, pictures=False))


TABLE = "metadata.csv"
BROKEN_TABLES: dict[str, tuple[Breaking, type[Exception], str]] = {
    "missing": (remove(TABLE), FileNotFoundError, "root must be the folder with Waterbirds' metadata.csv"),
    "a folder": (
        lambda home: (remove(TABLE)(home), (home / TABLE).mkdir()),
        FileNotFoundError,
        "root must be the folder with",
    ),
    "empty": (write(TABLE, ""), ValueError, "lacks img_id, .*it has none"),
    "renamed column": (
        change(TABLE, ",place,", ",a,"),
        ValueError,
        "lacks place; it has img_id, img_filename, y, split, a",
    ),
    "SubpopBench's columns": (
        change(TABLE, "img_id,img_filename", "id,filename"),
        ValueError,
        "lacks img_id, img_filename",
    ),
    "column twice": (change(TABLE, "place_filename", "y"), ValueError, "has a column twice"),
    "no header": (change(TABLE, ",".join(COLUMNS) + "\r\n", ""), ValueError, "must have the columns"),
    "bars": (
        lambda home: (home / TABLE).write_bytes((home / TABLE).read_bytes().replace(b",", b"|")),
        ValueError,
        "lacks img_id",
    ),
    "cut off": (lambda home: cut_off(home / TABLE), ValueError, "a row must have 6 values|must be"),
    "stray quote": (
        change(TABLE, "/b/bamboo", '"/b/bamboo'),
        ValueError,
        "stray quotation mark|not a table of comma",
    ),
    "quotes in two rows": (
        lambda home: (change(TABLE, ",/b/", ',"/b/')(home), change(TABLE, "1.jpg\r\n96", '1.jpg"\r\n96')(home)),
        ValueError,
        "a stray quotation mark joins",
    ),
    "Latin 1": (change(TABLE, "/b/bamboo", "/b/bambús".encode("latin-1")), ValueError, "is not UTF-8 text"),
    "UTF-16": (recode(TABLE, "utf-16"), ValueError, "metadata.csv is not UTF-8 text"),
    "zipped": (write(TABLE, b"PK\x03\x04\x14\x00\x08\xff\xfe\x00"), ValueError, "is not UTF-8 text"),
    "bytes of a disk": (write(TABLE, bytes(4096)), ValueError, "lacks img_id|not a table of comma"),
}


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_broken_tables_are_refused(tmp_path: Path, name: str) -> None:
    home = make_waterbirds(tmp_path, pictures=False)
    assert_refused(lambda: read_waterbirds(home), home, BROKEN_TABLES[name])


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With a byte order mark, and every value in quotation marks."""
    home = make_waterbirds(tmp_path, pictures=False)
    before = read_waterbirds(home)
    table = home / "metadata.csv"
    lines = table.read_text().splitlines()
    quoted = "\n".join(",".join(f'"{value}"' for value in line.split(",")) for line in lines)
    table.write_text(quoted, encoding="utf-8-sig")
    assert read_waterbirds(home) == before


class TestCUB:
    """Masks and boxes come from CUB, joined by name and by id."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return make_waterbirds(tmp_path / "waterbirds", pictures=False)

    def test_without(self, home: Path) -> None:
        release = read_waterbirds(home)
        assert all(record.boxes is None and record.mask_path is None for record in release.records)
        assert any("there are no object masks" in note for note in release.notes)

    @pytest.mark.parametrize("where", ["inside", "beside", None])
    @pytest.mark.parametrize("given", ["folder", "parent"])
    def test_given(self, home: Path, tmp_path: Path, where: str | None, given: str) -> None:
        cub = make_cub(tmp_path / "elsewhere", where, shuffle_boxes=True, pictures=False)
        records = read_waterbirds(home, cub=cub if given == "folder" else cub.parent).records
        for record, bird in zip(records, BIRDS, strict=True):
            x, y, width, height = bird.box
            assert record.boxes == ((x, y, x + width, y + height),)
            assert (record.mask_path is None) == (where is None)
            if where is not None:
                assert record.mask_path.parts[-3:] == ("segmentations", *Path(bird.name).with_suffix(".png").parts)

    @pytest.mark.parametrize("place", ["waterbirds/waterbird_complete95_forest2water2", "waterbirds", "."])
    def test_found_next_to_it(self, home: Path, tmp_path: Path, place: str) -> None:
        cub = make_cub(tmp_path / place, pictures=False)
        record = read_waterbirds(home).records[0]
        assert record.boxes is not None and record.mask_path.is_relative_to(cub)

    def test_segmentations_alone(self, home: Path, tmp_path: Path) -> None:
        """As SpuCo has them: in the folder of Waterbirds."""
        shutil.copytree(make_cub(tmp_path / "x", pictures=False) / "segmentations", home / "segmentations")
        record = read_waterbirds(home).records[0]
        assert record.boxes is None and record.mask_path.is_relative_to(home / "segmentations")

    def test_segmentations_given(self, home: Path, tmp_path: Path) -> None:
        masks = make_cub(tmp_path / "x", pictures=False) / "segmentations"
        assert read_waterbirds(home, segmentations=masks).records[0].mask_path.is_relative_to(masks)

    def test_demanded(self, home: Path) -> None:
        with pytest.raises(FileNotFoundError, match="CUB's segmentations are not in"):
            read_waterbirds(home, object_masks=True)

    def test_no_such_cub(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"cub must be a folder, and .* does not exist"):
            read_waterbirds(home, cub=tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="cub must be the folder CUB_200_2011"):
            read_waterbirds(home, cub=home)

    def test_rows_in_another_order(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, pictures=False)
        rows = waterbirds_rows()[::-1]
        records = read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False), cub=cub).records
        for record, bird in zip(records, BIRDS[::-1], strict=True):
            assert record.id == str(bird.id) and record.boxes[0][:2] == bird.box[:2]

    def test_ids_mixed_up(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, pictures=False)
        rows = waterbirds_rows()
        swap(0, 3, 4)(rows)
        message = rf"img_id {rows[3][0]} is {rows[3][1]}, and .*images.txt has {rows[4][1]} under this id"
        with pytest.raises(ValueError, match=message):
            read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False), cub=cub)

    def test_ids_that_cub_does_not_know(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, pictures=False)
        rows = waterbirds_rows()
        put("img_id", 4711)(rows)
        with pytest.raises(ValueError, match=r"images\.txt does not know this id"):
            read_waterbirds(make_waterbirds(tmp_path, rows=rows, pictures=False), cub=cub)

    def test_cub_beside_other_birds_is_let_be(self, tmp_path: Path) -> None:
        """A set that was built of other images may be next to CUB; only a given CUB must be its own."""
        cub = make_cub(tmp_path, pictures=False)
        rows = [[number, f"duck/{number}.png", 1, number % 3, 1, ""] for number in range(1, 9)]
        home = make_waterbirds(tmp_path, rows=rows, pictures=False)
        release = read_waterbirds(home)
        assert all(record.boxes is None and record.mask_path is None for record in release.records)
        assert release.name == "Waterbirds (100 %, other birds)"
        with pytest.raises(ValueError, match=r"img_id 1 is duck/1\.png, and .* has 001.Black_footed"):
            read_waterbirds(home, cub=cub)

    def test_another_division_is_noted(self, tmp_path: Path) -> None:
        make_cub(tmp_path, pictures=False)
        rows = waterbirds_rows()
        noted = [
            note
            for note in read_waterbirds(make_waterbirds(tmp_path, "a", rows=rows)).notes
            if "is another division" in note
        ]
        assert not noted
        swap(3, 0, 1)(rows)
        notes = read_waterbirds(make_waterbirds(tmp_path, "b", rows=rows, pictures=False)).notes
        assert any(note.startswith("2 images are in the test here") for note in notes)

    def test_broken_tables_of_cub(self, tmp_path: Path) -> None:
        cub = make_cub(tmp_path, pictures=False)
        write_table(cub / "bounding_boxes.txt", [(bird.id + 1, *bird.box) for bird in BIRDS])
        with pytest.raises(ValueError, match=r"bounding_boxes\.txt must have one row for each id"):
            read_waterbirds(make_waterbirds(tmp_path, pictures=False))


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    """Some copies of Waterbirds were resized; the segmentations were not."""
    make_cub(tmp_path)
    home = make_waterbirds(tmp_path)
    from PIL import Image

    path = home / BIRDS[0].name
    with Image.open(path) as picture:
        picture.resize((32, 32)).save(path)
    with pytest.raises(
        ValueError, match=r"33 x 41 pixels .* 32 x 32: they belong to different releases, or one was res"
    ):
        Waterbirds(home, None)[0]


@pytest.mark.parametrize("path", [".", "../{}", "{}/..", "{}/"])
def test_neighbours_are_found_from_any_current_folder(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cub(tmp_path, "beside")
    home = make_waterbirds(tmp_path)
    make_traveling_birds(tmp_path)
    for reader, folder in (
        (Waterbirds, home),
        (CUB200, tmp_path / "CUB_200_2011"),
        (TravelingBirds, tmp_path / "CUB_fixed"),
    ):
        child = next(child.name for child in folder.iterdir() if child.is_dir())
        monkeypatch.chdir(folder if path in (".", "{}/..") or path.startswith("..") else tmp_path)
        given = path.format(child if path == "{}/.." else folder.name)
        sample = reader(given)[0]
        assert sample.object_mask is not None and sample.boxes is not None
