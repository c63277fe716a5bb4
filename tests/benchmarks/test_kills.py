"""The benchmark of kills finds what a careless writer mixes, and nothing where files are replaced together."""

import os
import sys
import time
from pathlib import Path

import pytest

from aimwrap._files import replacing_together

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills"
if not KILLS.exists():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("it forks, and reads /proc", allow_module_level=True)
pytest.importorskip("typer")
sys.path.append(str(KILLS))
import kills  # noqa: E402

sys.path.remove(str(KILLS))


def careless(variant: str) -> None:
    folder = Path("careless")
    folder.mkdir(exist_ok=True)
    for name in ("x", "y"):
        (folder / f"{name}.new").write_text(variant)
        (folder / f"{name}.new").replace(folder / name)
        time.sleep(0.05)


def careful(variant: str) -> None:
    folder = Path("careful")
    folder.mkdir(exist_ok=True)
    with replacing_together(folder / "x", folder / "y") as drafts:
        for draft in drafts:
            draft.write_text(variant)
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads
@pytest.mark.parametrize(("run", "expected"), [(careless, True), (careful, False)])
def test_trials_find_mixed_files(run, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run.__name__
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(kills.COMMANDS, name, kills.Command(run, True, "y"))
    os.mkdir("temporary")
    undisturbed = kills.undisturbed_runs(name)
    outcomes = [kills.try_one(name, f"0-{name}-{number}", undisturbed) for number in range(16)]
    assert sum(one.kills for one in outcomes) >= 8
    assert any("mixed" in one.found for one in outcomes) == expected, [one.found for one in outcomes]
    assert expected or not any(one.found for one in outcomes), [one.found for one in outcomes]
