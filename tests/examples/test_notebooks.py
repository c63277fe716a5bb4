"""The notebooks run from top to bottom, have no outputs in their files, use public names, and are documented."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import EXAMPLES

PAGE = (EXAMPLES.parent / "docs" / "examples.md").read_text()
ALL = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
PUBLIC = {f"aimwrap{part}" for part in ("", ".data", ".demo", ".metrics", ".plot")}
FIGURES = {"quick_start": 2, "repair_a_model": 1, "your_own_data": 4}
pytestmark = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)


def code_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(re.sub(r"(?m)^%.*", "", cell.source) for cell in cells if cell.cell_type == "code")


def test_the_file_has_no_outputs_and_each_idea_has_words(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ") and "pip install" in notebook.cells[0].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None and len(cell.source) < 1500 for cell in code)
    assert len(notebook.cells) - len(code) >= len(code)
    assert f"`{path.name}`" in PAGE


def test_it_imports_what_is_public(path: Path) -> None:
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aimwrap":
            assert node.module in PUBLIC
            module = __import__(node.module, fromlist=["__name__"])
            assert {name.name for name in node.names} <= {name for name in dir(module) if name[0] != "_"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(zmq|jupyter_client|nbclient|jupyter_core)")
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[path.stem]
    text = "".join(output.get("text", "") for output in outputs)
    if path.stem == "quick_start":
        assert "ok     features outside the mask of stage 2 move no logit" in text and "fail" not in text
        assert (tmp_path / "digits-model" / "model.safetensors").is_file()
    if path.stem == "repair_a_model":
        worst = dict(re.findall(r"^(\S.*?) +accuracy \S+, worst group (\S+),", text, re.MULTILINE))
        assert float(worst["as it was"]) < 0.3 and float(worst["new last layer, masks held open"]) < 0.3
        assert float(worst["AIM"]) > 0.3 and float(worst["a second look"]) > 0.3
    if path.stem == "your_own_data":
        assert len(list((tmp_path / "masks" / "overlay").rglob("*.jpg"))) == 40
