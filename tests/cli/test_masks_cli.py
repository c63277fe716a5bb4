"""``aimwrap masks`` on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result
from zoo import TinyNet, lively

from aimwrap import AIM, Preprocessing, SecondLook
from aimwrap.cli import app

BACKBONE = ("--backbone", "test_masks_cli:tiny", "--workers", "0")
run = CliRunner()


def tiny() -> TinyNet:
    """For two classes."""
    return TinyNet(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``photos``, of two folders that are classes, and the models ``aim`` and ``second``."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    for number in range(4):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    torch.manual_seed(0)
    aim = lively(AIM(tiny(), [2, 3], mask_width=8))
    aim.class_names, aim.preprocessing = ("cat", "dog"), Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
    aim.save_pretrained(folder / "aim")
    SecondLook(aim).save_pretrained(folder / "second")
    return folder


def masks(folder: Path, model: str, *options: object) -> Result:
    return run.invoke(app, ["masks", str(folder / model), str(folder / "photos"), *BACKBONE, *map(str, options)])


def test_a_folder_and_the_same_command_again(folder: Path, tmp_path: Path) -> None:
    found = masks(folder, "second", "--out", tmp_path / "out", "--what", "kept,overlay", "--format", "png, yolo")
    assert found.exit_code == 0, found.output
    assert f"{tmp_path / 'out'}: kept, overlay of 4 images" in found.stdout
    with Image.open(tmp_path / "out" / "kept" / "cat" / "0.png") as picture:
        assert picture.size == (70, 50)
    assert (tmp_path / "out" / "overlay" / "dog" / "3.jpg").is_file()
    assert (tmp_path / "out" / "kept" / "dog" / "3.txt").is_file()
    again = masks(
        folder, "second", "--out", tmp_path / "out", "--what", "overlay,kept", "--format", "yolo,png", "--json"
    )
    values = json.loads(again.stdout)
    assert values == {"folder": str(tmp_path / "out"), "images": 4, "written": 0, "kinds": ["kept", "overlay"]}


def test_a_data_set_gives_the_labels(folder: Path, tmp_path: Path) -> None:
    options = ("--data", "folder", "--what", "contributions", "--threshold", 0.2, "--format", "yolo")
    found = masks(folder, "aim", "--out", tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()]
    assert {line["image"]: line["class"] for line in lines} == {
        f"{['cat', 'dog'][n % 2]}/{n}.png": n % 2 for n in range(4)
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "train"), "--split and NAME=VALUE are for data sets: name their kind with --data"),
        (("--what", "holes"), "--what must be a list of some of merged, stages, kept, contributions, overlay"),
        (("--what", "contributions", "--threshold", "much"), "--threshold must be a share of the largest contribution"),
        (("--data", "cub"), "images.txt"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    found = masks(folder, "aim", "--out", tmp_path / "out", *options)
    assert found.exit_code == 1 and said in found.stderr and "Traceback" not in found.output
    assert len(found.stderr.strip().splitlines()) == 1
