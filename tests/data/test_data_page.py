"""Every data set that the documentation names is trained on, in miniature; tests/docs runs the other commands."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from page_sets import make_page_sets

from aimwrap import AIM
from aimwrap.cli import app
from aimwrap.data.doctor import examine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()
EXAMPLE = ROOT / "examples" / "train_on_dataset.py"
SMALLER = {
    '"convnext_tiny", pretrained=True': '"test_resnet", pretrained_cfg_overlay={"input_size": (3, 64, 64)}',
    "EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1",
    "num_workers=2": "num_workers=0",
}


def lines_of(start: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith(start)]


FIRST, *OTHERS = lines_of("python examples/")


@pytest.fixture(scope="module")
def all_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page_sets(tmp_path_factory.mktemp("page")).parent


@pytest.fixture
def in_a_folder_with_all_sets(all_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(all_sets, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # two epochs on nearly nothing
@pytest.mark.parametrize("line", ["built", FIRST, *(pytest.param(line, marks=pytest.mark.slow) for line in OTHERS)])
def test_every_set_is_trained_on(
    line: str, in_a_folder_with_all_sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if line == "built":
        app(shlex.split("data digits data/digits --num-images 8 --image-size 32 --workers 0 -q"), standalone_mode=False)
        line = "python examples/train_on_dataset.py built data/digits"
    source = EXAMPLE.read_text()
    for old, new in SMALLER.items():
        assert old in source
        source = source.replace(old, new)
    script = in_a_folder_with_all_sets / "example.py"
    script.write_text(source)
    name, *others = shlex.split(line)[2:]
    monkeypatch.setattr(sys, "argv", ["example.py", name, *others])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"average [01]\.\d+, worst group [01]\.\d+", printed)
    assert ("energy pointing" in printed) == (name not in ("imagewoof", "imagenet-100", "table"))
    saved = AIM.from_pretrained(f"aim-{name}")
    assert saved.class_names is not None and len(saved.class_names) == saved.classifier.out_features


def test_a_set_next_to_a_release_is_not_taken_for_it(in_a_folder_with_all_sets: Path) -> None:
    shutil.copytree("data/mine/train/cat", "data/plain/cat")
    assert examine("data/plain").kind == "folder"
    assert examine("data/CUB_fixed/train", cub="data/CUB_200_2011").kind == "traveling-birds"
    assert examine("data/CUB_200_2011/images").kind == "cub"


def test_every_set_has_both_commands() -> None:
    sections = [part for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:] if not part.startswith("Addresses")]
    assert len(sections) == 7
    for section in sections:
        assert "\naimwrap data doctor " in section and "\npython examples/train_on_dataset.py " in section
