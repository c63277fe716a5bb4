"""``aimwrap train --second-look``: what it trains, selects, saves and prints, and that it can be stopped anywhere."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from test_resuming import HERE, KilledError
from test_train_cli import train as command
from torch import Tensor
from typer.testing import CliRunner

from aimwrap import AIM, AIMOutput, SecondLook
from aimwrap.cli import app
from aimwrap.cli.options import loaded_model
from aimwrap.data import ReleaseDataset
from aimwrap.data.transforms import eval_transform
from aimwrap.train import DivergedError, Result, RunFolderError, Settings, run_training, second_look
from aimwrap.train.data import evaluation_loader, prepared, read_splits
from aimwrap.train.evaluation import evaluate
from aimwrap.train.report import format_results, summary
from aimwrap.train.run import Run

TWICE = {"backbone": "tiny_nets:tiny", "second_look": True, "second_lr": 0.05, "epochs": 1, "head_lr": 0.01}


def loaded(folder: Path) -> SecondLook:
    return SecondLook.from_pretrained(folder / "second-look", backbone=tiny_nets.tiny())


def contents(folder: Path) -> dict[str, bytes]:
    """Both models and the result, without its folder's name."""
    result = json.loads((folder / "result.json").read_text())
    del result["folder"], result["second_look"]["folder"]
    paths = [path for name in ("model", "second-look") for path in (folder / name).iterdir()]
    files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}
    return {**files, "result": json.dumps(result).encode()}


def test_from_the_built_digits_to_a_folder_with_both_looks(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    run, folder = CliRunner(), tmp_path / "out" / "seed-0"
    digits = ["data", "digits", "digits95", "--image-size", "32", "--num-images", "40", "--workers", "0", "-q"]
    assert run.invoke(app, digits).exit_code == 0
    usual = "--backbone tiny_nets:tiny --image-size 32 --epochs 2 --batch-size 8 --workers 0 --accelerator cpu -q"
    more = "--second-look --second-lr 0.03 --second-epochs 4 --second-copies 1 --margin 0 --least 0.5 --hold-out 0.3"
    found = run.invoke(app, ["train", "built", "digits95", "--out", "out", *usual.split(), *more.split()])
    assert found.exit_code == 0, found.output
    rows = found.stdout.strip().splitlines()
    assert rows[2].split() == ["first", "look", "second", "look"] and rows[3].startswith("  accuracy")
    assert rows[-1] == "Models: out/seed-0/second-look"
    result = json.loads((folder / "result.json").read_text())
    said, summed = result["second_look"], json.loads((folder.parent / "summary.json").read_text())
    assert said["folder"] == "out/seed-0/second-look" and said["scores"] != result["scores"]
    assert said["scores"].keys() == result["scores"].keys() == said["validation"].keys()
    assert said["scores"]["area"] == result["scores"]["area"]  # of the same masks
    assert summed["second_look"]["scores"]["average"]["mean"] == said["scores"]["average"]
    assert summed["second_look"]["epochs"] == [said["epoch"]] and 1 <= said["epoch"] <= 4
    second = loaded(folder)
    assert (second.margin, second.least, second.num_classes) == (0, 0.5, 2)
    assert f"test average | {said['scores']['average']:.4g}" in (folder / "second-look" / "README.md").read_text()
    first = AIM.from_pretrained(folder / "model", backbone=tiny_nets.tiny()).state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in second.first.state_dict().items())
    settings = Settings(data="built", root="digits95", hold_out=0.3)
    assert second.preprocessing is not None
    splits = prepared(read_splits(settings), settings, second.preprocessing)
    for images, scores in ((splits.test, said["scores"]), (splits.val, said["validation"])):
        assert images is not None
        again = evaluate(second, images, evaluation_loader(images, 8, 0, 1, 0, False), splits, fabric)
        assert again["groups"] == scores["groups"] and again["average"] == scores["average"]
        assert again["energy_pointing"] == pytest.approx(scores["energy_pointing"], abs=1e-6)


@pytest.mark.parametrize("mask", ["mask", None], ids=["objects known", "objects unknown"])
def test_a_second_look_s_scores_are_those_of_its_own_logits(
    settings_of: Callable[..., Settings], fabric: Fabric, mask: str | None
) -> None:
    settings = settings_of(reader={"mask": mask})
    model = AIM(tiny_nets.tiny(), [2, 3], 0.25, num_classes=2)
    run = Run(settings, Path("unused"), fabric)
    second = SecondLook(model)
    torch.nn.init.normal_(second.classifier.weight)
    found = evaluate(second, run.splits.test, run.batches_of(run.splits.test), run.splits, fabric)
    images = torch.stack([sample.image for sample in run.splits.test])
    output = second.eval()(images)
    right = output.logits.argmax(1) == run.splits.test.labels
    assert isinstance(output.first, AIMOutput) and not torch.equal(output.first.logits, output.logits)
    assert found["average"] == pytest.approx(right.float().mean().item())
    assert found["area"]["3"] == pytest.approx(output.first.masks[3].mean().item())
    assert ("energy_pointing" in found) == ("mask_recall" in found) == (mask is not None)


def features_of(
    run: Run, second: SecondLook | None, images: ReleaseDataset, processes: int, monkeypatch: Any, batches: Any = None
) -> Tensor:
    """What the first of so many processes has, after the others; without a second look means and batch numbers."""

    def features(images: Tensor, number: int) -> Tensor:
        return images.mean((2, 3)) + number if second is None else second.features(images)

    shares: list[list[Tensor]] = [[] for _ in range(processes)]
    for rank in reversed(range(processes)):
        step = iter(range(99))

        def gathered(rows: Tensor, rank: int = rank, step: Any = step) -> list[Tensor]:
            shares[rank].append(rows)
            number = next(step)
            return [share[number] for share in shares] if rank == 0 else [rows]

        with monkeypatch.context() as patch:
            patch.setattr(Fabric, "global_rank", rank)
            patch.setattr(Fabric, "world_size", processes)
            patch.setattr(second_look, "gathered", gathered)
            found = second_look._features(run, features, images, batches)
        assert len(found) == (len(images) if rank == 0 else 0)
    return found


def test_features_are_of_every_image_once_without_augmentation_in_any_number_of_processes(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(settings_of(**TWICE, augmentation="jitter-crop-and-flip", batch_size=4), Path("unused"), fabric)
    second, preprocessing = SecondLook(run.evaluated), run.evaluated.preprocessing
    assert preprocessing is not None
    train = ReleaseDataset(run.splits.train.release, "train", eval_transform(preprocessing))
    found = features_of(run, second, train, 1, monkeypatch)
    assert found.shape == (22, 12)
    torch.testing.assert_close(found, second.features(torch.stack([sample.image for sample in train])))
    for processes in (2, 4, 7):  # 6 batches, the last one smaller
        assert torch.equal(features_of(run, second, train, processes, monkeypatch), found)

    trained: list[Tensor] = []

    def train_on(
        run: Run, part: str, classifier: Any, features: Tensor, to_select_by: Tensor
    ) -> tuple[int, dict[str, Tensor]]:
        trained.extend((features, to_select_by))
        return 1, classifier.state_dict()

    monkeypatch.setattr(second_look, "_train", train_on)
    second_look.train_second_look(run)
    assert trained[0].shape == (22, 3 * 12) and trained[1].shape == (9, 12)
    torch.testing.assert_close(trained[0][:, :12], found)
    for pasted in trained[0][:, 12:].split(12, dim=1):
        assert not torch.allclose(pasted, found)
    again = Run(run.settings, Path("unused"), fabric)
    second_look.train_second_look(again)
    assert torch.equal(trained[2], trained[0])
    without = Run(replace(run.settings, second_copies=0), Path("unused"), fabric)
    second_look.train_second_look(without)
    torch.testing.assert_close(trained[4], found)


@pytest.mark.parametrize(
    ("averages", "rule", "best"),
    [
        ((0.5, 0.9, 0.9, 0.7), "validation average", 3),
        ((0.9, 0.5, None, 0.8), "validation average", 1),
        ((None, None, None, None), "validation average", 4),
        ((0.5, 0.9, 0.9, 0.7), "validation survival", 3),
        ((0.9, 0.5, 0.5, 0.8), "last", 4),
    ],
    ids=["last of equals", "none is no score", "no score at all", "by average", "last"],
)
def test_the_epoch_that_the_rule_selects_is_kept(
    settings_of: Callable[..., Settings],
    fabric: Fabric,
    monkeypatch: pytest.MonkeyPatch,
    averages: tuple[float | None, ...],
    rule: str,
    best: int,
) -> None:
    """By labels that a linear layer can learn; the weights are those of a run that ends with that epoch."""
    left = iter(averages)
    monkeypatch.setattr(second_look, "_validated", lambda *_: {"average": next(left, 0.0), "worst_group": None})
    lines: list[dict[str, Any]] = []
    report = lambda line, seconds: lines.append(line)  # noqa: E731
    run = Run(settings_of(**TWICE, second_epochs=4, selection=rule), Path("unused"), fabric, report=report)
    features = torch.nn.functional.one_hot(run.splits.train.labels, 12).float()
    epoch, weights = second_look._train(run, "second", classifier(), features, features[:9])
    assert epoch == best and [line["validation"]["average"] for line in lines] == [*averages]
    assert lines[0]["train"]["loss"] > lines[3]["train"]["loss"] and lines[3]["train"]["average"] == 1
    until = Run(settings_of(**TWICE, second_epochs=best, selection="last"), Path("unused"), fabric)
    expected = second_look._train(until, "second", classifier(), features, None)
    assert expected[0] == best and all(torch.equal(weights[name], expected[1][name]) for name in weights)


def classifier() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(12, 2)


def test_validation_counts_groups_as_the_first_look_s_does(
    settings_of: Callable[..., Settings], fabric: Fabric
) -> None:
    run = Run(settings_of(**TWICE), Path("unused"), fabric)
    layer, features = classifier(), torch.randn(9, 12)
    assert run.splits.val is not None
    right = layer(features).argmax(1) == run.splits.val.labels
    groups = run.splits.val.groups
    assert groups is not None
    found = second_look._validated(run, layer, features)
    assert found["average"] == pytest.approx(right.float().mean().item())
    assert found["worst_group"] == pytest.approx(min(right[groups == n].float().mean().item() for n in groups.unique()))
    of_classes = [right[run.splits.val.labels == label].float().mean().item() for label in (0, 1)]
    assert found["worst_class"] == pytest.approx(min(of_classes))


def test_stopped_and_resumed_it_is_the_unstopped_one(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the parts, in the second one, while saving, and before the result; then it is not trained again."""
    settings = settings_of(**TWICE, ema=0.5)
    whole = run_training(settings, tmp_path / "whole", fabric, workers=0)

    def killing(*arguments: object, **more: object) -> None:
        raise KilledError

    for place in ("loop.train_second_look", "second_look._validated", "loop.SecondLook.save_pretrained"):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(f"aimwrap.train.{place}", killing)
            run_training(settings, tmp_path / "stopped", fabric, workers=0)
        torch.manual_seed(len(place))  # whatever another process would have drawn meanwhile
        assert not (tmp_path / "stopped" / "result.json").exists()
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("aimwrap.train.loop.write_json", killing)
        run_training(settings, tmp_path / "stopped", fabric, workers=0)
    assert loaded(tmp_path / "stopped").margin == 1
    run_training(settings, tmp_path / "stopped", fabric, workers=0)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    monkeypatch.setattr("aimwrap.train.loop.train_second_look", killing)
    assert run_training(settings, tmp_path / "whole", fabric, workers=0) == whole
    path = tmp_path / "whole" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "second_look": None}))
    with pytest.raises(RunFolderError, match="its second_look does not fit the settings"):
        run_training(settings, tmp_path / "whole", fabric, workers=0)


@pytest.mark.slow
def test_another_network_looks_again(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of an import path, on its own features, with the same weights in a run that was stopped."""
    settings = settings_of(**TWICE, second_backbone="tiny_nets:tiny_with_batch_norm", precision="64-true")
    double = Fabric(accelerator="cpu", devices=1, precision="64-true")
    double.launch()
    run_training(settings, tmp_path / "whole", double, workers=0)

    def killing(*arguments: object, **more: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("aimwrap.train.second_look._validated", killing)
        run_training(settings, tmp_path / "stopped", double, workers=0)
    torch.manual_seed(5)  # whatever another process would have drawn meanwhile
    run_training(settings, tmp_path / "stopped", double, workers=0)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")

    folder = tmp_path / "whole" / "second-look"
    second = loaded_model(folder, "tiny_nets:tiny,tiny_nets:tiny_with_batch_norm")
    assert isinstance(second, SecondLook) and second.backbone is not None
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in second.backbone.modules())
    one, other = (network.state_dict()["stages.0.0.weight"] for network in (second.backbone, second.first.backbone))
    assert one.shape == other.shape and not torch.equal(one, other)
    once = loaded_model(tmp_path / "whole" / "model", "tiny_nets:tiny,tiny_nets:tiny_with_batch_norm")
    assert isinstance(once, AIM)
    with pytest.raises(ValueError, match=r"on the command line, --backbone ,package\.module:name"):
        loaded_model(folder, "tiny_nets:tiny")
    weights = json.loads((tmp_path / "whole" / "result.json").read_text())["weights"]
    assert weights.startswith("tiny_nets:tiny ") and "; second look: tiny_nets:tiny_with_batch_norm " in weights
    monkeypatch.setattr(tiny_nets, "tiny_with_batch_norm", lambda: tiny_nets.tiny_with_two_linear_layers())
    with pytest.raises(
        RunFolderError, match=r"holds the result of tiny_nets:tiny .*; second look: .*, not of tiny_nets"
    ):
        run_training(settings, tmp_path / "whole", double, workers=0)


def test_another_network_is_checked_before_the_first_look_is_trained(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    given = {**TWICE, "pretrained": False}
    for name, message in (
        ("vit_tiny_patch16_224", "second_backbone='vit_tiny_patch16_224' cannot be used for 32 x 32 pixels"),
        ("no_such_net", "second_backbone='no_such_net' cannot .* neither timm nor torchvision has a model named"),
    ):
        with pytest.raises(ValueError, match=message):
            run_training(settings_of(**given, second_backbone=name), tmp_path / name, fabric, workers=0)
        assert not (tmp_path / name).exists()


def test_the_command_takes_the_name_of_another_network(table: Path, tmp_path: Path) -> None:
    more = ("--second-look", "--second-backbone", "resnet10t", "--no-pretrained", "--second-epochs", 1)
    found = command(table, tmp_path / "out", *more)
    assert found.exit_code == 0, found.output
    folder = tmp_path / "out" / "seed-0"
    second = loaded(folder)  # which builds it by its name
    assert second._network is not None and second.classifier.in_features == 512
    assert json.loads((folder / "settings.json").read_text())["settings"]["second_backbone"] == "resnet10t"


def test_another_seed_is_another_second_look_of_the_same_first(
    settings_of: Callable[..., Settings], fabric: Fabric
) -> None:
    run = Run(settings_of(**TWICE), Path("unused"), fabric)
    found = []
    for seed in (0, 0, 1):
        object.__setattr__(run.settings, "seed", seed)
        found.append(second_look.train_second_look(run)[0].classifier.weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_weights_that_are_not_finite_end_the_run(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(settings_of(**TWICE), Path("unused"), fabric)
    features = second_look._features
    monkeypatch.setattr(second_look, "_features", lambda *arguments: math.nan * features(*arguments))
    with pytest.raises(DivergedError, match="second look's weights are not finite: lower second_lr"):
        second_look.train_second_look(run)


def test_both_looks_are_in_the_table_of_seeds() -> None:
    def result(seed: int, first: float, second: float) -> Result:
        scores = {"average": first, "energy_pointing": 0.5, "chance": 0.2, "area": {"3": 0.25}}
        said = {"epoch": seed + 1, "scores": {**scores, "average": second, "chance": 0.3}, "validation": None}
        return Result("AIM", seed, "last", 4, "test", scores, None, [], "folder", second_look=said)

    results = [result(0, 0.5, 0.75), result(1, 0.5, 0.25)]
    assert format_results(results).splitlines()[1:] == [
        "                   first look                    second look",
        "  accuracy         0.500 ± 0.000                 0.500 ± 0.354",
        "  energy pointing  0.500 ± 0.000 (chance 0.200)  0.500 ± 0.000 (chance 0.300)",
        "  area of stage 3  0.250 ± 0.000                 0.250 ± 0.000",
        "Selected by last: the last epoch; it needs no validation split. Epoch 4, 4. Of the second look, epoch 1, 2.",
    ]
    assert summary(results)["second_look"]["epochs"] == [1, 2]
    alone = [one._replace(second_look=None) for one in results]
    assert format_results(alone).splitlines()[1] == "  accuracy         0.500 ± 0.000"
    assert "second_look" not in summary(alone)
    undefined = [alone[0], alone[1]._replace(scores={**alone[1].scores, "energy_pointing": None})]
    line = "  energy pointing  0.500 in 1 of 2 seeds, undefined in the others (chance 0.200)"
    assert format_results(undefined).splitlines()[2] == line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--second-lr", 0.1), "--second-lr has no effect without --second-look; add it, or leave --second-lr out"),
        (("--margin", 2), "--margin has no effect without --second-look"),
        (("--second-backbone", "resnet18"), "--second-backbone has no effect without --second-look"),
        (("--second-look", "--plain"), "--second-look needs AIM with --head='feature-preserving'"),
        (
            ("--second-look", "--design", "paper"),
            "this run has --head='paper'; change that, or leave --second-look out",
        ),
        (("--second-look", "--least", 0), "--least must be 0.01 to 1"),
        (("--second-look", "--second-epochs", 0), "--second-epochs must be 1 or more"),
    ],
)
def test_options_without_effect_are_refused(
    table: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    found = command(table, tmp_path / "out", *options)
    assert found.exit_code == 2 and message in " ".join(found.stderr.replace("│", " ").split()), found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_kill_9_in_the_second_part(table: Path, tmp_path: Path, devices: int) -> None:
    script = tmp_path / "aimwrap_command.py"
    script.write_text("from aimwrap.cli import main; main()")
    options = "--backbone tiny_nets:tiny --image-size 32 --epochs 1 --batch-size 4 --workers 0 -q --accelerator cpu"
    options += f" --devices {devices} --second-look --second-epochs 1000 --second-lr 1e-3"
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[bytes]:
        words = ["train", "table", str(table), "mask=mask", "--out", str(tmp_path / out), *options.split()]
        return subprocess.Popen([sys.executable, str(script), *words], env=environment, start_new_session=True)

    assert start("whole").wait(timeout=300) == 0
    moments, folder, killed = random.Random(devices), tmp_path / "killed" / "seed-0", 0
    for _ in range(3):
        (folder / "model" / "README.md").unlink(missing_ok=True)  # which is written when the first part is done
        process, deadline = start("killed"), time.monotonic() + 120
        while not (folder / "model" / "README.md").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.random())
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "result.json").exists(), "it ended before it could be killed"
    assert killed == 3 and start("killed").wait(timeout=300) == 0
    assert contents(folder) == contents(tmp_path / "whole" / "seed-0")
