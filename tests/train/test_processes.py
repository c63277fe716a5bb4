"""Two processes train what one does with the joint batch, whatever is uneven, and a run may change their number."""

import csv
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import several_processes
import tiny_nets
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file

from aimwrap import AIM, AIMLoss, AIMOutput
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.train import Settings, load_plain, loop, mean_over_processes, run_training
from aimwrap.train import distributed as launching
from aimwrap.train.checkpoints import checkpoint_folder, checkpoints_in, read_checkpoint
from aimwrap.train.data import evaluation_loader, prepared, read_splits
from aimwrap.train.evaluation import evaluate
from aimwrap.train.run import Run

# 22 images in batches of at most 5 are 5 steps of 5, 5, 4, 4 and 4: two processes share 5 as 3 and 2. 20 steps in all.
# A mask is a sign, and at higher rates rounding turns one in some step; in double precision it does not.
SHARED = {"backbone": "tiny_nets:tiny", "epochs": 4, "batch_size": 5, "optimizer": "sgd", "lr": 1e-3, "head_lr": 1e-3}
RUNS = {
    "per image": {"seed": 1},
    "double": {"precision": "64-true", "lr": 0.005, "head_lr": 0.005, "second_look": True, "second_lr": 0.05},
    "per batch": {"area_per": "batch", "head": "paper", "clip": 0.5},
    "plain": {"method": "plain", "lr": 0.02, "head_lr": 0.02},
    "cached": {
        "precision": "64-true",
        **{"lr": 0.005, "head_lr": 0.005, "frozen": "backbone", "augmentation": "none", "cache_features": True},
    },
    "in parts": {"precision": "64-true", "lr": 0.005, "head_lr": 0.005, "accumulate": 2},
}
# Each process's BatchNorm sees its own images, so this is nothing that one process could train.
BATCH_NORM = {"backbone": "tiny_nets:tiny_with_batch_norm", "ema": 0.5, "lr": 0.02}


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in one process and in two; and one that was begun in one and goes on in two."""
    folder = tmp_path_factory.mktemp("processes")
    common = {"data": "table", "root": str(table), "reader": {"mask": "mask"}, "image_size": 32, **SHARED}
    settings = {name: Settings(**{**common, **given}) for name, given in RUNS.items()}
    for name, one in settings.items():
        own = Fabric(accelerator="cpu", devices=1, precision=one.precision)
        own.launch()
        run_training(one, folder / "one" / name, own, workers=0)
    shutil.copytree(folder / "one" / "per image", folder / "two" / "moved")
    unfinish(folder / "two" / "moved")
    runs = [(one.to_json(), str(folder / "two" / name)) for name, one in settings.items()]
    runs.append((settings["per image"].to_json(), str(folder / "two" / "moved")))
    runs.append((Settings(**{**common, **BATCH_NORM}).to_json(), str(folder / "two" / "batch norm")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(several_processes.work, (2, port, runs, str(folder)), nprocs=2)
    return folder


def unfinish(folder: Path) -> None:
    """As if the run had been killed after its last but one epoch."""
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "model")
    checkpoints_in(checkpoint_folder(folder))[-1].unlink()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoints_in(checkpoint_folder(folder))[-1]).part("model")


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())["scores"]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS, "moved"])
def test_two_processes_are_one_with_the_joint_batch(trained: Path, name: str) -> None:
    one, two = trained / "one" / ("per image" if name == "moved" else name), trained / "two" / name
    expected, actual = weights(one), weights(two)
    assert log(one)[-1]["step"] == 20
    # In double precision too: masks and areas are float32, and how far their rounding goes depends on the processor.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert any(not torch.equal(actual[key], expected[key]) for key in expected), "nothing was summed in another order"
    assert scores(two)["groups"] == scores(one)["groups"] and scores(two)["average"] == scores(one)["average"]
    for score in ("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall"):
        assert scores(two).get(score) == pytest.approx(scores(one).get(score), abs=1e-5)
    for line, other in zip(log(two), log(one), strict=True):
        assert line["train"] == pytest.approx(other["train"], rel=1e-5, abs=1e-5)
        assert line["validation"]["groups"] == other["validation"]["groups"]


@pytest.mark.slow
def test_two_processes_train_the_second_look_of_one(trained: Path) -> None:
    """In the same order of images; what they begin from differs as the test above says."""
    one, two = (load_file(trained / name / "double" / "second-look" / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    said, other = (json.loads((trained / n / "double" / "result.json").read_text()) for n in ("one", "two"))
    for part in ("scores", "validation"):
        assert other["second_look"][part]["groups"] == said["second_look"][part]["groups"]
    assert other["second_look"]["epoch"] == said["second_look"]["epoch"]


@pytest.mark.slow
def test_both_processes_have_scored_the_model_that_is_saved(
    trained: Path, settings_of: Callable[..., Settings], fabric: Fabric
) -> None:
    folder = trained / "two" / "batch norm"
    model = AIM.from_pretrained(folder / "model", backbone=tiny_nets.tiny_with_batch_norm())
    assert model.preprocessing is not None
    settings = settings_of(**BATCH_NORM)
    splits = prepared(read_splits(settings), settings, model.preprocessing)
    assert splits.val is not None
    validation = json.loads((folder / "result.json").read_text())["validation"]
    for images, said in ((splits.test, scores(folder)), (splits.val, validation)):
        found = evaluate(model, images, evaluation_loader(images, 11, 0, 1, 0, False), splits, fabric)
        assert found["groups"] == said["groups"]
        for score in ("energy_pointing", "mask_precision", "mask_recall"):
            assert found[score] == pytest.approx(said[score], abs=1e-6)


def test_each_process_drops_out_its_own(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same new layers in all of them, and other numbers from then on."""
    built, drawn = [], []
    for rank in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Fabric, "global_rank", rank)
            run = Run(settings_of(backbone="tiny_nets:tiny", reader={"mask": None}), tmp_path, fabric)
        built.append(run.network.state_dict())
        drawn.append(torch.rand(4))
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_first_process_s_buffers_are_what_is_scored_and_saved(
    settings_of: Callable[..., Settings],
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ema: float | None,
) -> None:
    """Here a process that is not the first: what it is handed takes the place of its own statistics."""
    handed: list[torch.nn.Module] = []

    def share(model: torch.nn.Module) -> None:
        handed.append(model)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(1e-3 * (1 + len(name)))

    monkeypatch.setattr(loop, "share_buffers", share)
    settings = settings_of(**{**BATCH_NORM, "ema": ema}, method="plain", epochs=1, image_size=64)
    result = run_training(settings, tmp_path, fabric, workers=0)
    assert len(handed) == (1 if ema is None else 2)
    for model in handed:
        assert all((buffer < 0.1).all() for name, buffer in model.named_buffers() if name.endswith("running_var"))
    model = load_plain(tmp_path / "model", backbone=tiny_nets.tiny_with_batch_norm())
    shared = [buffer for name, buffer in model.named_buffers() if name.endswith("running_var")]
    assert shared and all((buffer < 0.1).all() for buffer in shared)
    saved = weights(tmp_path)
    assert all((tensor < 0.1).all() for name, tensor in saved.items() if name.endswith("running_var"))
    splits = prepared(read_splits(settings), settings, model.preprocessing)
    found = evaluate(
        model,
        splits.val,
        evaluation_loader(splits.val, 9, 0, 1, 0, False),
        splits,
        fabric,
        activation_maps=PooledClassifier(model.backbone),
    )
    assert result.validation is not None
    assert found["energy_pointing"] == pytest.approx(result.validation["energy_pointing"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS, "moved"])
def test_the_first_process_alone_logs(trained: Path, name: str) -> None:
    """The numbers of its log, which are those of all processes; also where the epochs before had no logger."""
    with (trained / "two" / name / "csv" / "metrics.csv").open() as file:
        rows = [(int(row["epoch"]), float(row["train/loss"])) for row in csv.DictReader(file)]
    assert rows == [(line["epoch"], line["train"]["loss"]) for line in log(trained / "two" / name)]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_fully_sharded_model_has_the_same_masks_loss_and_step(trained: Path, rank: int) -> None:
    found = torch.load(trained / f"sharded-{rank}.pt", weights_only=True)
    assert found["shards"] > 10
    for name in ("masks 2", "masks 3", "loss", "weights"):
        torch.testing.assert_close(found["sharded"][name], found["whole"][name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_parameter_without_a_gradient_is_noticed(trained: Path) -> None:
    """The runs above would have failed with one: the second step of DistributedDataParallel does."""
    assert "did not receive grad" in (trained / "unused.txt").read_text()


def test_training_moves_the_weights_much_further_than_that(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    run_training(settings_of(**{**SHARED, "epochs": 1}), tmp_path / "1", fabric, workers=0)
    run_training(settings_of(**SHARED), tmp_path / "4", fabric, workers=0)
    first, last = weights(tmp_path / "1"), weights(tmp_path / "4")
    assert max((first[key] - last[key]).abs().max() for key in first) > 1e-3


def test_a_batch_s_area_is_one_mean_with_the_gradient_of_the_joint_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes' gradients, weighted by their shares of the images, add up to the joint batch's."""
    areas = torch.tensor([0.1, 0.4, 0.5, 0.9, 0.3], requires_grad=True)
    (expected,) = torch.autograd.grad((areas.mean() - 0.25) ** 2, areas)
    total = torch.stack([areas.detach().sum(), torch.tensor(5.0)])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.copy_(total))
    losses = []
    for part in (areas[:3], areas[3:]):
        masks = part[:, None, None, None].expand(-1, 1, 2, 2)  # of any value, as a mask's mean is
        criterion = AIMLoss(0.25, mask_weight=1, stage_weight=0, final_weight=0, area_per="batch")
        criterion.batch_mean = mean_over_processes
        logits = torch.zeros(len(part), 2)
        loss = criterion(AIMOutput(logits, {3: logits}, {3: masks}), torch.zeros(len(part), dtype=torch.int64))
        assert loss.item() == pytest.approx((areas.mean() - 0.25).item() ** 2)
        losses.append(loss * len(part) * 2 / 5)
    (actual,) = torch.autograd.grad(sum(losses) / 2, areas)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("environment", "devices", "launch"),
    [
        ({}, None, (None, 1, "itself")),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}, None, (3, 2, "torchrun")),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 1, (1, 1, "torchrun")),
        (
            {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "4", "SLURM_JOB_NAME": "birds"},
            None,
            (2, 4, "SLURM"),
        ),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "4", "SLURM_JOB_NAME": "bash"}, 2, (2, 1, "itself")),
    ],
)
def test_who_started_the_processes(
    environment: dict[str, str], devices: int | None, launch: tuple[int | None, int, str]
) -> None:
    assert launching.launch_of(environment, devices) == launch


@pytest.mark.parametrize("per_node", [{}, {"SLURM_NTASKS_PER_NODE": "3"}])
def test_slurm_must_say_how_many_each_machine_has(per_node: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="SLURM must know how many processes each machine has"):
        launching.launch_of({"SLURM_NTASKS": "8", "SLURM_NNODES": "4", **per_node})


def test_another_number_than_was_started_is_an_error() -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    with pytest.raises(ValueError, match="must be left out under torchrun, which has started 4 processes on each of 1"):
        launching.launch_of(environment, devices=8)
