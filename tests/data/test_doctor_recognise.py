"""How a folder is recognised, and the messages where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagenet_releases import class_folders, hard_imagenet, imagenet100, imagewoof, picture, table
from releases import SPECIES, make_cub, make_traveling_birds, make_waterbirds

from aimwrap.data import READERS, NotRecognisedError, examine
from aimwrap.data.doctor.examination import recognise
from aimwrap.data.sets import Sources

NOTHING = Sources()


def test_every_set_has_its_own_class_and_title() -> None:
    assert len({kind.title for kind in READERS.values()}) == len(set(READERS.values())) == len(READERS) == 9


def test_birds_are_recognised_from_the_folder_the_one_above_and_one_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    cub = make_cub(tmp_path / "a", pictures=False)
    for path in (cub, cub.parent, cub / "images"):
        name, root, reason = recognise(path, NOTHING)
        assert (name, root) == ("cub", cub)
        assert "images.txt" in reason
    home = make_waterbirds(tmp_path / "b", name="w", pictures=False)
    assert recognise(home, NOTHING)[:2] == recognise(home.parent, NOTHING)[:2]
    assert recognise(home, NOTHING).name == "waterbirds"


@pytest.mark.parametrize("lost", ["images.txt", "train_test_split.txt"])
def test_a_release_is_recognised_without_one_of_its_tables(tmp_path: Path, lost: str) -> None:
    cub = make_cub(tmp_path, pictures=False)
    (cub / lost).unlink()
    assert recognise(cub.rename(tmp_path / "renamed"), NOTHING).name == "cub"


def test_a_release_with_a_damaged_table_is_recognised_by_its_name(tmp_path: Path) -> None:
    home = make_waterbirds(tmp_path, pictures=False)
    (home / "metadata.csv").write_bytes(b"\x00\xff")
    assert recognise(home, NOTHING).reason == "it is called waterbird_complete95_forest2water2"


def test_traveling_birds_need_cubs_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    root = make_traveling_birds(tmp_path / "data", pictures=False)
    with pytest.raises(
        NotRecognisedError, match=r"recognised as TravelingBirds, because it has CUB_fixed.*pass --cub FOLDER"
    ):
        recognise(root, NOTHING)
    cub = make_cub(tmp_path, pictures=False)
    found = recognise(root, NOTHING._replace(cub=cub))
    assert found.name == "traveling-birds"
    assert recognise(root / "CUB_fixed", NOTHING._replace(cub=cub)).root == root / "CUB_fixed"


def test_sets_of_imagenet(tmp_path: Path) -> None:
    hard, imagenet = hard_imagenet(tmp_path / "hard")
    with pytest.raises(NotRecognisedError, match="pass --imagenet FOLDER"):
        recognise(hard, NOTHING)
    sources = NOTHING._replace(imagenet=imagenet)
    assert recognise(hard, sources).name == "hard-imagenet"
    assert recognise(hard / "train", sources).root == hard.resolve()
    root, class_list, _ = imagenet100(tmp_path / "hundred")
    assert recognise(root, NOTHING._replace(class_list=class_list)).name == "imagenet-100"
    for name in ("imagewoof2-160", "imagewoof2", "dogs"):
        (tmp_path / f"of {name}").mkdir()
        assert recognise(imagewoof(tmp_path / f"of {name}", name), NOTHING).name == "imagewoof"


def test_a_hundred_classes_need_their_list(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / "train" / f"n{number:08d}").mkdir(parents=True)
    with pytest.raises(NotRecognisedError, match="pass --class-list FILE"):
        recognise(tmp_path, NOTHING)
    (tmp_path / "imagenet100.txt").write_text("n00000000\n")
    assert recognise(tmp_path, NOTHING).name == "imagenet-100"


def test_sets_of_ones_own(tmp_path: Path) -> None:
    assert recognise(class_folders(tmp_path / "a"), NOTHING).name == "folder"
    assert recognise(class_folders(tmp_path / "b", splits=()), NOTHING).name == "folder"
    (tmp_path / "c").mkdir()
    table(tmp_path / "c", "image,label\n001.A/one.jpg,0\n", "list.csv")
    assert recognise(tmp_path / "c", NOTHING).name == "table"


def test_several_sets_are_named_to_choose_from(tmp_path: Path) -> None:
    make_cub(tmp_path, pictures=False)
    make_waterbirds(tmp_path, pictures=False)
    with pytest.raises(NotRecognisedError, match="holds 2 data sets; pass one of them") as caught:
        recognise(tmp_path, NOTHING)
    assert f"aimwrap data doctor {tmp_path / 'CUB_200_2011'}" in str(caught.value)
    assert recognise(tmp_path, NOTHING, "cub").root == tmp_path / "CUB_200_2011"
    assert recognise(tmp_path, NOTHING, "waterbirds").reason.startswith("metadata.csv has the columns")


def test_what_is_no_set_is_not_recognised(tmp_path: Path) -> None:
    archive = tmp_path / "release.zip"
    archive.write_bytes(b"PK")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for path, message in (
        (tmp_path / "nothing", "does not exist"),
        (archive, "is a file; unpack it"),
        (tmp_path / "empty", r"is not recognised as a data set.*its folders are: inner.*--as.*waterbirds"),
    ):
        with pytest.raises(NotRecognisedError, match=message):
            recognise(path, NOTHING)
    with pytest.raises(NotRecognisedError, match="--as must be one of built, cub, waterbirds"):
        recognise(tmp_path, NOTHING, "birds")


def test_said_to_be(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "one.jpg")
    found = recognise(tmp_path, NOTHING, "imagewoof")
    assert (found.name, found.root, found.reason) == ("imagewoof", tmp_path, "--as imagewoof was given")


def test_a_set_next_to_traveling_birds_is_not_taken_for_them(tmp_path: Path) -> None:
    """The folder above has CUB_fixed, and it is not what was asked about."""
    make_cub(tmp_path)
    make_traveling_birds(tmp_path)
    class_folders(tmp_path)
    assert recognise(tmp_path / "pets", Sources()).name == "folder"
    assert recognise(tmp_path / "CUB_fixed" / "train", Sources()).name == "traveling-birds"


def test_dots_name_the_folder_that_they_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cub(tmp_path)
    make_traveling_birds(tmp_path)
    monkeypatch.chdir(tmp_path / "CUB_black" / SPECIES[0])
    assert examine("..", official=False).release == "TravelingBirds (CUB_black)"
