"""The command line, with the training replaced by prepared scores."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("typer")
from torch import nn
from typer.testing import CliRunner
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, cli, demo
from aimwrap.cli import app, main
from aimwrap.demo import Run, Scores, Settings
from aimwrap.export import Exported, Parity, ParityError

runner = CliRunner()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace the training; gives what it was called with."""
    seen: dict[str, object] = {}

    def run(
        ties: Sequence[float], seeds: Sequence[int], settings: Settings, output: Path, heads: Sequence[str]
    ) -> list[Run]:
        seen.update(ties=ties, seeds=seeds, settings=settings, output=output, heads=heads)
        return [Run(tie, seed, "AIM", Scores(0.9, 0.8, 0.7, 0.6, 0.25, 1.0), 0.1) for tie in ties for seed in seeds]

    monkeypatch.setattr(demo, "run_demo", run)
    return seen


def test_defaults(asked: dict[str, object]) -> None:
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert asked["ties"] == [0.95, 1.0] and asked["seeds"] == [0] and asked["output"] == Path("demo.png")
    assert asked["heads"] == ["feature-preserving"]
    assert asked["settings"] == Settings()
    assert "0.900" in result.output and "demo.png" in result.output


def test_options(asked: dict[str, object]) -> None:
    arguments = [
        "demo",
        "--seeds",
        "3",
        "--ties",
        "1",
        "--epochs",
        "2",
        "--tau",
        "0.1",
        "--output",
        "out.png",
        "--json",
    ]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked["seeds"] == [0, 1, 2] and asked["ties"] == [1.0] and asked["output"] == Path("out.png")
    assert asked["settings"] == Settings(epochs=2, tau=0.1, quiet=True)
    scores = json.loads(result.output)
    assert [run["seed"] for run in scores] == [0, 1, 2] and scores[0]["scores"]["accuracy"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds none", "--seeds must be a count"),
        ("--seeds 0", "--seeds must be a count"),
        ("--ties 95", "--ties must be shares"),
        ("--epochs 0", "epochs"),
        ("--heads feature", "--heads must be among paper, feature-preserving"),
    ],
)
def test_errors(asked: dict[str, object], arguments: str, message: str) -> None:
    result = runner.invoke(app, ["demo", *arguments.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not asked


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
        monkeypatch.setattr(cli, name, writer(name))
    return seen


@pytest.mark.parametrize(
    ("arguments", "function", "path"),
    [
        ("", "export_onnx", "saved/model.onnx"),
        ("--format pt2", "export_program", "saved/model.pt2"),
        ("--format aotinductor", "export_aotinductor", "saved/model.aotinductor.pt2"),
        ("--output here.onnx", "export_onnx", "here.onnx"),
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
    result = runner.invoke(app, ["export", "saved", "--output", "wrong.onnx"])
    assert result.exit_code == 1 and "it computes something else" in result.output
    result = runner.invoke(app, ["export", "saved", "--output", "wrong.onnx", "--json"])
    assert result.exit_code == 1 and json.loads(result.output)["parity"][0]["difference"] == 2e-7
    result = runner.invoke(app, ["export", "saved", "--backbone", "zoo:Missing"])
    assert result.exit_code == 1 and "cannot be imported" in result.output
    result = runner.invoke(app, ["export", "saved", "--format", "tflite"])
    assert result.exit_code == 2
    assert "--format must be one of onnx, pt2, aotinductor" in " ".join(result.output.split())


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
        ("named --output model.pt", r"--output must end in \.pt2 for pt2, got"),
        ("module", r"was zoo\.TinyNet, .*will be overwritten: --backbone package\.module:name$"),
        ("module --backbone zoo:HeadConvNet", r"backbone yourself and pass it: --backbone package\.module:name$"),
        ("module --backbone test_cli:WithBias", r"and name it by --backbone package\.module:name$"),
        (
            "unprepared --backbone zoo:TinyNet",
            r"prepared .*model\.save_pretrained\(folder, preprocessing=aimwrap\.Prepr",
        ),
        ("nothing", r"nothing is no folder"),
    ],
)
def test_errors_of_export_speak_of_options(folders: Path, arguments: str, message: str) -> None:
    folder, *options = arguments.split()
    result = runner.invoke(app, ["export", str(folders / folder), "--format", "pt2", *options])
    assert result.exit_code == 1
    assert re.search(message, result.output.strip()), result.output
    assert not re.search(r"image_size(?!=\(224)|backbone=|dynamic_size|^path", result.output)


def test_errors_of_inspect_speak_of_options() -> None:
    result = runner.invoke(app, ["inspect", "resnet10t", "--channels", "4", "--image-size", "64"])
    assert result.exit_code == 1
    assert result.output.strip().endswith("\nPass --image-size, and --channels if they are not 3.")


def test_warnings_of_export_speak_of_options(exporting: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    written = cli.export_onnx

    def write(*arguments: object, **options: object) -> Exported:
        warnings.warn("model.onnx takes images of 64 x 64 only; dynamic_size=False is silent", stacklevel=3)
        return written(*arguments, **options)

    monkeypatch.setattr(cli, "export_onnx", write)
    result = runner.invoke(app, ["export", "saved", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["image_size"] == [64, 64]
    assert result.stderr == "warning: model.onnx takes images of 64 x 64 only; --fixed-size is silent\n"


@pytest.mark.parametrize(
    ("message", "spoken"),
    [
        ("another runtime may do better; tolerance= allows more", "do better; in Python, tolerance= allows"),
        ("write a torch.export program instead (export_program; --format pt2)", "program instead (--format pt2)"),
        ("normalise and resize them, or pass image_size=", "normalise and resize them, or pass --image-size"),
    ],
)
def test_messages_as_options(message: str, spoken: str) -> None:
    assert spoken in cli.as_options(message)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ImportError('the demo needs something: pip install "aimwrap[demo]"')

    monkeypatch.setattr(demo, "run_demo", fail)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code != 0 and "aimwrap[demo]" in " ".join(result.output.split())


def test_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["aimwrap", "--help"])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 0 and "demo" in capsys.readouterr().out
