"""Report 36: checkpoints, settings and results, changed by hand or removed, ended in tracebacks or in silence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import make_pictures, train

from aimwrap.train import CheckpointError, RunFolderError
from aimwrap.train.checkpoints import Checkpoint, checkpoints_in, read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(make_pictures(folder / "a"), folder / "out")
    return folder


@pytest.fixture
def done(trained: Path, tmp_path: Path) -> Path:
    """A copy of a folder with pictures in ``a`` and a run on them in ``out``."""
    return Path(shutil.copytree(trained, tmp_path / "done"))


NESTED = "[" * 100_000
RESULTS = ["", "{", "[]", "5", "{}", '{"variant": 1}', NESTED]


@pytest.mark.parametrize("text", RESULTS, ids=range(len(RESULTS)))
@pytest.mark.parametrize("name", ["result.json", "settings.json"])
def test_a_file_that_is_no_result_or_no_settings_is_named(done: Path, name: str, text: str) -> None:
    (done / "out" / name).write_text(text)
    with pytest.raises(RunFolderError, match=name):
        train(done / "a", done / "out")


@pytest.mark.parametrize(
    "change", [{"scores": {"average": "high"}}, {"scores": []}, {"selection": "best"}, {"more": 1}]
)
def test_a_changed_result_is_named(done: Path, change: dict[str, Any]) -> None:
    path = done / "out" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunFolderError, match=r"result.json was changed by hand.*remove it, and give the command again"):
        train(done / "a", done / "out")
    path.unlink()
    train(done / "a", done / "out")


def rewrite(done: Path, **change: Any) -> Path:
    """Change the newest checkpoint's state, with the right checksum, as if the run had not ended."""
    (done / "out" / "result.json").unlink()
    path = checkpoints_in(done / "out" / "checkpoints")[-1]
    checkpoint = read_checkpoint(path)
    state = {name: value for name, value in {**checkpoint.state, **change}.items() if value != "gone"}
    write_checkpoint(path, Checkpoint(checkpoint.tensors, state))
    return path


@pytest.mark.parametrize(
    "change",
    [{"variant": "gone"}, {"settings": "gone"}, {"settings": [1]}, {"progress": 5}, {"progress": {}}],
    ids=str,
)
def test_a_changed_checkpoint_is_named(done: Path, change: dict[str, Any]) -> None:
    path = rewrite(done, **change)
    with pytest.raises(CheckpointError, match=rf"{path.name} does not fit this run"):
        train(done / "a", done / "out")


def test_a_checkpoint_without_its_tensors_is_named(done: Path) -> None:
    path = rewrite(done)
    write_checkpoint(path, Checkpoint({}, read_checkpoint(path).state))
    with pytest.raises(CheckpointError, match=rf"{path.name} does not fit this run \(RuntimeError: Error.* in loading"):
        train(done / "a", done / "out")


def test_the_settings_in_a_checkpoint_count(done: Path) -> None:
    """Also where their file was removed, or changed to those of another run."""
    (done / "out" / "result.json").unlink()
    path = done / "out" / "settings.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "settings": {**kept["settings"], "lr": 0.1}}))
    with pytest.raises(CheckpointError, match="is of a run with other settings: lr"):
        train(done / "a", done / "out", lr=0.1)


def test_the_same_command_goes_on_without_settings_json(done: Path) -> None:
    before = json.loads((done / "out" / "result.json").read_text())
    (done / "out" / "settings.json").unlink()
    with pytest.raises(CheckpointError, match="is of a run with other settings: lr"):
        train(done / "a", done / "out", lr=0.1)
    (done / "out" / "settings.json").unlink()
    assert train(done / "a", done / "out")._asdict() == before | {"folder": str(done / "out")}
    assert (done / "out" / "settings.json").is_file()


def test_a_folder_that_is_removed_in_mid_run_ends_it(tmp_path: Path) -> None:
    root, out = make_pictures(tmp_path / "a"), tmp_path / "out"

    def remove(line: dict[str, Any], seconds: float) -> None:
        if line["epoch"] == 1:
            shutil.rmtree(out)

    for epochs in (1, 2):  # after the last epoch, and before it
        with pytest.raises((RunFolderError, CheckpointError, OSError), match="removed in mid-run"):
            train(root, out, epochs=epochs, selection="last", report=remove)
        assert not out.exists()
