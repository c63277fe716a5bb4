"""``aimwrap export`` on the command line, with loading and exporting replaced."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("typer")
from torch import nn
from typer.testing import CliRunner, Result
from zoo import TinyNet

from aimwrap import AIM, Preprocessing
from aimwrap import export as exports
from aimwrap.cli import app
from aimwrap.export import Exported, Parity, ParityError

runner = CliRunner()


def said(result: Result) -> str:
    """What is in the box of a message, whose lines rich has wrapped."""
    return " ".join(result.output.replace("│", " ").split())


PARITY = (Parity("logits", 2e-7, None), Parity("mask_3", None, 1.0))


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace loading and exporting; gives what they were called with."""
    seen: dict[str, object] = {}

    model = SimpleNamespace(preprocessing="known")

    def load(folder: Path, backbone: object = None) -> object:
        seen.update(folder=folder, backbone=backbone, loaded=model)
        return model

    def writer(name: str) -> object:
        def write(model: object, path: Path, **options: object) -> Exported:
            seen.update(format=name, model=model, path=path, options=options)
            if path.name.startswith("wrong"):
                raise ParityError("it computes something else", PARITY)
            return Exported(path, "onnx", (64, 64), ("batch",), PARITY, ((1, 3, 64, 64),))

        return write

    monkeypatch.setattr(AIM, "from_pretrained", load, raising=False)
    for name in ("export_onnx", "export_program", "export_aotinductor"):
        monkeypatch.setattr(exports, name, writer(name))
    return seen


@pytest.mark.parametrize(
    ("arguments", "function", "path"),
    [
        ("", "export_onnx", "saved/model.onnx"),
        ("--format pt2", "export_program", "saved/model.pt2"),
        ("--format aotinductor", "export_aotinductor", "saved/model.aotinductor.pt2"),
        ("--out here.onnx", "export_onnx", "here.onnx"),
    ],
)
def test_export(exporting: dict[str, object], arguments: str, function: str, path: str) -> None:
    result = runner.invoke(app, ["export", "saved", *arguments.split()])
    assert result.exit_code == 0, result.output
    assert exporting["folder"] == Path("saved") and exporting["backbone"] is None
    assert (
        exporting["model"] is exporting["loaded"]
        and exporting["format"] == function
        and exporting["path"] == Path(path)
    )
    assert exporting["options"] == {"image_size": None, "dynamic_size": True}
    assert "any batch size, images of 64 x 64" in result.output and "2.0e-07" in result.output


def test_export_options(exporting: dict[str, object]) -> None:
    arguments = "export saved --image-size 96 --fixed-size --backbone zoo:TinyNet --json"
    result = runner.invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert exporting["options"] == {"image_size": 96, "dynamic_size": False}
    assert type(exporting["backbone"]).__name__ == "TinyNet"
    assert json.loads(result.output)["parity"][1] == {"output": "mask_3", "difference": None, "agreement": 1.0}


def test_export_fails_with_exit_code_1(exporting: dict[str, object]) -> None:
    result = runner.invoke(app, ["export", "saved", "--out", "wrong.onnx"])
    assert result.exit_code == 1 and "it computes something else" in result.output
    result = runner.invoke(app, ["export", "saved", "--out", "wrong.onnx", "--json"])
    assert result.exit_code == 1 and json.loads(result.output)["parity"][0]["difference"] == 2e-7
    result = runner.invoke(app, ["export", "saved", "--backbone", "zoo:Missing"])
    assert result.exit_code == 1 and "cannot be imported" in result.output
    result = runner.invoke(app, ["export", "saved", "--format", "tflite"])
    assert result.exit_code == 2
    assert "'tflite' is not one of 'onnx', 'pt2', 'aotinductor'" in said(result)


GOOD = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
TINY = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 7}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved models: one built by name, one whose backbone was a module, and one without preprocessing."""
    folder = tmp_path_factory.mktemp("saved")
    AIM("timm/convnext_atto", mask_width=4, backbone_kwargs=TINY).save_pretrained(folder / "named", preprocessing=GOOD)
    AIM(TinyNet(), mask_width=4).save_pretrained(folder / "module", preprocessing=GOOD)
    AIM(TinyNet(), mask_width=4).save_pretrained(folder / "unprepared")
    return folder


class WithBias(TinyNet):
    """Has a parameter more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[0] = nn.Conv2d(3, 6, 3, stride=2, padding=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "named --image-size 10",
            r"--image-size must be at least 32 x 32, .*'s deepest map, got 10 x 10; \S+ x \S+ works",
        ),
        ("named --out model.pt", r"path must end in \.pt2 for the format pt2, got"),
        ("module", r"was zoo\.TinyNet\. .*are replaced: .*on the command line, --backbone package\.module:name$"),
        (
            "module --backbone zoo:HeadConvNet",
            r"backbone yourself and pass it: .*, --backbone package\.module:name$",
        ),
        (
            "module --backbone test_export_cli:WithBias",
            r"it was TinyNet, and is WithBias; .*and pass it: .*, --backbone package\.module:name$",
        ),
        (
            "unprepared --backbone zoo:TinyNet",
            r"does not know how its images are prepared.*model\.save_pretrained\(folder, preprocessing=aimwrap\.Prepr",
        ),
        ("nothing", r"nothing is not a folder"),
    ],
)
def test_errors_of_export_name_the_way_out(folders: Path, arguments: str, message: str) -> None:
    folder, *options = arguments.split()
    result = runner.invoke(app, ["export", str(folders / folder), "--format", "pt2", *options])
    assert result.exit_code == 1
    assert re.search(message, result.output.strip()), result.output


def test_warnings_of_export_are_one_line(exporting: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    written = exports.export_onnx

    def write(*arguments: object, **options: object) -> Exported:
        warnings.warn("model.onnx takes images of 64 x 64 only; dynamic_size=False is silent", stacklevel=3)
        return written(*arguments, **options)

    monkeypatch.setattr(exports, "export_onnx", write)
    result = runner.invoke(app, ["export", "saved", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["image_size"] == [64, 64]
    assert result.stderr == "warning: model.onnx takes images of 64 x 64 only; dynamic_size=False is silent\n"
    assert runner.invoke(app, ["export", "saved", "--quiet"]).stderr == ""
