"""Every code block of every page runs, from top to bottom, as a reader would paste it; or says why it does not.

A block that cannot run here has a line above it, `<!-- not run: the reason -->`. Commands of other programs are not run
for the reasons in `OTHERS`; everything else in a block has to work, in a folder with miniatures of all data sets.
"""

import ast
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from page_blocks import ROOT, Block, blocks_of, pages
from page_folder import make_everything
from typer.testing import CliRunner

from aimwrap.cli import app

Names = dict[str, Any]

# What is not run, by the words that a command begins with, and why.
OTHERS = {
    ("accelerate", "launch"): "tests/examples runs the example",
    ("jupyter", "lab"): "tests/examples runs the notebooks",
    ("make",): "CI runs it",
    ("pip", "install"): "installs",
    ("python", "-m", "venv"): "makes an environment",
    ("python", "benchmarks/"): "takes minutes to hours; what it calls has tests of its own",
    ("python", "examples/"): "tests/examples and tests/data run it",
    ("source", ".venv/bin/activate"): "enters an environment",
    ("srun",): "needs SLURM",
    ("torchrun",): "needs several GPUs; tests/examples and tests/train run two processes",
}
# Nothing is downloaded, no worker processes are started, and little is trained. The last of equal options counts.
SMALLER = {
    "convnext_tiny": "test_convnext",
    "pretrained=True": "pretrained=False",
    "num_workers=2": "num_workers=0",
    "range(20)": "range(1)",
    'backbone="resnet18", epochs=10': 'backbone="test_convnext", pretrained=False, image_size=64, epochs=1',
}
SHORT_RUN = (
    "--no-pretrained --image-size 64 --epochs 1 --warmup-epochs 0 --batch-size 8 --seeds 1 --workers 0 --devices 1 -q"
)
ADDED = {
    ("data", "build"): "--workers 0 -q",
    ("data", "digits"): "--num-images 32 --image-size 64 --workers 0 -q",
    ("data", "doctor"): "--subset",  # miniatures have other counts
    ("masks",): "--workers 0 -q",
    ("report",): "--workers 0 --verify-images 8 -q",
    ("train",): SHORT_RUN,
}
# More than a few seconds.
SLOW = {
    *("docs/attribution.md", "docs/backbones.md", "docs/figures.md"),
    *("docs/sharing.md", "docs/transformers.md", "docs/verify.md"),
}
SLOW_COMMANDS = {
    "data",
    "demo",
    "export",
    "inspect",
    "masks",
    "report",
    "train",
}  # and with these, which need data made first
LANGUAGES = {"python", "sh", "text", "bibtex"}


def cases() -> list[Any]:
    with_code = [page for page in pages() if any(block.language in ("python", "sh") for block in blocks_of(page))]
    return [pytest.param(page, marks=[pytest.mark.slow] if is_slow(page) else []) for page in with_code]


def is_slow(page: str) -> bool:
    commands = [words for block in blocks_of(page) if block.language == "sh" for words in block.commands]
    return page in SLOW or any(is_here(words) and words[1] in SLOW_COMMANDS for words in commands)


def is_other(words: list[str]) -> bool:
    return any(all(map(str.startswith, words, start)) and len(words) >= len(start) for start in OTHERS)


def is_here(words: list[str]) -> bool:
    return words[0] == "aimwrap"


def run_command(words: list[str]) -> None:
    options = list(words[1:])
    for start, added in ADDED.items():
        if tuple(options[: len(start)]) == start and "--presets" not in options:
            options += added.split()
            if start == ("train",) and not any(":" in word for word in options):  # of one's own, with its weights
                options += ["--backbone", "test_convnext"]
    result = CliRunner().invoke(app, [SMALLER.get(word, word) for word in options], catch_exceptions=False)
    assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}"


def run_python(block: Block, names: Names) -> None:
    code = block.code
    for old, new in SMALLER.items():
        code = code.replace(old, new)
    exec(compile(code, block.where, "exec"), names)


def run_page(page: str) -> list[Names]:
    """Everything on the page in its order; the names after each block of Python."""
    names: Names = {"__name__": "__main__"}
    after = []
    for block in blocks_of(page):
        if block.reason or block.included:
            continue
        if block.language == "python":
            run_python(block, names)
            after.append(dict(names))
        for words in block.commands if block.language == "sh" else ():
            if is_here(words):
                run_command(words)
    return after


def check_attribution(after: list[Names]) -> None:
    assert after[0]["cam"].shape == after[1]["cam"].shape == (4, 4, 4) and after[0]["pixels"].shape == (4, 64, 64)
    assert [tuple(after[block]["heatmaps"].shape) for block in (3, 4, 5)] == [(4, 64, 64), (4, 4, 4), (4, 1, 4, 4)]
    assert 0 < after[-1]["share"] < 1.5


def check_figures(after: list[Names]) -> None:
    figures = {id(names["figure"]) for names in after if "figure" in names}
    assert len(figures) == 7 and Path("masks.png").stat().st_size > 10_000


def check_metrics(after: list[Names]) -> None:
    assert after[0]["score"].item() == pytest.approx(0.8)
    assert after[0]["chance"].item() == 0.25
    assert after[0]["corrected"].item() == pytest.approx(0.55 / 0.75)
    assert after[2]["free"].item() == pytest.approx(0.49, abs=0.005)
    torch.testing.assert_close(*after[2]["same"])
    assert list(after[3]["scores"]) == ["energy_pointing", "chance", "area_corrected", "zero_energy", "empty_object"]
    assert after[3]["scores"]["zero_energy"].item() == 1
    assert after[3]["values"].shape == (5,)
    assert after[4]["hit"].tolist() == [1.0]
    assert list(after[5]["scores"]) == ["precision", "recall", "iou", "empty_mask", "empty_object"]
    assert after[6]["scores"]["landbird on water"].item() == after[6]["scores"]["worst_group"].item() == 0.0


def check_explanation(after: list[Names]) -> None:
    assert after[1]["explanation"].contributions.shape == (8, 2, 6, 6)
    assert after[1]["logits"].shape == (8, 2)
    assert after[2]["heatmaps"].shape == (8, 6, 6)


def check_verify(after: list[Names]) -> None:
    assert after[1]["found"].passed and "ok     evaluation is repeatable" in str(after[1]["found"])
    assert len(after[2]["found"].survival) == 15


def check_evaluate(after: list[Names]) -> None:
    assert after[1]["found"].passed and len(after[2]["curve"].points) == 4
    assert 0 < after[4]["by_chance"] < 1 and 0 <= after[4]["agreement"] <= 1


def check_choose_tau(after: list[Names]) -> None:
    assert (after[0]["masks"][2].sum((1, 2, 3)) == 4).all()  # of 36


def check_data(after: list[Names]) -> None:
    assert after[0]["batch"].object_mask is not None
    assert after[1]["birds"].groups is not None and after[1]["folder"][0].object_mask is not None


def check_report(after: list[Names]) -> None:
    assert "photos, split test: 8 images" in str(after[-1]["report"])
    assert Path("report.html").is_file() and Path("compared.json").is_file()


def check_start(after: list[Names]) -> None:
    assert after[0]["model"].class_names == ("0", "1") and Path("masks.png").stat().st_size > 10_000
    assert after[3]["masks"][2].shape == (1, 1, 4, 4)


def check_targets(after: list[Names]) -> None:
    assert after[1]["probabilities"].shape == (8, 5)
    assert len(after[3]["heatmaps"]) == after[1]["labels"].sum() and after[3]["heatmaps"].shape[1:] == (6, 6)
    assert [point.asked for point in after[5]["curve"].points] == [0.1, 0.5] and after[6]["by_group"].shape == (2,)
    assert torch.equal(after[8]["for_dog"], -after[8]["for_cat"])
    for block in (9, 10):
        assert torch.allclose(after[block]["shares"].sum(1), torch.ones(8))


CHECKS: dict[str, Callable[[list[Names]], None]] = {  # what the pages' comments say comes out
    "docs/attribution.md": check_attribution,
    "docs/choose-tau.md": check_choose_tau,
    "docs/data.md": check_data,
    "docs/evaluate.md": check_evaluate,
    "docs/explanation.md": check_explanation,
    "docs/figures.md": check_figures,
    "docs/metrics.md": check_metrics,
    "docs/report.md": check_report,
    "docs/start.md": check_start,
    "docs/targets.md": check_targets,
    "docs/verify.md": check_verify,
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, and copied for each page that gives commands."""
    folder = tmp_path_factory.mktemp("where a reader stands")
    make_everything(folder)
    return folder


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # which `inspect` and `train` put the folder on
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # captum, Quantus and others warn as they like, and so do masks of one epoch
@pytest.mark.parametrize("page", cases())
def test_a_page_runs(page: str, empty_folder: Path, request: pytest.FixtureRequest) -> None:
    if any(is_here(words) for block in blocks_of(page) if block.language == "sh" for words in block.commands):
        shutil.copytree(request.getfixturevalue("everything"), empty_folder, dirs_exist_ok=True)
    after = run_page(page)
    if page in CHECKS:
        CHECKS[page](after)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.where}: one of {sorted(LANGUAGES)} goes behind the fence"
        if block.reason is not None:
            assert block.language in ("python", "sh") and len(block.reason.split()) >= 3, block.where
        for words in block.commands if block.language == "sh" and block.reason is None else ():
            assert is_here(words) or is_other(words), f"{block.where}: `{' '.join(words)}` is neither run nor listed"


def options_parse(words: list[str]) -> None:
    """Fails where a command or an option does not exist, or a value is none of its kind; runs nothing."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("page", pages())
def test_what_is_not_run_is_no_nonsense(page: str) -> None:
    """It is Python, the options are ours, and the scripts exist."""
    for block in blocks_of(page):
        if block.language == "python" and block.included is None:
            ast.parse(block.code)
        if block.language != "sh":
            continue
        for words in block.commands:
            for word in words:
                if re.match(r"(examples|benchmarks)/.*\.py$", word):
                    assert (ROOT / word).is_file(), f"{block.where}: {word}"
            if "aimwrap" in words and words[0] != "pip":
                options_parse(words[words.index("aimwrap") + 1 :])


def test_files_that_are_shown_exist_and_are_run() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in pages():
        for block in blocks_of(page):
            if block.included is None:
                continue
            path = ROOT / block.included
            assert path.is_file(), block.where
            assert "aimwrap" in path.parts or path.name in tests, f"{block.where}: no test names {path.name}"


def test_lists_have_nothing_that_no_page_needs() -> None:
    blocks = [block for page in pages() for block in blocks_of(page)]
    commands = [words for block in blocks if block.language == "sh" for words in block.commands]
    for start in OTHERS:
        assert any(all(map(str.startswith, words, start)) for words in commands), start
    for old in SMALLER:
        assert any(old in block.code for block in blocks), old
    assert SLOW | set(CHECKS) <= set(pages())


def test_marks_and_commands_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
<!-- not run: it takes a week -->
```sh
aimwrap train a b \\
    --epochs 3  # a comment
```

```python title="x"
1 / 0
```
??? example

    ```python
    --8<-- "examples/vit.py"
    ```
"""
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr("page_blocks.ROOT", tmp_path)
    marked, python, shown = blocks_of("page.md")
    assert marked.reason == "it takes a week" and marked.commands == [["aimwrap", "train", "a", "b", "--epochs", "3"]]
    assert python.reason is None and python.where == "page.md:8" and shown.included == "examples/vit.py"
    with pytest.raises(ZeroDivisionError), warnings.catch_warnings():
        run_python(python, {})
    assert not is_other(["python", "train.py"]) and not is_other(["python"]) and is_other(["make", "docs"])
    with pytest.raises(Exception, match="--epoch"):
        options_parse(["train", "built", "digits", "--epoch", "3"])
