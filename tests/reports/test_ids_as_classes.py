"""Reports of runs that were trained to tell patients or files apart: the column or folders of ids were the classes."""

from pathlib import Path

import pytest
from PIL import Image
from small_run import train

from aimwrap.data import examine


def patients(root: Path, number: int, images: int) -> Path:
    """A folder for each, in two splits, and a table of them."""
    rows = ["image,label,split"]
    for split in ("train", "test"):
        for patient in range(number):
            folder = root / split / f"P{patient:03}"
            folder.mkdir(parents=True)
            for image in range(images):
                Image.new("RGB", (32, 32), (patient, image, len(split))).save(folder / f"{image}.bmp")
                rows.append(f"{split}/P{patient:03}/{image}.bmp,P{patient:03},{split}")
    (root / "t.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("name", ["", "t.csv"])
def test_the_doctor_names_ids(tmp_path: Path, name: str) -> None:
    """It was healthy."""
    found = examine(patients(tmp_path, 12, 1) / name, None if name else "folder")
    (labels,) = (check for check in found.checks if check.name == "labels")
    assert labels.mark == "warning" and found.healthy
    assert labels.summary.startswith("most of the 12 classes have one or two images (24 in all). If they are ids")


@pytest.mark.parametrize(("number", "images"), [(9, 1), (12, 2)])
def test_small_sets_are_not_taken_for_ids(tmp_path: Path, number: int, images: int) -> None:
    found = examine(patients(tmp_path, number, images), "folder")
    assert not found.warnings and found.healthy


def test_training_names_ids(tmp_path: Path) -> None:
    """It printed their number alone, and tested on as many classes as images."""
    said: list[str] = []
    train(patients(tmp_path / "data", 12, 1), tmp_path / "run", say=said.append, quiet=False)
    assert any("most of the 12 classes have one or two images" in line for line in said)
