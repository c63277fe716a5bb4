"""``aimwrap train --logger``: what each logger has of a run, also of a killed one, read back by its own tools."""

import csv
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from PIL import Image
from typer.testing import CliRunner, Result

from aimwrap import AIM
from aimwrap.analysis.look import look
from aimwrap.cli import app
from aimwrap.data import ReleaseDataset, eval_transform
from aimwrap.data.registry import read_by_name
from aimwrap.masks import mask_grid
from aimwrap.train import Settings, evaluation, loop, run_training, watching

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STEPS = 6  # of each epoch

Values = dict[str, list[tuple[int, float]]]  # step and value, by name


class KilledError(BaseException):
    """Nothing in the library catches it."""


def train(table: Path, out: Path, *options: object) -> Result:
    usual = ["--backbone", "tiny_nets:tiny", "--image-size", 32, "--epochs", 2, "--batch-size", 4, "--workers", 0]
    arguments = ["train", "table", table, "mask=mask", "--out", out, "--accelerator", "cpu", "-q", *usual, *options]
    return CliRunner().invoke(app, list(map(str, arguments)))


def read_tensorboard(folder: Path) -> tuple[Values, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found, [picture.step for picture in events.Images("masks")]


def read_csv(folder: Path) -> tuple[Values, list[int]]:
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in rows[0]}
    del found["step"]
    return found, sorted(int(path.stem) for path in (folder / "csv" / "masks").glob("*.png"))


def read_mlflow(folder: Path) -> tuple[Values, list[int]]:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("aimwrap")
    assert experiment is not None
    (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name.endswith(folder.name)]
    assert run.info.status == "FINISHED" and run.data.params["optimizer"] == "adamw"
    found = {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in run.data.metrics}
    return found, [int(Path(one.path).stem) for one in client.list_artifacts(run.info.run_id, "masks")]


def records_of(path: Path) -> Iterator[Any]:
    """The records of a file of wandb's: blocks of 32 KiB after a header of 7 bytes, as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


def read_wandb(folder: Path) -> tuple[Values, list[int]]:
    """As ``wandb sync`` uploads it: all files of one run, whose steps go on."""
    found: Values = {}
    pictures, last, runs = [], -1, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime):
        for record in records_of(path):
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.project, record.run.display_name))
            if not record.HasField("history"):
                continue
            row = {"/".join([item.key, *item.nested_key]).strip("/"): item.value_json for item in record.history.item}
            row = {name: json.loads(value) for name, value in row.items()}
            assert record.history.step.num > last, "wandb drops what is of a step before"
            last, step = record.history.step.num, row.pop("trainer/global_step")
            pictures += [step] if "masks/_type" in row else []
            for name, value in row.items():
                if not name.startswith(("_", "masks/")):
                    found.setdefault(name, []).append((step, value))
    assert len(runs) == 1, "it is one run, whatever happened"
    return found, pictures


READERS: dict[str, Callable[[Path], tuple[Values, list[int]]]] = {
    "tensorboard": read_tensorboard,
    "csv": read_csv,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder in which wandb and MLflow keep what they write, and ask nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    yield tmp_path
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    if sys.modules.get("wandb") is not None:
        sys.modules["wandb"].teardown()


def ready(names: list[str]) -> None:
    """Skip where a package is missing. The folder of wandb's import may have been removed by another test's fork."""
    for name in names:
        pytest.importorskip(name)
    if "wandb" in names:
        media = pytest.importorskip("wandb.sdk.data_types._private").MEDIA_TMP
        Path(media.name).mkdir(exist_ok=True)


def numbers_of(folder: Path) -> Values:
    """What a run's own log says, by the names that loggers give it."""
    found: Values = {}
    for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        scores = line["validation"]
        flat = {"epoch": line["epoch"], **{f"train/{name}": value for name, value in line["train"].items()}}
        flat |= {f"tau/{number}": tau for number, tau in enumerate(line["tau"])}
        flat |= {f"validation/{name}": value for name, value in scores.items() if isinstance(value, float)}
        flat |= {f"validation/{part}/{name}": v for part in ("area", "groups") for name, v in scores[part].items()}
        for name, value in flat.items():
            found.setdefault(name, []).append((line["step"], value))
    return found


def check(folder: Path, name: str, epochs: int = 2) -> None:
    """Every number of every epoch is there once, at its step, and so is a picture."""
    found, pictures = READERS[name](folder)
    expected = numbers_of(folder)
    assert [value for _, value in expected["epoch"]] == [*range(1, epochs + 1)] and len(expected) == 19
    if name == "mlflow":
        expected = {key.replace(",", "_"): values for key, values in expected.items()}
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert [step for step, _ in found[key]] == [step for step, _ in values], key
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in values], rel=1e-6), key
    assert pictures == [STEPS * epoch for epoch in range(1, epochs + 1)]


def test_numbers_and_pictures(table: Path, here: Path) -> None:
    found = train(table, here / "out", "--logger", "tensorboard, csv", "--selection", "last")
    assert found.exit_code == 0, found.output
    folder = here / "out" / "seed-0"
    for name in ("tensorboard", "csv"):
        check(folder, name)
    model = AIM.from_pretrained(folder / "model", backbone=tiny_nets.tiny()).eval()
    assert model.preprocessing is not None
    release = read_by_name("table", str(table), "val", {"mask": "mask"}).release
    shown = ReleaseDataset(release, "val", eval_transform(model.preprocessing))
    images = torch.stack([sample.image for sample in shown])
    seen = look(model, images[:8])
    expected = mask_grid(images[:8], {**seen.output.masks, "merged": seen.merged_mask}, model.preprocessing)
    with Image.open(folder / "csv" / "masks" / "00000012.png") as picture:
        assert np.array_equal(np.asarray(picture), expected.permute(1, 2, 0).numpy())
    again = train(table, here / "out", "--logger", "csv", "--selection", "last")
    assert again.exit_code == 0 and "--logger" not in again.output, "quiet"


@pytest.mark.parametrize("mask", ["mask", "null"])
def test_pictures_of_a_plain_model(table: Path, here: Path, mask: str) -> None:
    """Its activation maps, also where no objects are known."""
    found = train(table, here / "out", f"mask={mask}", "--logger", "csv", "--plain")
    assert found.exit_code == 0, found.output
    folder = here / "out" / "seed-0" / "csv"
    assert [path.name for path in sorted((folder / "activation maps").iterdir())] == ["00000006.png", "00000012.png"]
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "validation/average" in header and ("validation/energy_pointing" in header) == (mask == "mask")


def killed_anywhere(names: list[Any], settings: Settings, folder: Path, fabric: Fabric, also: list[Any]) -> None:
    """Train, killed before the first checkpoint, within an epoch, before a checkpoint, and after it, with no log."""

    def killed(place: Any, what: str, when: Callable[..., bool]) -> None:
        own = getattr(place, what)

        def killing(*arguments: Any) -> Any:
            if when(*arguments):
                raise KilledError
            return own(*arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(place, what, killing)
            run_training(settings, folder, fabric, workers=0, loggers=names)

    killed(loop, "rate_factor", lambda step, *_: step == 2)
    killed(loop, "rate_factor", lambda step, *_: step == STEPS + 5)
    killed(loop, "save_checkpoint", lambda run: run.progress.epoch == 2)
    killed(loop, "log_epochs", lambda run: run.progress.epoch == 2 and run.progress.step_of_epoch == 0)
    for place, what, when in also:
        killed(place, what, when)
    run_training(settings, folder, fabric, workers=0, loggers=names)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["tensorboard", "csv"], ["wandb", "mlflow"]], ids=str)
def test_a_run_that_is_killed_anywhere_logs_every_epoch_once(
    names: list[Any], settings_of: Callable[..., Settings], fabric: Fabric, here: Path
) -> None:
    ready(names)
    also = []
    if "csv" in names:  # these two also where it is logged and not noted yet, or by the first of them alone
        also += [(watching, "write_json", lambda path, known: known["tensorboard"]["epochs"] == 3)]
        also += [(watching, "write_json", lambda path, known: known.get("csv", {}).get("epochs") == 3)]
    settings = settings_of(epochs=3, checkpoint_steps=4)
    killed_anywhere(names, settings, here / "seed-0", fabric, also)
    run_training(settings, here / "without", fabric, workers=0)
    one, other = (here / folder / "model" / "model.safetensors" for folder in ("seed-0", "without"))
    assert one.read_bytes() == other.read_bytes(), "loggers change nothing"
    for name in names:
        check(here / "seed-0", name, epochs=3)


@pytest.mark.slow
def test_each_seed_is_a_run(table: Path, here: Path) -> None:
    ready(["wandb", "mlflow"])
    found = train(table, here / "out", "--seeds", 2, "--logger", "wandb,mlflow")
    assert found.exit_code == 0, found.output
    for seed in (0, 1):
        for name in ("wandb", "mlflow"):
            check(here / "out" / f"seed-{seed}", name)
    known = [json.loads((here / "out" / f"seed-{seed}" / "loggers.json").read_text()) for seed in (0, 1)]
    for name in ("wandb", "mlflow"):
        assert known[0][name]["run"] != known[1][name]["run"]


def test_a_logger_added_later_gets_the_epochs_before(
    settings_of: Callable[..., Settings], fabric: Fabric, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not their pictures, since the model is another by then. Without its checkpoints it is a new run."""
    settings = settings_of(checkpoint_steps=1)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loop, "rate_factor", lambda step, *_: 1.0 if step < STEPS + 2 else kill())
        run_training(settings, here, fabric, workers=0)
    run_training(settings, here, fabric, workers=0, loggers=["tensorboard"])
    found, pictures = read_tensorboard(here)
    assert [step for step, _ in found["train/loss"]] == [STEPS, 2 * STEPS] and pictures == [2 * STEPS]
    (here / "result.json").unlink()
    shutil.rmtree(here / "checkpoints")
    run_training(settings_of(seed=1), here, fabric, workers=0, loggers=["tensorboard"])
    check(here, "tensorboard")


def kill() -> float:
    raise KilledError


def test_a_logger_that_fails_ends_the_run_and_it_can_continue(
    table: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is gone fails again when the logger is closed, and that hides neither the error nor the result."""
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.loggers.CSVLogger.finalize", lambda *_: {}["gone"])
        with monkeypatch.context() as also, pytest.warns(UserWarning, match="--logger csv was not closed"):
            also.setattr("lightning.pytorch.loggers.CSVLogger.log_metrics", lambda *_: 1 / 0)
            found = train(table, here / "out", "--logger", "csv")
        assert found.exit_code == 1
        assert "--logger csv failed (ZeroDivisionError: division by zero); correct this, or leave" in found.stderr
        with pytest.warns(UserWarning, match=r"--logger csv was not closed \(KeyError: 'gone'\)"):
            assert train(table, here / "out", "--logger", "csv").exit_code == 0
    check(here / "out" / "seed-0", "csv")


def test_the_page_explains_every_score() -> None:
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text(encoding="utf-8")
    names = [*evaluation._SCORES.values(), *evaluation._OF_OBJECTS, "weighted_average"]
    assert [name for name in names if f"{name}`" not in page] == []


def test_mlflow_has_a_number_of_each_group(tmp_path: Path) -> None:
    """Also of groups whose names differ in characters that it does not take."""
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=lambda numbers, step: logged.update(numbers), save=lambda: None, version="1")
    groups = {"C+, north": 0.1, "C#, north": 0.2, "Größe": 0.3}
    progress = SimpleNamespace(history=[{"epoch": 1, "step": 6, "groups": groups}], step_of_epoch=2)
    run = SimpleNamespace(
        loggers={"mlflow": None},
        opened={"mlflow": logger},
        fabric=SimpleNamespace(is_global_zero=True),
        folder=tmp_path,
        progress=progress,
    )
    watching.log_epochs(run)  # type: ignore[arg-type]
    named = {"groups/C_2B_ north": 0.1, "groups/C_23_ north": 0.2, "groups/Gr_C3_B6_C3_9Fe": 0.3}
    assert logged == {"epoch": 1, **named}


def test_missing_packages_and_unknown_names(
    table: Path, here: Path, settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = train(table, here / "out", "--logger", "wandb")
    assert found.exit_code == 1 and found.stderr == "--logger wandb needs wandb: pip install wandb\n"
    found = train(table, here / "out", "--logger", "csv,comet")
    assert found.exit_code == 1 and "must be among tensorboard, csv, wandb, mlflow, got 'comet'" in found.stderr
    with pytest.raises(ValueError, match="loggers must be among tensorboard, csv, wandb, mlflow, got 'json'"):
        run_training(settings_of(), here / "out", fabric, loggers=["json"])  # type: ignore[list-item]
    assert not (here / "out").exists()
