"""Report 31: of two processes that wrote into one folder, the settings were one's and the model the other's."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_run import make_pictures, train

from aimwrap import _files
from aimwrap._files import locked, replacing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")


def holding(path: Path) -> tuple[int, int]:
    """Another process that holds the file once this returns, and what lets it end."""
    (ready, held), (end, let) = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        with locked(path):
            os.write(held, b"x")
            os.read(end, 1)
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    return process, let


def test_the_other_process_is_named(tmp_path: Path) -> None:
    """And one that was killed holds nothing."""
    root, lock = make_pictures(tmp_path / "a"), tmp_path / "out" / "checkpoints" / "lock-0"
    lock.parent.mkdir(parents=True)
    process, _ = holding(lock)
    with pytest.raises(
        BlockingIOError, match=rf"process {process} on .*, since 20.*, is writing .*name another folder"
    ):
        train(root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"]
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert train(root, tmp_path / "out").epoch == 1


def test_a_process_forked_by_the_first_holds_nothing(tmp_path: Path) -> None:
    """Such as a loader's worker, which outlives a killed run for a while."""
    with locked(tmp_path / "lock"):
        pass
    process, let = holding(tmp_path / "lock")
    os.write(let, b"x")
    os.waitpid(process, 0)
    with locked(tmp_path / "lock"):
        assert f"{os.getpid()} on " in (tmp_path / "lock").read_text()


def test_a_finished_run_needs_no_lock(tmp_path: Path) -> None:
    root = make_pictures(tmp_path / "a")
    first = train(root, tmp_path / "out")
    process, let = holding(tmp_path / "out" / "checkpoints" / "lock-0")
    assert train(root, tmp_path / "out") == first
    os.write(let, b"x")
    os.waitpid(process, 0)


def test_windows_locks_by_its_own_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no ``fcntl``, and nothing was locked there, without a word."""
    held = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        if held:
            raise PermissionError(errno.EACCES, "Permission denied")
        held.append((at > 1000, mode, count))

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    message = rf"process {os.getpid()} on .* is writing"
    with locked(tmp_path / "lock"):
        assert held == [(True, 2, 1)] and (tmp_path / "lock").stat().st_size < 200
        _files._HELD.clear()  # as in another process
        with pytest.raises(BlockingIOError, match=message), locked(tmp_path / "lock"):
            pass
    assert not (tmp_path / "lock").exists()


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    """A second one removed the first one's draft, since the system's locks are of processes."""

    def write(number: int) -> None:
        for _ in range(20):
            with replacing(tmp_path / "x") as draft:
                draft.write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == [None] * 4
    assert os.listdir(tmp_path) == ["x"]


def test_a_second_try_in_one_process_leaves_the_lock(tmp_path: Path) -> None:
    """Closing any file of a process ends its lock on that file."""
    with locked(tmp_path / "lock"):
        with pytest.raises(BlockingIOError, match="is writing"), locked(tmp_path / "lock"):
            pass
        code = "import pathlib, sys; from aimwrap import _files; print(_files._taken(pathlib.Path(sys.argv[1])))"
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"
