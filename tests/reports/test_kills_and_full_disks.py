"""Reports 32 and 33: killed workers, Ctrl-C with workers, full disks, and what killed commands leave."""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest
from small_run import make_pictures, train
from torch.utils.data import Dataset

from aimwrap import AIM, _files
from aimwrap._files import replacing, replacing_together
from aimwrap.cli.outcomes import exit_on_error, typer
from aimwrap.data.release import ImageLoader
from aimwrap.export import export_program, formats

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads


class Signalled(Dataset[int]):
    """Numbers; the process that reads one sends itself a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.number)
        return index

    def __len__(self) -> int:
        return 2


@forks
def test_a_killed_worker_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    """70 to 110 lines of traceback, from wherever the process was."""
    with pytest.raises(typer.Exit) as caught, exit_on_error(OSError, as_json=False):
        # forked, since a fork server (Python 3.14) may take longer to start a worker than a second
        list(ImageLoader(Signalled(signal.SIGKILL), num_workers=1, timeout=1, multiprocessing_context="fork"))
    assert caught.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.startswith("a process that reads images ended early (DataLoader worker (pid") and said.count("\n") == 1


@forks
def test_workers_leave_ctrl_c_to_the_process() -> None:
    """Exit code 1 and "DataLoader worker exited unexpectedly" for 130: they died of it, and it met their death."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)
    assert [int(batch) for batch in ImageLoader(Signalled(signal.SIGINT), num_workers=1)] == [0, 1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)) == handlers


def test_a_full_disk_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ "[Errno 28] No space left on device", and nothing of where; safetensors has an error of its own for it."""
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")):
        with pytest.raises(typer.Exit), exit_on_error(OSError, as_json=False), replacing(tmp_path / "a"):
            raise error
        assert capsys.readouterr().err == f"{tmp_path / 'a'}: the disk is full; make room\n"
    assert not list(tmp_path.iterdir())


def test_an_export_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own writer ended the process, and the message advised a newer torch."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    preprocessing = {"image_size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(formats, "_attempt", full)
    with pytest.raises(OSError, match="the disk is full") as caught:
        export_program(AIM("test_resnet", num_classes=2).eval(), tmp_path / "a.pt2", preprocessing=preprocessing)
    assert caught.value.filename == str(tmp_path / "a.pt2") and not list(tmp_path.iterdir())


def test_files_that_belong_together_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new config was there while the weights were still on their way to the disk."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("old")
    sync, synced = _files._sync, []

    def failing(path: Path) -> None:
        synced.append(path)
        if len(synced) == 2:
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input"):
        patch.setattr(_files, "_sync", failing)
        with replacing_together(*paths) as drafts:
            for draft in drafts:
                draft.write_text("new")
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert sorted(tmp_path.iterdir()) == paths


def test_a_kill_between_the_files_of_a_set(tmp_path: Path) -> None:
    """A report's page was the new run's and its numbers the old one's, as were a model's weights and its card."""
    paths, seen = [tmp_path / name for name in ("page", "numbers", "card")], set()
    for last in range(1, 14):
        for path in paths:
            path.write_text("old")
        process = os.fork()
        if process == 0:
            changes: list[str] = []

            def kill(event: str, arguments: object, last: int = last, changes: list[str] = changes) -> None:
                if event in ("os.rename", "os.remove"):
                    changes.append(event)
                    if len(changes) == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            with replacing_together(*paths) as drafts:
                for draft in drafts:
                    draft.write_text("new")
            os._exit(0)
        os.waitpid(process, 0)
        seen.add("+".join(path.read_text() if path.exists() else "none" for path in paths))
    assert {"old+old+old", "new+new+new"} < seen
    assert not [together for together in seen if "old" in together and "new" in together]


def test_a_finished_run_leaves_no_lock_of_a_killed_one(tmp_path: Path) -> None:
    """Killed after its result was written, it left them, and the same command again returned before it looked."""
    root, out = make_pictures(tmp_path / "a"), tmp_path / "out"
    first = train(root, out)
    (out / "checkpoints" / "lock-0").touch()
    (out / ".unfinished-0123456789abcdef").touch()
    assert train(root, out) == first
    assert not [*out.glob(".*"), *out.glob("checkpoints/lock-*")]


def test_a_continued_run_removes_old_checkpoints(tmp_path: Path) -> None:
    """Killed between its last checkpoint and the removal of an old one, it had nothing more to save, and kept three."""
    root, out = make_pictures(tmp_path / "a"), tmp_path / "out"
    train(root, out, epochs=3)
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    (out / "result.json").unlink()
    for name in ("step-000000001.safetensors", "best-epoch-0000.safetensors"):
        (out / "checkpoints" / name).write_bytes((out / "checkpoints" / kept[0]).read_bytes())
    train(root, out, epochs=3)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == kept


def test_the_next_command_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """And leaves what is of another file, which may be in the middle of its writing."""
    for name in ("a.html", "b.html"):
        process = os.fork()
        if process == 0:
            with replacing(tmp_path / name) as draft:
                draft.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(process, 0)
    left = set(tmp_path.iterdir())
    with replacing(tmp_path / "a.html") as draft:
        draft.write_text("whole")
    there = set(tmp_path.iterdir())
    assert len(left) == 4 and len(there & left) == 2 and there - left == {tmp_path / "a.html"}
