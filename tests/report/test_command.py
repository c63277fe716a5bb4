"""``aimwrap report`` on saved models, and what it says when it cannot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from table_set import CLASSES, make_pictures, tiny
from typer.testing import CliRunner, Result

from aimwrap import AIM, Preprocessing, SecondLook
from aimwrap.backbones.plain import PlainClassifier, save_plain
from aimwrap.cli import app
from aimwrap.cli.report import read_split

HALF = (0.5,) * 3
PREPROCESSING = Preprocessing((64, 64), HALF, HALF, crop=1.0)
BACKBONE = ("--backbone", "table_set:tiny")
run = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a table of images, ``birds/birds.csv``, and the models ``aim`` and ``plain``."""
    folder = tmp_path_factory.mktemp("report")
    make_pictures(folder / "birds")
    torch.manual_seed(0)
    aim = AIM(tiny(), tau=0.5)
    aim.class_names = CLASSES
    aim.save_pretrained(folder / "aim", preprocessing=PREPROCESSING)
    plain = PlainClassifier(tiny(), 2)
    plain.preprocessing, plain.class_names = PREPROCESSING._replace(image_size=(96, 96)), CLASSES
    save_plain(plain, folder / "plain", "table_set:tiny")
    return folder


def report(folder: Path, *options: object, model: str = "aim", out: str = "out.html") -> Result:
    given = [folder / model, "table", folder / "birds" / "birds.csv", *BACKBONE, "--workers", 0, *options]
    return run.invoke(app, ["report", *map(str, given), "--out", str(folder / out)])


def test_a_page_and_its_numbers(folder: Path) -> None:
    found = report(folder, "--plain", folder / "plain", "--verify-images", 6, "--limit", 4, "--title", "Birds")
    assert found.exit_code == 0, found.output
    assert (
        found.stdout.startswith("birds, split test: 14 images\n")
        and "verify, on 6 images: every guarantee holds" in found.stdout
    )
    assert "Worst-group accuracy" in found.stdout and f"{folder / 'out.html'} (0." in found.stdout
    numbers = json.loads((folder / "out.json").read_text())
    assert numbers["title"] == "Birds" and numbers["data"]["shown"] == 4 and numbers["data"]["split"] == "test"
    assert numbers["data"]["root"] == str(folder / "birds" / "birds.csv")
    assert [model["name"] for model in numbers["models"]] == [str(folder / "aim"), str(folder / "plain")]
    assert numbers["command"].startswith(f"aimwrap report {folder}/aim table ")
    assert "--limit 4" in numbers["command"] and "--title Birds" in numbers["command"]
    assert "--split" not in numbers["command"]
    assert "Birds" in (folder / "out.html").read_text()
    assert "warning: For verify's control, images are prepared for AIM and then resized to what" in found.stderr


def test_a_second_look_from_its_folder_beside_its_first_one(folder: Path) -> None:
    second = SecondLook(AIM.from_pretrained(folder / "aim", backbone=tiny()))
    second.save_pretrained(folder / "two")
    options = ("--compare", folder / "aim", "--plain", folder / "plain", "--verify-images", 4)
    found = report(folder, *options, model="two", out="two.html")
    assert found.exit_code == 0, found.output
    numbers = json.loads((folder / "two.json").read_text())
    assert [model["kind"] for model in numbers["models"]] == ["second look", "aim", "plain"]
    assert numbers["images"][0]["by_model"][0]["kept"] and "Kept pixels" in found.stdout
    found = report(folder, "--plain", folder / "two", "--no-verify", "-q")
    assert found.exit_code == 1 and "got a second look; compare two models by other= (--compare)" in found.stderr


def test_numbers_alone_and_the_command_makes_them_again(folder: Path) -> None:
    found = report(folder, "--no-verify", "--json", "-q", "--compare", folder / "plain", out="json.html")
    assert found.exit_code == 0 and found.stderr == "", found.output
    scores = json.loads(found.stdout)
    assert [model["role"] for model in scores["models"]] == ["model", "other"]
    assert scores["differences"][0]["key"] == "average" and scores["path"] == str(folder / "json.html")
    numbers = json.loads((folder / "json.json").read_text())
    words = numbers["command"].split()
    again = run.invoke(app, words[1:])
    assert again.exit_code == 0 and json.loads(again.stdout) == scores
    assert json.loads((folder / "json.json").read_text()) == numbers


def test_plain_models_alone(folder: Path) -> None:
    found = report(folder, "--json", model="plain", out="plain.html")
    assert found.exit_code == 0, found.output
    (model,) = json.loads((folder / "plain.json").read_text())["models"]
    assert model["kind"] == "plain" and model["verification"] is None and model["health"] is None


@pytest.mark.parametrize(
    ("counts", "split", "used", "note"),
    [
        ({"train": 4, "val": 3, "test": 5}, None, 5, None),
        ({"train": 4, "val": 3, "test": 5}, "val", 3, None),
        ({"train": 4, "val": 3, "test": 5}, "all", 12, None),
        ({"train": 4, "val": 3}, None, 3, "There is no test split"),
        ({"train": 4}, None, 4, "There is neither a test nor a validation split"),
    ],
)
def test_splits(tmp_path: Path, counts: dict[str, int], split: str | None, used: int, note: str | None) -> None:
    images, notes = read_split("table", str(make_pictures(tmp_path, counts)), [], split)
    assert len(images) == used
    assert notes == [] if note is None else notes[0].startswith(note)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "tset"), "--split must be among 'train', 'test' for birds, got 'tset'"),
        (("--out", "page.pdf"), "--out must end in .html, got 'page.pdf'"),
        (("--compare", "nowhere"), "nowhere"),
        (
            ("--plain", "{folder}/aim"),
            "--plain must be a classifier without AIM, got an AIM; compare two",
        ),
        (("--device", "tpu9"), "tpu9"),
        (("shape=round",), "the data set table takes no argument 'shape'; it takes root, image, label"),
        (("round",), "an argument of the reader must be NAME=VALUE"),
        (('classes=["water bird","land bird"]',), "calls class 0 'land bird', which is class 1 of the data set"),
        (('classes=["water bird","land bird","duck"]',), "model has 2 classes, and birds 3: water bird"),
    ],
)
def test_wrong_options_are_named(folder: Path, options: tuple[str, ...], message: str) -> None:
    given = [option.format(folder=folder) if "{folder}" in option else option for option in options]
    words = ["report", folder / "aim", "table", folder / "birds" / "birds.csv", *given, *BACKBONE, "--no-verify"]
    if "--out" not in given:
        words += ["--out", folder / "never.html"]
    found = run.invoke(app, list(map(str, words)))
    assert found.exit_code == 1 and message in found.stderr, found.output
    assert found.stdout == "" and not (folder / "never.html").exists()


def test_errors_are_json_where_numbers_would_be(folder: Path) -> None:
    found = report(folder, "--split", "tset", "--json")
    assert found.exit_code == 1 and "split must be among" in json.loads(found.stdout)["error"]


def test_folders_that_are_no_models(folder: Path, tmp_path: Path) -> None:
    words = ["report", tmp_path, "table", folder / "birds" / "birds.csv", "--out", tmp_path / "a.html"]
    found = run.invoke(app, list(map(str, words)))
    assert found.exit_code == 1 and str(tmp_path) in found.stderr and "Traceback" not in found.output
    (tmp_path / "plain.json").write_text('{"backbone": "resnet18"}')
    found = run.invoke(app, list(map(str, words)))
    assert found.exit_code == 1 and "plain.json: 'num_classes' is missing" in found.stderr
    (tmp_path / "plain.json").write_text("{")
    assert "it is damaged" in run.invoke(app, list(map(str, words))).stderr


def test_wrong_use_is_exit_code_2(folder: Path) -> None:
    assert report(folder, "--limit", 0).exit_code == 2
    assert run.invoke(app, ["report"]).exit_code == 2


@pytest.mark.slow
def test_needs_no_lightning_and_no_torchmetrics() -> None:
    code = (
        "import sys; sys.modules.update({'lightning': None, 'torchmetrics': None, 'matplotlib': None});"
        "import aimwrap.cli.report, aimwrap.report, aimwrap.report.html, aimwrap.backbones.plain, aimwrap.data.registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
