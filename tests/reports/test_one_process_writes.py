"""Report 31: of two processes that wrote into one folder, the settings were one's and the model the other's."""

import errno
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_run import make_pictures, train

from aimwrap._files import locked

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
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError, match=message), locked(tmp_path / "lock"):
        pass
    assert held == [(True, 2, 1)] and (tmp_path / "lock").stat().st_size < 200
