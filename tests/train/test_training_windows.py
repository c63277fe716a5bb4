"""Images of 16 bits and one channel, or of five: trained from the command line, reported on, exported, continued."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_nets
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from aimwrap import AIM, Preprocessing
from aimwrap.cli import app
from aimwrap.export.serving import ServingModel
from aimwrap.train import Settings, load_plain
from aimwrap.train.data import check_files, read_splits

USUAL = ("--no-pretrained", "--image-size", 32, "--batch-size", 4, "--workers", 0, "--accelerator", "cpu", "--lr", 1e-3)


def cli(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def train(root: Path, out: Path, *options: object) -> Result:
    return cli("train", "folder", root, "--out", out, "--backbone", "test_resnet", *USUAL, *options)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A brighter square in the second class; PNG and TIFF of 12 bits."""
    root, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("clear", "dense")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                values = rng.integers(300, 700, (40, 44)).astype(np.uint16)
                values[8:24, 8:24] += 1000 + 2000 * label
                path = root / split / name / f"{number}.png"
                if number % 2:
                    Image.fromarray(values).save(path)
                else:
                    tifffile.imwrite(path.with_suffix(".tif"), values)
    return root


@pytest.mark.slow
def test_from_scans_to_a_report(scans: Path, tmp_path: Path) -> None:
    refused = train(scans, tmp_path / "refused", "--epochs", 1)
    assert refused.exit_code == 1 and "say which values are black and white: --window LOW,HIGH" in refused.output

    options = ("--window", "300,4095", "--channels", 1, "--second-look", "--second-epochs", 1, "--epochs", 1)
    found = train(scans, tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    assert (
        "window 300 to 4095: 0." in found.output
        and "% of the values are 300 or less, 0.0% 4095 or more" in found.output
    )
    folder = tmp_path / "out" / "seed-0"
    written = json.loads((folder / "settings.json").read_text())["settings"]
    assert (written["window"], written["channels"]) == ([300.0, 4095.0], 1)
    model = AIM.from_pretrained(folder / "model")
    assert model.preprocessing is not None and model.preprocessing.window == (300, 4095)
    assert model.in_channels == len(model.preprocessing.mean) == 1
    assert json.loads((folder / "model" / "config.json").read_text())["format_version"] == 4
    assert "window 300 to 4095, 32 x 32" in (folder / "model" / "README.md").read_text()
    metadata = ServingModel(model).metadata(None, None)
    assert json.loads(metadata["preprocessing"])["window"] == [300, 4095]

    page = cli("report", folder / "second-look", "folder", scans, "--out", tmp_path / "r.html", "--workers", 0, "-q")
    assert page.exit_code == 0, page.output
    result = json.loads((folder / "result.json").read_text())["second_look"]["scores"]["average"]
    assert json.loads((tmp_path / "r.json").read_text())["models"][0]["scores"][0]["value"] == pytest.approx(result)

    images = tmp_path / "masks"
    more = ("--out", images, "--what", "kept,overlay", "--as-stored", "--workers", 0, "-q")
    exported = cli("masks", folder / "second-look", scans / "test", *more)
    assert exported.exit_code == 0, exported.output
    assert {np.asarray(Image.open(path)).shape for path in (images / "kept").rglob("*.png")} == {(40, 44)}
    shown = np.asarray(Image.open(images / "overlay" / "dense" / "1.jpg"))
    assert shown.shape == (40, 44, 3) and np.ptp(shown.astype(int), axis=2).max() <= 4, "grey"


@pytest.mark.slow
def test_a_run_is_continued_with_its_window_only(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--window", "300,4095", "--epochs", 2, "-q")
    whole = train(scans, tmp_path / "whole", *options)
    assert whole.exit_code == 0, whole.output
    with monkeypatch.context() as patch:
        patch.setattr("aimwrap.train.loop._finish", lambda run: (_ for _ in ()).throw(OSError("the power failed")))
        assert train(scans, tmp_path / "cut", *options).exit_code == 1
    other = train(scans, tmp_path / "cut", "--window", "0,4095", *options[2:])
    assert other.exit_code == 1 and "a run with other settings: window was" in " ".join(other.output.split())
    assert train(scans, tmp_path / "cut", *options).exit_code == 0
    weights = [AIM.from_pretrained(tmp_path / name / "seed-0" / "model").state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True))


@pytest.mark.slow
def test_five_channels_plain_and_with_masks(tmp_path: Path) -> None:
    """The page says of images of five channels what it says of others, and shows their mean."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("a", "b")):
            (tmp_path / "cells" / split / name).mkdir(parents=True)
            for number in range(count):
                values = rng.integers(0, 500, (5, 40, 44)).astype(np.uint16)
                values[label] += 2000
                path = tmp_path / "cells" / split / name / f"{number}.tif"
                tifffile.imwrite(path, values, imagej=True, metadata={"axes": "CYX"})
    usual = ("--window", "0,4095", "--channels", 5, "--epochs", 1, "-q", "--logger", "csv")
    for out, more, name in (("aim", (), "masks"), ("plain", ("--plain",), "activation maps")):
        found = train(tmp_path / "cells", tmp_path / out, *usual, *more)
        assert found.exit_code == 0, found.output
        (path,) = (tmp_path / out / "seed-0" / "csv" / name).iterdir()
        with Image.open(path) as picture:
            assert 30 < np.asarray(picture).max() < 100, "the mean of the channels"
            assert np.ptp(np.asarray(picture).astype(int), axis=2).max() == 0, "grey"
    model, plain = (tmp_path / out / "seed-0" / "model" for out in ("aim", "plain"))
    prepared = AIM.from_pretrained(model).preprocessing
    assert prepared == load_plain(plain, backbone=None).preprocessing and prepared.window == (0, 4095)
    page = (
        "report",
        model,
        "folder",
        tmp_path / "cells",
        "--plain",
        plain,
        "--out",
        tmp_path / "r.html",
        "--workers",
        0,
    )
    assert (found := cli(*page)).exit_code == 0, found.output
    model = AIM.from_pretrained(model)
    image = tifffile.imread(tmp_path / "cells" / "test" / "a" / "0.tif")
    assert model(prepared.transform()(torch.from_numpy(image))[None]).logits.shape == (1, 2)


def test_settings_that_do_not_fit_are_refused() -> None:
    for window in ((4095.0, 0.0), (0.0, float("inf")), (0.0,), (0.0, 1.0, 2.0)):
        with pytest.raises(ValueError, match="window must be two numbers, LOW,HIGH, the first smaller"):
            Settings(data="folder", root="x", window=window)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="augmentation='trivial-augment' is for 8 bits without"):
        Settings(data="folder", root="x", window=(0.0, 4095.0), augmentation="trivial-augment")
    settings = Settings(data="folder", root="x", window=(-1000.0, 400.0), channels=1)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_other_backbones_say_what_they_take(scans: Path, tmp_path: Path) -> None:
    usual = ("--window", "0,4095", "--channels", 1, "--epochs", 1)
    found = train(scans, tmp_path / "a", *usual, "--backbone", "torchvision/resnet18")
    assert found.exit_code == 1 and "channels=1 is for backbones of timm or your own" in found.output
    assert tiny_nets.tiny().stages[0][0].in_channels == 3
    for window in ("a,b", "5", "9,1"):
        found = train(scans, tmp_path / "c", "--window", window)
        assert found.exit_code == 2 and "window must be two numbers" in found.output


def test_a_window_survives_json(tmp_path: Path) -> None:
    """And models without one load as before."""
    model = AIM("test_resnet", backbone_kwargs={"num_classes": 2, "in_chans": 1})
    for window, version in ((None, 1), ((-1000, 400), 4)):
        model.preprocessing = Preprocessing((32, 32), (0.5,), (0.25,), window=window)
        model.save_pretrained(tmp_path / f"{version}")
        config = json.loads((tmp_path / f"{version}" / "config.json").read_text())
        assert config["format_version"] == version
        opened = 'Image.open("image.png")' if window else 'Image.open("image.jpg")'  # of 8 bits, so not for a window
        assert opened in (tmp_path / f"{version}" / "README.md").read_text()
        if window is None:
            del config["preprocessing"]["window"]
            (tmp_path / "1" / "config.json").write_text(json.dumps(config))
        assert AIM.from_pretrained(tmp_path / f"{version}").preprocessing == model.preprocessing
    model.preprocessing = model.preprocessing._replace(window=(400, -1000))
    with pytest.raises(ValueError, match="a window of two numbers, the first smaller"):
        model.save_pretrained(tmp_path / "wrong")


@pytest.mark.parametrize(
    ("most", "says"), [(12, "warning: no pixel is brighter than 12, and white is 255; or say"), (200, "")]
)
def test_nearly_black_images_are_warned_of(tmp_path: Path, most: int, says: str) -> None:
    """12 bits that a program saved as 8."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.linspace(0, most, 64).astype(np.uint8).reshape(8, 8)).save(
                tmp_path / split / name / "x.png"
            )
    splits = read_splits(Settings(data="folder", root=str(tmp_path)))
    found = check_files(splits, Preprocessing((8, 8), (0.5,), (0.5,)), 0, 1, progress=False)
    assert found.startswith(says) and bool(found) == bool(says)
    through = Preprocessing((8, 8), (0.5,), (0.5,), window=(0, most / 2))
    found = check_files(splits, through, 0, 1, progress=False)
    assert found.startswith(f"window 0 to {most // 2}: ") and found.endswith(f", 50.0% {most // 2} or more")
