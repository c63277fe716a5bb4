"""The benchmark of the paper's Table 1: it runs, goes on when killed, and reports what there is and what is not."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

TABLE_1, HERE = Path(__file__).parents[2] / "benchmarks" / "table_1", Path(__file__).parents[1]
if not TABLE_1.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(TABLE_1), str(HERE / "train"), str(HERE / "data"), *sys.path])
    import edge
    import figures
    import table_2
    import tables
    import tiny_nets
    from columns import PAPER, column_of
    from page_sets import make_page_sets
    from releases import make_cub, make_waterbirds, waterbirds_rows
    from rows import row_of, stages_from
    from runs import Cell, read_records
    from table_1 import main
    from tiny_set import make_tiny_set

# Below the skip, like the imports of the benchmark, since they are for it alone.
from aimwrap import AIM, AIMLoss  # noqa: E402
from aimwrap.cli import app  # noqa: E402
from aimwrap.data import Built, collate, eval_transform  # noqa: E402
from aimwrap.train import PlainClassifier, loop  # noqa: E402
from aimwrap.train.watching import kept_masks  # noqa: E402

TINY = ["--backbone", "tiny_nets:tiny", "--accelerator", "cpu", "--workers", "0"]
TINY += ["--set", "image_size=32", "epochs=1", "batch_size=8", "checkpoint_steps=1", "warmup_epochs=0", "lr=0.001"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as ``aimwrap data build`` would have written it."""
    folder = tmp_path_factory.mktemp("built")
    table = make_tiny_set(folder)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, row in enumerate(rows, start=1):
        split = ("train", "val", "test").index(row["split"])
        lines.append(f"{number},{row['image']},{row['label']},{split},{row['place']},")
        (folder / "segmentations").mkdir(exist_ok=True)
        (folder / row["mask"]).rename(folder / "segmentations" / row["image"])
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    (folder / "build.json").write_text(json.dumps({"classes": ["a", "b"], "places": ["c", "d"]}))
    return folder


class KilledError(BaseException):
    """Nothing in the benchmark catches it."""


def scores(out: Path) -> dict[str, Any]:
    return {str(Cell(*(r[name] for name in Cell._fields))): r["scores"] for r in read_records(out)}


@pytest.mark.parametrize("names", ["plain", pytest.param("plain,2-25", marks=pytest.mark.slow)])
def test_killed_and_given_again_it_is_the_same_table(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    rows = ["--data", "tiny", str(built), "--rows", names, "--seeds", "2", *TINY]
    assert main([*rows, "--out", str(tmp_path / "whole")]) == 0
    assert len(read_records(tmp_path / "whole")) == 2 * len(names.split(","))
    rate_factor, steps = loop.rate_factor, []

    def killing(*arguments: Any) -> float:
        steps.append(arguments[0])
        if len(steps) == 5:  # in the second run
            raise KilledError
        return rate_factor(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loop, "rate_factor", killing)
        main([*rows, "--out", str(tmp_path / "killed")])
    assert len(read_records(tmp_path / "killed")) == 1
    capsys.readouterr()
    assert main([*rows, "--out", str(tmp_path / "killed")]) == 0
    printed = capsys.readouterr().out
    assert "continuing after epoch 0, step 1" in printed and "tiny, tiny_nets:tiny, plain, seed 0\n" not in printed
    assert scores(tmp_path / "killed") == scores(tmp_path / "whole")
    for name in ("table_1.md", "table_1.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", None)  # nothing is left to do
        assert main([*rows, "--out", str(tmp_path / "killed")]) == 0
    capsys.readouterr()
    assert main([*rows, "--out", str(tmp_path / "killed"), "--preset", "dfr-base"]) == 1
    assert "was done with other settings: " in capsys.readouterr().err
    faster = ["lr=0.002" if word == "lr=0.001" else word for word in rows]
    assert main([*faster, "--out", str(tmp_path / "killed"), "--seeds", "7,8"]) == 1  # other seeds of the same row
    assert "seed 0 was done with other settings: lr was 0.001 and is 0.002" in capsys.readouterr().err


def record(column: str, row: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    given = {"average": 0.9, "worst_group": accuracy, "energy_pointing": 0.5, "energy_pointing_matched": 0.25} | more
    design = None if row == "plain" else "paper"
    cell = Cell(column, "convnext_tiny.fb_in1k", row, design, seed)._asdict()
    return {**cell, "scores": {**given, "chance": 0.125}, "selection": "last", "tested_on": "test"} | {
        "settings": {"epochs": 50}
    }


def line(text: str, column: str, begins: str) -> str:
    part = text.split(f"## {column}\n")[1].split("##")[0]
    return next(row for row in part.splitlines() if row.startswith(begins)).replace("\N{NO-BREAK SPACE}", " ")


def test_our_numbers_are_next_to_the_paper_s_and_missing_ones_are_named() -> None:
    records = [
        record("waterbirds-95", "plain", 0, 0.5),
        record("waterbirds-95", "plain", 1, 0.6),
        record("waterbirds-95", "2-25", 0, 0.75, energy_pointing=None, energy_pointing_matched=None),
        record("stamps-95", "plain", 1, 0.5),
    ]
    text = tables.write_tables(records)
    table = [
        "| convnext_tiny.fb_in1k, plain |  | 2 | 55.0 ± 7.1 | 81.6 ± 3.2 | 50.0 ± 0.0 | 68.3 ± 3.2 | 25.0 ± 0.0 | "
        "12.5 ± 0.0 |",
        "| convnext_tiny.fb_in1k, AIM [1, 35%] | paper |  |  | 90.7 ± 0.7 |  | 63.0 ± 1.2 |  |  |",
        "| convnext_tiny.fb_in1k, AIM [2, 25%] | paper | 1 | 75.0 | 92.7 ± 1.2 |  | 75.0 ± 6.0 |  | 12.5 |",
    ]
    for row in table:
        assert line(text, "Waterbirds 95%", row[: row.index(" |", 2)]) == row
    missing = line(text, "Waterbirds 95%", "Missing: ")
    assert "convnext_tiny.fb_in1k, AIM [1, 25%], design paper (no run)" in missing
    assert "convnext_tiny.fb_in1k, AIM [2, 25%], design paper (seed 1)" in missing
    assert "convnext_tiny.fb_in1k, plain (" not in missing
    assert (
        line(text, "ImageNet100", "| convnext_tiny.fb_in1k, plain")
        == "| convnext_tiny.fb_in1k, plain |  |  |  | 89.2 ± 0.1 |  | 91.4 ± 0.3 |  |  |"
    )
    assert line(text, "ImageNet100", "Missing: ") == "Missing: every run."
    assert (
        line(text, "stamps-95", "| convnext_tiny.fb_in1k, plain")
        == "| convnext_tiny.fb_in1k, plain |  | 1 | 50.0 | 50.0 | 25.0 | 12.5 |"
    )
    only = [record("hard-imagenet", "2-25", 0, 0.7, energy_pointing=None)]
    assert "EPG of convnext_tiny.fb_in1k, AIM [2, 25%], design paper (no object masks" in tables.write_tables(only)


def test_the_paper_s_table_is_complete() -> None:
    paper = tables.read_paper()
    assert len(paper) == 50 and {column for column, _, _ in paper} == {column.name for column in PAPER}
    assert paper["waterbirds-100", "plain", "accuracy"] == (39.6, 5.4)
    assert paper["traveling-birds", "2-35", "energy pointing"] == (77.7, 0.4)


@pytest.mark.parametrize(
    ("backbone", "stage", "expected"),
    [
        ("test_convnext", 2, (2, 3)),
        ("resnet10t", 2, (1, 2, 3)),  # the stem is the paper's stage 0
    ],
)
def test_stages_are_counted_as_the_paper_does(backbone: str, stage: int, expected: tuple[int, ...]) -> None:
    assert stages_from(backbone, stage) == expected


def test_a_row_has_the_design_and_its_area() -> None:
    found = row_of("2-35").settings("tiny_nets:tiny", "paper")
    assert found["tau"] == (0.35,) and found["design"] == "paper"
    assert row_of("plain").settings("tiny_nets:tiny", "paper") == {"method": "plain"}
    assert column_of("stamps-100").reader == "built" and column_of("hard-imagenet").score == "average"


def test_changes_of_the_design_and_the_weights_are_named() -> None:
    more = {"departures": ["bounded logits"], "weights": "convnext_tiny.fb_in1k"}
    text = tables.write_tables([record("waterbirds-95", "2-25", 0, 0.5) | more])
    selected = record("imagenet-100", "2-25", 0, 0.5) | {"selection": "validation average", "tested_on": "val"}
    row = line(tables.write_tables([selected]), "ImageNet100", "| convnext_tiny.fb_in1k, AIM [2, 25%]")
    assert "AIM [2, 25%], **epoch selected on these images** | paper | 1 |" in row
    row = line(text, "Waterbirds 95%", "| convnext_tiny.fb_in1k, AIM [2, 25%]")
    assert "**" not in row
    assert "| paper, changed; not as in the paper: bounded logits | 1 |" in row
    assert "Weights that convnext_tiny.fb_in1k started from: convnext_tiny.fb_in1k." in text


def test_the_folder_of_another_release_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for column, tie in (("waterbirds-95", 1.0), ("waterbirds-95", 0.75), ("waterbirds-100", 0.75)):
        folder = make_waterbirds(tmp_path, f"tie-{tie}", tie=tie, pictures=False)
        assert main(["--data", column, str(folder), "--out", str(tmp_path / "out"), *TINY]) == 1
        assert f"{tie:.0%} of the training images in {folder} are on their label's" in capsys.readouterr().err
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.jsonl").write_text('{"head": "paper"}\n')
    assert main(["--report", "--out", str(tmp_path / "old")]) == 1
    assert "is of an older version" in capsys.readouterr().err


@pytest.mark.slow
def test_every_data_set_of_the_paper_by_its_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of the benchmark's page, on miniatures."""
    folder = make_page_sets(tmp_path)
    cub = f"cub={folder / 'CUB_200_2011'}"
    birds = f"cub={make_cub(tmp_path, images_per_species=28)}"
    rows = waterbirds_rows(tie=1.0, images_per_species=28)
    first = next(row for row in rows if row[3] == 0 and "Yellowthroat" in str(row[1]))  # one of 21 that count
    loose = [[*row[:4], 1 - int(str(row[4])), row[5]] if row is first else row for row in rows]
    sets = [
        ("imagenet-100", folder / "imagenet", f"class_list={folder / 'imagenet100.txt'}"),
        ("hard-imagenet", folder / "hardImageNet", f"imagenet={folder / 'imagenet'}"),
        ("waterbirds-100", make_waterbirds(tmp_path, "tied", rows=rows, images_per_species=28), birds),
        ("waterbirds-95", make_waterbirds(tmp_path, "loose", rows=loose, images_per_species=28), birds),
        ("traveling-birds", folder / "CUB_fixed", cub),
        ("cub", folder / "CUB_200_2011"),
        ("imagewoof", folder / "imagewoof2-160"),
    ]
    data = [word for each in sets for word in ("--data", *map(str, each))]
    given = [*data, "--rows", "plain,2-25", "--design", "paper", "--seeds", "1", "--out", str(tmp_path / "out"), *TINY]
    assert main(given) == 0, capsys.readouterr().err
    records = read_records(tmp_path / "out")
    assert {(each["column"], each["row"]) for each in records} == {
        (name, row) for name, *_ in sets for row in ("plain", "2-25")
    }
    assert all(each["departures"] == ([] if each["row"] == "2-25" else None) for each in records)


def test_masks_in_the_backbone_feed_the_next_stage() -> None:
    """Table 2: what a closed mask leaves is the classifier of zeros, and the masks learn."""
    model = table_2.BottomUp(PlainClassifier(tiny_nets.tiny(), 2), [2, 3], 4)
    images = torch.randn(4, 3, 32, 32)
    output = model(images)
    AIMLoss(0.25, stage_weight=0.0)(output, torch.tensor([0, 1, 0, 1])).backward()
    assert [tuple(mask.shape) for mask in output.masks.values()] == [(4, 1, 2, 2), (4, 1, 1, 1)]
    assert all(value.grad is not None for value in model.parameters())
    with torch.no_grad():
        for estimator in model.mask_estimators.values():
            estimator.how_much.bias.fill_(-1000.0)
        closed = model.eval()(images)
    assert all(not mask.any() for mask in closed.masks.values())
    assert torch.equal(closed.logits, model.plain.backbone.fc.bias.expand(4, 2))


@pytest.mark.slow
def test_the_command_of_table_2(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--backbone", "tiny_nets:tiny", "--workers", "0", *TINY[TINY.index("--set") :]]
    given = ["tiny", str(built), "--rows", "2-25", "--seeds", "2", *tiny, "--out", str(tmp_path)]
    assert table_2.main(given) == 0
    table = capsys.readouterr().out
    assert "| [2, 25%] | 2 | " in table
    assert table_2.main(given) == 0 and capsys.readouterr().out == table  # nothing is repeated
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    assert table_2.main([*given, "--rows", "plain"]) == 1
    assert "rows must be STAGE-PERCENT here" in capsys.readouterr().err


def test_objects_are_moved_to_the_nearest_edge() -> None:
    assert edge.window((100, 120), (50, 40, 70, 60), "centre") == (12, 22, 75)
    assert edge.window((100, 120), (50, 40, 70, 60), "edge") == (12, 0, 75)  # 15 from the right edge
    assert edge.window((100, 120), (20, 70, 40, 90), "edge") == (5, 0, 75)  # 5 from the bottom edge
    half_cut_off = edge.window((100, 200), (50, 40, 70, 60), "edge")
    assert half_cut_off == (12, 60, 75)


@pytest.mark.slow
def test_figures_of_finished_runs(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["train", "built", str(built), "--backbone", "tiny_nets:tiny", "--image-size", "32", "--epochs", "3"]
    usual += ["--batch-size", "8", "--workers", "0", "--accelerator", "cpu", "-q", "--selection", "last"]
    aim, plain = tmp_path / "aim" / "seed-0", tmp_path / "plain" / "seed-0"
    assert CliRunner().invoke(app, [*usual, "--out", str(aim.parent), "--keep-masks", "4"]).exit_code == 0
    assert CliRunner().invoke(app, [*usual, "--out", str(plain.parent), "--plain"]).exit_code == 0
    kept = kept_masks(aim)
    assert list(kept) == [1, 2, 3] and kept[3]["2"].shape[:2] == (4, 1) and kept[3]["images"].tolist() == [0, 2, 5, 8]
    model = AIM.from_pretrained(aim / "model", backbone=tiny_nets.tiny())
    test = Built(built, "test", transform=eval_transform(model.preprocessing))
    last = model.predict(collate([test[number] for number in kept[3]["images"].tolist()]).image).masks
    assert all(torch.equal(mask, kept[3][str(stage)].float()) for stage, mask in last.items())

    capsys.readouterr()
    out, methods = tmp_path / "figures", ["--attribution", "grad-cam,guided-backprop"]
    own = ["--backbone", "tiny_nets:tiny"]
    assert figures.main([str(aim), "--against", str(plain), "--out", str(out), *own, *methods]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("heatmaps.png", "masks.png", "scatter.png", "evolution.png", "attribution.md")
    }
    table = (out / "attribution.md").read_text()
    assert table in capsys.readouterr().out and "| guided-backprop | not defined | not defined |" in table
    assert "GELU" in table  # why
    results = [json.loads((run / "result.json").read_text())["scores"]["energy_pointing"] for run in (plain, aim)]
    assert f"| grad-cam | {100 * results[0]:.1f} | {100 * results[1]:.1f} |" in table
    assert edge.main([str(aim), str(plain), "--out", str(out), *own]) == 0
    assert "| TinyNet+AIM [3, 25%], feature-preserving head, 2 classes | 1 |" in capsys.readouterr().out
    assert (out / "edge.png").is_file()
    assert figures.main([str(plain), "--against", str(aim), "--out", str(out), *own]) == 1
    assert "give a run with AIM" in capsys.readouterr().err
    assert figures.main([str(tmp_path), "--against", str(plain), "--out", str(out), *own]) == 1
    assert "has no result.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--data", "tiny", "nowhere", *TINY, "--seeds", "1", "--rows", "plain"], "nowhere"),
        (["--data", "tiny", "nowhere", *TINY, "--rows", "2_25"], "a row must be plain or STAGE-PERCENT"),
        (["--data", "tiny", "nowhere", *TINY, "--rows", "9-25"], "has no stage 9 by the paper's count; it has"),
        (["--data", "tiny", "nowhere", *TINY, "tau=0.5"], "--set tau=... is for the other options"),
        (["--data", "tiny", "nowhere", *TINY, "epoch=3"], "unexpected keyword argument 'epoch'"),
        (["--data", "tiny", "nowhere", *TINY, "--preset", "best"], "preset must be one of group-dro-erm"),
    ],
)
def test_what_cannot_be_run_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main([*given, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give the data sets by --data, or --report"),
        (["--data", "waterbirds-95"], "--data needs a column and its folder"),
        (["--report", "--seeds", "none"], "must be a count"),
    ],
)
def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert message in capsys.readouterr().err
