"""``aimwrap train`` on the command line, and what it leaves."""

import json
from pathlib import Path

import pytest
import tiny_nets
import torch
from typer.testing import CliRunner, Result

from aimwrap import AIM
from aimwrap.cli import app
from aimwrap.masks.grid import seen_through
from aimwrap.preprocessing import Preprocessing
from aimwrap.train import PlainClassifier, launched_fabric, load_plain

run = CliRunner()


def train(table: Path, out: Path, *options: object) -> Result:
    usual = ["--backbone", "tiny_nets:tiny", "--image-size", 32, "--epochs", 2, "--batch-size", 8, "--workers", 0]
    arguments = ["train", "table", table, "mask=mask", "--out", out, "--accelerator", "cpu", *usual, *options]
    return run.invoke(app, list(map(str, arguments)))


def test_from_a_set_to_a_result(table: Path, tmp_path: Path) -> None:
    more = ("--labels-move-area", "--accumulate", 2)
    found = train(table, tmp_path / "out", "--seeds", "0,3", "-q", "--selection", "worst-group", "--lr", 1e-3, *more)
    assert found.exit_code == 0, found.output
    assert (
        "TinyNet+AIM [3, 25%], feature-preserving head, labels move the area, 2 classes, on the split test, seeds 0, 3"
        in found.output
    )
    assert "Selected by validation worst group: the epoch whose worst group" in found.output and " ± " in found.output
    assert "energy pointing" in found.output and "(chance 0." in found.output
    folder = tmp_path / "out" / "seed-3"
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "log.jsonl", "model", "result.json", "settings.json")
    }
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["settings"]["labels_move_area"] and settings["settings"]["accumulate"] == 2
    assert settings["settings"]["seed"] == 3 and settings["resolved"]["images"] == {"train": 22, "val": 9, "test": 11}
    assert settings["resolved"]["preprocessing"]["image_size"] == [32, 32]
    assert settings["resolved"]["anneal_epochs"] == 1
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and [line["tau"] for line in lines] == [[1.0, 1.0], [0.25, 0.25]]
    scores = [json.loads((tmp_path / "out" / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 3)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    mean = sum(result["scores"]["average"] for result in scores) / 2
    assert summary["scores"]["average"]["mean"] == pytest.approx(mean) and summary["seeds"] == [0, 3]


def test_the_paper_s_design_and_a_change_of_it(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimwrap.train.run.weights_of", lambda settings: "tiny.in1k")
    more = ("--design", "paper", "--no-labels-move-area", "--stage-weight", "0,1", "--width", 16, "--epochs", 1, "-q")
    found = train(table, tmp_path / "out", *more)
    assert found.exit_code == 0, found.output
    folder = tmp_path / "out" / "seed-0"
    written = json.loads((folder / "settings.json").read_text())
    settings = written["settings"]
    assert settings["design"] == "paper" and settings["head"] == "paper" and settings["labels_move_area"] is False
    assert settings["logit_range"] == 0 and settings["stage_weight"] == [0.0, 1.0]
    result = json.loads((folder / "result.json").read_text())
    assert result["departures"] == ["labels do not move the area"]
    assert result["weights"] == written["resolved"]["weights"] == "tiny.in1k"
    assert result["variant"] == "TinyNet+AIM [3, 25%], paper head, 2 classes"
    model = AIM.from_pretrained(folder / "model", backbone=tiny_nets.tiny())
    assert model.departures == ("labels do not move the area",) and model.classifier.in_features == 16


def test_plain_with_json_and_a_recipe(table: Path, tmp_path: Path) -> None:
    options = ("--preset", "dfr-base", "--crop", 1, "--json", "--hold-out", 0)
    found = train(table, tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    (result,) = json.loads(found.stdout)
    assert result["selection"] == "last" and "plain" in result["variant"] and result["scores"]["average"] is not None
    settings = json.loads((tmp_path / "out" / "seed-0" / "settings.json").read_text())["settings"]
    assert settings["weight_decay"] == 1e-3 and settings["squash"] and settings["batch_size"] == 8  # given beats recipe
    model = load_plain(tmp_path / "out" / "seed-0" / "model", backbone=tiny_nets.tiny())
    assert isinstance(model, PlainClassifier) and model.class_names == ("0", "1")
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert model.preprocessing == Preprocessing((32, 32), *imagenet, crop=1, squash=True)
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2)


def test_images_are_dark_where_the_mask_is_closed() -> None:
    images = torch.zeros(1, 3, 4, 4)  # the mean, 0.5
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    shown = seen_through(images, masks, Preprocessing((4, 4), (0.5,) * 3, (0.2,) * 3))
    assert torch.equal(shown[0, :, :2, :2], torch.full((3, 2, 2), 0.5))
    assert torch.equal(shown[0, :, 2:], torch.full((3, 2, 4), 0.125))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stages", "0,7"), "TinyNet has no stage 7"),
        (("--backbone", "tiny_nets:nothing"), "'tiny_nets:nothing' cannot be imported"),
        (("--backbone", "resnet5000"), "neither timm nor torchvision has a model named 'resnet5000'"),
        (("--precision", "16-mixed"), "needs a GPU; on a CPU there are"),
        (("--plain", "--backbone", "tiny_nets:TinyNet.features"), "cannot be imported"),
        (("--stages", ""), "stages=[2, 3] is the paper's usual choice"),
        (("--backbone", "json:dumps"), "'json:dumps' was found, but calling it without arguments fails: TypeError"),
        (("--accumulate", 9), "an image for each of --accumulate=9 parts"),
        (("--sync-batchnorm",), "--sync-batchnorm needs several processes with a GPU each"),
    ],
)
def test_what_fails_is_named(table: Path, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    found = train(table, tmp_path / "out", *options)
    assert found.exit_code == 1 and message in found.stderr, found.output
    assert found.stdout == "" and not (tmp_path / "out").exists()
    as_json = train(table, tmp_path / "out", *options, "--json")
    assert as_json.exit_code == 1 and message in json.loads(as_json.stdout)["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 0), "--epochs must be 1 or more"),
        (("--head-lr", -1), "--head-lr must be 0 or more"),
        (("--preset", "sgd"), "'sgd' is not one of 'group-dro-erm', 'dfr-base'"),
        (("--tau", "a,b"), "--tau must be one number or one per stage"),
        (("--selection", "best"), "'best' is not one of 'worst-group', 'worst-class', 'average', 'survival', 'last'"),
        (("--warmup-epochs", 5), "--warmup-epochs must be less than --epochs=2"),
        (("--seeds", "none"), "--seeds must be a count"),
        (("mask",), "must be NAME=VALUE"),
        (("--accelerator", "tpu"), "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (("--ema", 1), "--ema must be less than 1"),
        (("--clip", 0), "--clip must be more than 0"),
        (("--plain", "--tau", 0.3), "--tau has no effect on a plain backbone (--plain); leave it out"),
        (("--preset", "dfr-base", "--mask-lr", 0.1), "--mask-lr has no effect on a plain backbone"),
        (("--plain", "--labels-move-area"), "--labels-move-area has no effect on a plain backbone"),
        (("--plain", "--no-labels-move-area"), "--no-labels-move-area has no effect on a plain backbone"),
        (("--plain", "--width", 16), "--width has no effect on a plain backbone"),
        (("--width", 16), "--width needs head paper, and it is feature-preserving here"),
        (("--stage-weight", "1,2,3"), "--stage-weight must be one number or 2, one per stage"),
        (("--momentum", 0.5), "--momentum needs optimizer sgd, and it is adamw here"),
        (("--step-factor", 0.5), "--step-factor needs schedule step"),
        (("--accumulate", 2, "--area-per", "batch"), "use --area-per='image' or --accumulate=1"),
        (("--sync-batchnorm", "--frozen", "backbone"), "and --frozen='backbone' keeps them fixed"),
    ],
)
def test_wrong_options_are_named(table: Path, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    found = train(table, tmp_path / "out", *options)
    assert found.exit_code == 2 and message in " ".join(found.stderr.replace("│", " ").split()), found.output
    assert found.stdout == "" and not (tmp_path / "out").exists()


def test_data_sets_are_suggested(tmp_path: Path) -> None:
    found = run.invoke(app, ["train", "Traveling_bird", str(tmp_path)])
    assert found.exit_code == 2 and "did you mean traveling-birds?" in " ".join(found.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("seeds", "message"), [("none", "must be a count"), ("0,1,0", "must name each seed once")])
def test_seeds_are_checked(table: Path, tmp_path: Path, seeds: str, message: str) -> None:
    found = train(table, tmp_path / "out", "--seeds", seeds)
    assert found.exit_code == 2 and f"--seeds {message}" in found.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(table: Path, tmp_path: Path) -> None:
    found = train(table, tmp_path / "out", "--accelerator", "cuda")
    assert found.exit_code == 1 and "needs a GPU that this torch can use, and it finds none" in found.stderr


def test_more_gpus_than_there_are_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="devices must be 2 at most, as many GPUs as torch finds here, got 3"):
        launched_fabric("32-true", devices=3)


@pytest.mark.parametrize("out", ["table.csv", "table.csv/deeper"])
def test_a_file_is_no_folder(table: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "table.csv").write_text("")
    found = train(table, tmp_path / out, "-q")
    assert found.exit_code == 1 and f"{tmp_path / 'table.csv'} is a file; name a folder" in found.stderr


def test_a_folder_that_cannot_be_made_is_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **more: object) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(Path, "mkdir", refused)
    found = train(table, tmp_path / "out", "-q")
    assert found.exit_code == 1 and "seed-0 cannot be made (not allowed); name another folder" in found.stderr


def test_recipes_are_listed() -> None:
    found = run.invoke(app, ["train", "--presets"])
    assert found.exit_code == 0
    assert "dfr-base (Kirichenko et al. 2023)\n    The base model of DFR on Waterbirds" in found.output
    assert "ours-birds (ours)" in found.output and "weight_decay 0.001" in found.output


def test_dead_masks_are_named(table: Path, tmp_path: Path) -> None:
    found = train(table, tmp_path / "out", "--tau", 0.05, "--mask-weight", 0)
    assert found.exit_code == 0, found.output
    assert (
        "warning: the mask of stage 2 is" in found.stderr
        and "Masks of the saved model: the mask of stage" in found.stdout
    )


def test_folders_of_other_runs_are_refused(table: Path, tmp_path: Path) -> None:
    assert train(table, tmp_path / "out", "--plain", "-q").exit_code == 0
    found = train(table, tmp_path / "out", "--plain", "-q", "--epochs", 3)
    assert found.exit_code == 1 and "epochs was 2 and is 3" in found.stderr
    again = train(table, tmp_path / "out", "--plain")
    assert again.exit_code == 0 and "is trained already" in again.stdout
