"""Reports 14, 23, 26, 29 and 38: tracebacks for names, Python in the messages of commands, and "130" after Ctrl-C."""

from pathlib import Path

import pytest
import torch
import typer
from small_run import make_pictures
from typer.testing import CliRunner, Result

import aimwrap
from aimwrap.cli import app
from aimwrap.cli.outcomes import begin_command, exit_on_error, in_options

run = CliRunner()


def invoke(*arguments: object) -> Result:
    return run.invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10t.nope", "timm has no weights named 'resnet10t.nope'; use resnet10t.c3_in1k"),
        ("resnetv2_50d.nope", "use it without a tag"),
        ("no_such_module:build", "or the name of a model of timm or torchvision"),
    ],
)
def test_names_of_weights_that_are_not_there(name: str, message: str) -> None:
    found = invoke("inspect", name)
    assert found.exit_code == 1 and message in found.stderr and found.stderr.count("\n") == 1


def test_a_backbone_without_weights_names_the_option(tmp_path: Path) -> None:
    root = make_pictures(tmp_path / "a")
    found = invoke("train", "folder", root, "--backbone", "resnetv2_50d", "--out", tmp_path / "out", "-q")
    assert found.exit_code == 1 and found.stderr.count("\n") == 1
    assert "resnetv2_50d has no pretrained weights; start from random ones (--no-pretrained" in found.stderr


def test_the_way_to_do_without_a_network_is_said_before_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **more: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("timm.create_model", offline)
    root = make_pictures(tmp_path / "a")
    found = invoke("train", "folder", root, "--backbone", "resnet10t", "--out", tmp_path / "out")
    assert found.exit_code == 1 and "weights resnet10t.c3_in1k; without a network, start from random" in found.stdout


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=["", "quiet"])
def test_classes_and_counts_are_always_printed(tmp_path: Path, quiet: tuple[str, ...]) -> None:
    """One folder too high trained "pictures" against "masks", and no line said so."""
    root = make_pictures(tmp_path / "a", classes=("cat", "dog"))
    given = ("--plain", "--backbone", "small_run:Net", "--image-size", 32, "--epochs", 1, "--batch-size", 4)
    more = ("--workers", 0, "--accelerator", "cpu", "--out", tmp_path / "out", *quiet)
    found = invoke("train", "folder", root, *given, *more)
    assert found.exit_code == 0, found.stderr
    assert "training images of 2 classes: cat 4, dog 4" in found.stdout
    assert quiet or "images are prepared to 32 x 32, resized (bicubic), central crop 0.875, mean 0.485" in found.stdout


def test_code_of_any_depth_stays_and_arguments_alone_become_options() -> None:
    begin_command({"image_size": ["--image-size"], "cutout_uses": ["--cutout-uses"], "mask_weight": ["--mask-weight"]})
    code = "f(g(h(i((224, 224))), image_size=1), image_size=(2, 3))"
    assert in_options(code) == code
    assert in_options("let each come more often (cutout_uses)") == "let each come more often (--cutout-uses)"
    assert in_options("a/image_size b_image_size image_size.png") == "a/image_size b_image_size image_size.png"


def test_advice_on_masks_names_options() -> None:
    begin_command({"mask_weight": ["--mask-weight"], "logit_spread": ["--logit-spread"]})
    health, masks = aimwrap.MaskHealth(0.25), torch.zeros(4, 1, 4, 4)
    masks[:, :, :3] = 1
    masks[0, 0, 0, 0] = 0
    health.update(aimwrap.AIMOutput(torch.zeros(4, 2), {}, {3: masks}), training=False)
    (found,) = health.report()
    assert found.symptom == "off tau" and "AIMLoss" not in found.message
    assert in_options(found.message).endswith("or raise the weight of the area loss (--mask-weight)")


@pytest.mark.parametrize("as_json", [False, True])
def test_an_exit_is_no_error_of_its_own(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Ctrl-C printed "130" in a second line, and the exit code was 1."""
    with pytest.raises(typer.Exit) as found, exit_on_error(RuntimeError, as_json=as_json):
        raise typer.Exit(130)
    assert found.value.exit_code == 130 and capsys.readouterr() == ("", "")


def test_names_in_tables_stay_as_they_are(tmp_path: Path) -> None:
    """A class named tau, or a column image_size, was called "--tau" and "--image-size" in errors and results."""
    table, root = tmp_path / "t.csv", make_pictures(tmp_path / "a", classes=("image_size", "tau"))
    given = ("--plain", "--backbone", "small_run:Net", "--image-size", 32, "--epochs", 1, "--batch-size", 4)
    given = (*given, "--workers", 0, "--accelerator", "cpu", "--out", tmp_path / "out")
    for text, said in (
        ("image_size,tau\na.png,1\n", "it has image_size, tau. Name its columns"),
        ("image,label,image_size\na.png,a,b\n", "which has image, label, image_size"),
    ):
        table.write_text(text)
        found = invoke("train", "table", table, "place=no", *given)
        assert found.exit_code and said in " ".join(found.stderr.split())
    table.write_text("image,tau\na.png,\n")
    assert "line 2: tau must have a value" in invoke("train", "table", table, "label=tau", *given).stderr
    found = invoke("train", "folder", root, *given)
    assert found.exit_code == 0 and found.stdout.count("image_size 4, tau 4") == 2
    assert "--tau must be in (0, 1]" in invoke("train", "folder", root, "--tau", 2, "--out", tmp_path / "b").stderr


def test_errors_of_generated_code_are_told() -> None:
    """A traced backbone's code has no module name: a full GPU ended in ``KeyError: '__name__'``."""
    with pytest.raises(typer.Exit), exit_on_error(RuntimeError, as_json=False):
        exec("raise RuntimeError('out of memory')", {"__builtins__": {"RuntimeError": RuntimeError}})


def test_the_doctor_takes_the_path_alone() -> None:
    """After "train folder X", users write "data doctor folder X", of which only X was an "extra argument"."""
    found = invoke("data", "doctor", "folder", "X", "--quick")
    said = " ".join(found.stderr.replace("│", " ").split())
    assert found.exit_code == 2 and "leave folder out: aimwrap data doctor X, or say it by --as folder" in said


def test_weights_that_cannot_be_fetched_name_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the last line named a "local cache", and not what does without the weights."""

    def offline(*arguments: object, **more: object) -> None:
        raise OSError("offline, and not in the local cache")

    monkeypatch.setattr("timm.create_model", offline)
    root = make_pictures(tmp_path / "a")
    for method in ((), ("--plain",)):
        found = invoke("train", "folder", root, "--backbone", "resnet10t", "--out", tmp_path / "out", "-q", *method)
        assert found.exit_code == 1 and found.stderr.count("\n") == 1 and "resnet10t.c3_in1k" in found.stderr
        assert "offline, and" in found.stderr and "start from random ones (--no-pretrained" in found.stderr
