"""Built sets: the same bytes however they were built, also after an interruption; other builds are refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder_sources import Made, contents, save, table

from aimwrap._files import locked
from aimwrap.data import Built
from aimwrap.data.builder import InPlace, Placed, building, waterbirds

forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads


@pytest.fixture
def forked() -> Iterator[None]:
    """Workers that see what a test has replaced; those of a fork server (Python 3.14) do not."""
    before = get_start_method(allow_none=True)
    set_start_method("fork", force=True)
    yield
    set_start_method(before, force=True)


def test_two_builds_are_the_same_byte_for_byte(made: Made, built: Path, tmp_path: Path) -> None:
    made.build(tmp_path / "again", file_format="png")
    assert contents(tmp_path / "again") == contents(built)


@forks
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(made: Made, built: Path, tmp_path: Path, workers: int) -> None:
    made.build(tmp_path / "again", file_format="png", workers=workers)
    assert contents(tmp_path / "again") == contents(built)


@forks
def test_two_builds_do_not_write_into_one_folder(made: Made, tmp_path: Path) -> None:
    """They wrote into one folder together, and each removed what the other had half written."""
    out = tmp_path / "out"
    out.mkdir()
    (ready, held), (end, let) = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        with locked(out / building.LOCK):
            os.write(held, b"x")
            os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(BlockingIOError, match=rf"process {process} on .* is writing .*out: wait for it"):
        made.build(out)
    os.write(let, b"x")
    os.waitpid(process, 0)
    assert not list(out.iterdir())


def test_seeds_draw_other_splits_and_other_images(made: Made, built: Path, tmp_path: Path) -> None:
    made.build(tmp_path / "other", file_format="png", seed=1)
    assert table(tmp_path / "other") != table(built)
    first, other = table(built), table(tmp_path / "other")
    train = [{row["cutout_filename"] for row in rows if row["split"] == "0"} for rows in (first, other)]
    assert train[0] != train[1]


def test_an_image_depends_on_seed_split_and_number_alone(made: Made, built: Path, tmp_path: Path) -> None:
    """Of which a resumed build makes use: here every fifth file is lost."""
    made.build(tmp_path / "again", file_format="png")
    lost = sorted((tmp_path / "again").rglob("*.png"))[::5]
    for path in lost:
        path.unlink()
    (tmp_path / "again" / "metadata.csv").unlink()
    made.build(tmp_path / "again", file_format="png")
    assert contents(tmp_path / "again") == contents(built)


def _build_and_be_killed(made: Made, out: Path, workers: int, after: int) -> None:
    """Kill the build, workers or not, in the midst of its n-th file: the manifest, then masks and images in turn."""
    write, parent, written = Path.write_bytes, os.getpid(), []

    def dying(path: Path, content: bytes) -> int:
        if parent not in (os.getpid(), os.getppid()):
            os._exit(1)  # another worker was first
        written.append(path)
        if len(written) < after:
            return write(path, content)
        write(path, content[: len(content) // 2])
        os.kill(parent, signal.SIGKILL)
        os._exit(1)

    Path.write_bytes = dying
    made.build(out, file_format="png", workers=workers)


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_build_goes_on_and_ends_byte_identical(made: Made, built: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "killed"
    process = get_context("fork").Process(target=_build_and_be_killed, args=(made, out, workers, 11 if workers else 21))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("[cd]*/*.png")}
    assert 5 < len(done) < len(table(built)) - 5
    assert not (out / "metadata.csv").exists()
    with pytest.raises(FileNotFoundError, match="is not complete"):
        Built(out)
    made.build(out, file_format="png")
    assert contents(out) == contents(built) and not (out / building.PARTIAL).exists()
    if workers == 0:  # orphaned workers may write what they were at once more
        assert {path: path.stat().st_mtime_ns for path in done} == done  # what was there was kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1}, "seed: there 0, now 1"),
        ({"tyings": waterbirds(0.8)}, "tyings train tie: there 0.9, now 0.8"),
        ({"style": Placed(image_size=40)}, "style Placed image_size: there 32, now 40"),
        ({"style": InPlace()}, "style Placed image_size"),
        ({"file_format": "jpg"}, "file_format: there 'png', now 'jpg'"),
        ({"places": ["forest", "beach"]}, "places: there"),
    ],
)
def test_a_folder_of_another_build_is_refused(made: Made, built: Path, arguments: dict[str, Any], message: str) -> None:
    before = contents(built)
    with pytest.raises(
        FileExistsError, match=rf"(?s)was built with other arguments:.*{message}.*Build into another folder"
    ):
        made.build(built, **{"file_format": "png", **arguments})
    assert contents(built) == before


def test_another_version_of_pillow_does_not_go_on(made: Made, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.__version__", "9.9.9")
    with pytest.raises(FileExistsError, match=r"made_with Pillow: there .*, now '9\.9\.9'"):
        made.build(built, file_format="png")


def test_other_sources_do_not_go_on(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=20, backgrounds=20)
    made.build(tmp_path / "out")
    (tmp_path / "cutouts" / "cat" / "cat03.png").unlink()
    with pytest.raises(FileExistsError, match="sources: there"):
        made.build(tmp_path / "out")


def test_a_folder_with_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a folder of a build"):
        made.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is not a folder of a build"):
        made.build(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "build.json").write_text("not JSON")
    with pytest.raises(FileExistsError, match="is not the manifest of a build"):
        made.build(tmp_path / "other")


def test_unreadable_sources_are_all_named_and_the_rest_is_built(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=10, backgrounds=12)
    whole = {path: path.read_bytes() for path in sorted((tmp_path / "cutouts" / "dog").iterdir())[:2]}
    for path, content in whole.items():
        path.write_bytes(content[:60])
    transparent = tmp_path / "cutouts" / "cat" / "cat00.png"
    whole[transparent] = transparent.read_bytes()
    save(transparent, np.zeros((20, 20, 4)))
    opaque = tmp_path / "cutouts" / "cat" / "cat01.png"
    whole[opaque] = opaque.read_bytes()
    save(opaque, np.zeros((20, 20, 3)))
    keep = waterbirds(1.0, keep_label_shares=True)
    with pytest.raises(ValueError, match=r"images could not be made, and metadata.csv was not written") as raised:
        made.build(tmp_path / "out", keep, val_share=0.0, test_share=0.2)
    message = str(raised.value)
    assert (
        "4 of 20" in message and "not transparent, got none in" in message and "an alpha channel or a mask" in message
    )
    assert all(path.name in message for path in whole)
    assert not (tmp_path / "out" / "metadata.csv").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    assert len(made.build(tmp_path / "out", keep, val_share=0.0, test_share=0.2).records) == 20


@forks
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_says_so_and_the_build_goes_on_with_room(
    made: Made, built: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_bytes, []

    def until_full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) > 9:
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(OSError, match=r"cannot be written to: .*No space left.*Make room") as caught:
            made.build(tmp_path / "out", workers=workers, file_format="png")
    assert "Traceback" not in str(caught.value)
    made.build(tmp_path / "out", file_format="png")
    assert contents(tmp_path / "out") == contents(built)
