"""Issue 22: 500 hostile files; each is refused with its name, within 10 seconds and 2 GiB, and nothing is called."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hostile import KINDS, Outcome, Variant, try_all, with_hole

from aimwrap._files import locked, read_json
from aimwrap.backbones.create import check_size
from aimwrap.data.io import folders_below, open_image, read_csv
from aimwrap.sharing.files import read_weights
from aimwrap.train.run import Progress
from aimwrap.train.watching import kept_masks

ALL = 520


def chosen(variants: list[Variant], number: int) -> list[Variant]:
    """So many at random, the same each time, as evenly of each kind as there are some."""
    rng = random.Random(0)
    piles = {kind: [each for each in variants if each.kind == kind] for kind in KINDS}
    for pile in piles.values():
        rng.shuffle(pile)
    rounds = [pile[turn] for turn in range(len(variants)) for pile in piles.values() if turn < len(pile)]
    return rounds[:number]


def told(outcomes: list[Outcome]) -> str:
    return "\n".join(f"{one.variant.kind}, {one.variant.name:.60}: {one.wrong:.300}" for one in outcomes)


@pytest.mark.slow
@pytest.mark.rare  # it counts seconds, and trains in forked processes, which a busy machine may end
def test_500_hostile_files() -> None:
    found = list(try_all(1, lambda variants: chosen(variants, ALL)))
    assert len(found) == ALL
    assert not (wrong := [one for one in found if one.wrong]), told(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tau": 1, "tau": 2}', "a name twice"),  # the second one counted
        ("[" * 10**6, "nested too deep"),
        (f"[{'[],' * 10**6}0]", "over a million lists"),  # 10 seconds and 1.6 GB for 64 MiB of them
    ],
)
def test_json_that_no_program_writes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "x.json")


def test_a_header_of_weights_that_takes_a_minute(tmp_path: Path) -> None:
    """1.5 million empty tensors in 80 MB took 11 seconds and a gigabyte."""
    (tmp_path / "x.safetensors").write_bytes((2**26 + 1).to_bytes(8, "little"))
    with pytest.raises(ValueError, match=r"x\.safetensors cannot be read as a safetensors file \(its header has"):
        read_weights(tmp_path / "x.safetensors", None)


@pytest.mark.parametrize("content", [None, b"", b"not one"])
def test_kept_masks_are_named(content: bytes | None, tmp_path: Path) -> None:
    """A pipe in their place hung, and damaged ones were named by no error."""
    path = tmp_path / "masks" / "epoch-0001.safetensors"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"epoch-0001\.safetensors cannot be read"):
        kept_masks(tmp_path)


def test_a_line_without_an_end(tmp_path: Path) -> None:
    """A file with a hole of a terabyte was read as one line."""
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n")
    with_hole(path, 2**40)
    with pytest.raises(ValueError, match=r"x\.csv is not a table .* a line has over"):
        list(read_csv(path, ["a"]))


def test_a_picture_of_a_terabyte(tmp_path: Path) -> None:
    """Some decoders read all of a file before they look at it."""
    path = tmp_path / "x.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
    with_hole(path, 2**40)
    with pytest.raises(ValueError, match=r"x\.webp must be a file, .* or has over a gigabyte"):
        open_image(path)


def test_the_doctor_does_not_follow_links_to_folders_above(tmp_path: Path) -> None:
    """It walked through all of the disk."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "set" / "up").symlink_to("/")
    assert [*folders_below(tmp_path / "set")] == [tmp_path / "set", tmp_path / "set" / "a"]


def test_a_lock_that_is_a_link(tmp_path: Path) -> None:
    """The file that it leads to was emptied."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lock").symlink_to("mine")
    with locked(tmp_path / "lock"):
        assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "change", [{"epoch": "1"}, {"epoch": 2}, {"step": -1}, {"sums": [1]}, {"best": {"epoch": 9, "score": 0.5}}], ids=str
)
def test_a_progress_that_was_changed(change: dict[str, object]) -> None:
    """Some ended in the middle of the training, in the words of Python."""
    progress = Progress()
    progress.end_epoch({"epoch": 1, "mask_findings": []})
    state = json.loads(json.dumps(progress.state_dict()))
    Progress().load_state_dict(state, 0)
    with pytest.raises(ValueError, match="changed"):
        Progress().load_state_dict({**state, **change}, 0)


def test_tables_that_are_computed_before_they_are_counted() -> None:
    """The positions in a window of 300 x 300 take 65 GB, and only then are a buffer."""
    with pytest.raises(ValueError, match="far larger than its weights"):
        check_size("timm/swin_tiny_patch4_window7_224", {"window_size": 300, "img_size": 9600}, 2**27)
