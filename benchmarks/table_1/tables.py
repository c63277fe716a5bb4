"""From the lines of the runs: Markdown tables with the paper's numbers, a figure, and a list of missing runs."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from columns import PAPER, Column, column_of
from rows import TABLE_1, row_of
from runs import Record

from aimwrap._choices import DEPARTURES
from aimwrap.plot import Result, plot_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPERS_BACKBONE = "convnext_tiny.fb_in1k"  # the paper's weights are of ImageNet-1k
NO_BREAK = "\N{NO-BREAK SPACE}"
# Of aimwrap.train.evaluation.evaluate, by what the paper calls it, or would.
POINTING = {"energy pointing": "energy_pointing", "matched": "energy_pointing_matched"}


class Line(NamedTuple):
    """A row of one data set's table: seeds of one variant of one backbone.

    Attributes:
        backbone: its name.
        row: the variant's name.
        design: of AIM; None for the plain backbone.
        records: one per seed that is done.
    """

    backbone: str
    row: str
    design: str | None
    records: tuple[Record, ...]

    @property
    def model(self) -> str:
        """Backbone and variant."""
        return f"{self.backbone}, {row_of(self.row).title}"

    @property
    def title(self) -> str:
        """The design, too."""
        return self.model if self.design is None else f"{self.model}, design {self.design}"

    @property
    def design_in_words(self) -> str:
        """With what differs from the paper in its runs, where that is not what the name says."""
        departures = self.records[0].get("departures") if self.records else None
        usual = set() if self.design == "paper" else set(DEPARTURES.values())
        if departures is None or set(departures) == usual:
            return self.design or ""
        return f"{self.design}, changed; not as in the paper: {', '.join(departures) or 'nothing'}"

    def values(self, score: str) -> list[float]:
        """Of a score in percent, where it is defined."""
        found = [record["scores"].get(score) for record in self.records]
        return [100 * value for value in found if value is not None]


Paper = dict[tuple[str, str, str], tuple[float, float]]


def read_paper() -> Paper:
    """Mean and deviation in percent, by column, row and measure."""
    with (Path(__file__).parent / "paper.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(row["column"], row["row"], row["measure"]): (float(row["mean"]), float(row["deviation"])) for row in rows}


def lines_of(column: Column, records: Sequence[Record]) -> list[Line]:
    """A line for each variant of the paper's table and of the runs, for each backbone and design that was trained."""
    backbones = list(dict.fromkeys(record["backbone"] for record in records)) or [PAPERS_BACKBONE]
    designs = list(dict.fromkeys(record["design"] for record in records if record["design"])) or ["paper"]
    rows = list(dict.fromkeys([*TABLE_1, *(record["row"] for record in records)]))
    keys = [
        (backbone, row, design)
        for row in rows
        for backbone in backbones
        for design in ([None] if row == "plain" else designs)
    ]
    own = [record for record in records if record["column"] == column.name]
    found = {key: [r for r in own if (r["backbone"], r["row"], r["design"]) == key] for key in keys}
    return [Line(*key, tuple(sorted(runs, key=lambda run: run["seed"]))) for key, runs in found.items()]


def write_tables(records: Sequence[Record]) -> str:
    """All of the paper's columns and those of one's own, as Markdown; what is missing is named below each."""
    own = dict.fromkeys(record["column"] for record in records)
    names = [column.name for column in PAPER] + [name for name in own if column_of(name) not in PAPER]
    parts = [_table(column_of(name), records) for name in names]
    return "\n\n".join(["# Table 1", _explanation(records), *parts]) + "\n"


def draw(records: Sequence[Record]) -> Figure:
    """Accuracy and pointing of every data set with runs, and the paper's where it has the data set."""
    paper = read_paper()
    panels: dict[tuple[str, str], list[Result]] = {}
    for name in dict.fromkeys(record["column"] for record in records):
        column = column_of(name)
        for measure, score in {"accuracy": column.score, **POINTING}.items():
            rows: list[Result] = []
            for row, lines in groupby(lines_of(column, records), lambda line: line.row):
                for line in lines:
                    values = line.values(score)
                    rows += [Result.of_seeds(line.title, values)] if values else []
                mean, deviation = paper.get((column.name, row, measure), (None, None))
                if mean is not None and deviation is not None:
                    rows.append(Result(f"paper's {row_of(row).title}", mean, mean - deviation, mean + deviation))
            if any(not row.name.startswith("paper's") for row in rows):
                group = f"{column.title}, worst group" if column.score == "worst_group" else column.title
                panels[group, _measure(measure)] = rows
    return plot_results(panels, interval="mean ± standard deviation over seeds", title="Table 1, in percent")


def _table(column: Column, records: Sequence[Record]) -> str:
    paper, lines = read_paper(), lines_of(column, records)
    in_paper = column in PAPER
    accuracy = "worst-group accuracy" if column.score == "worst_group" else "accuracy"
    header = ["model", "design", "seeds", accuracy, "EPG", "EPG, matched", "chance"]
    theirs = [f"paper's {accuracy}", "paper's EPG"] if in_paper else []
    rows = [[*header[:4], *theirs[:1], header[4], *theirs[1:], *header[5:]]]
    for line in lines:
        cells = [_cell(line.values(score)) for score in (column.score, *POINTING.values(), "chance")]
        if in_paper:
            beside = [paper.get((column.name, line.row, measure)) for measure in ("accuracy", "energy pointing")]
            cells = [cells[0], _pair(beside[0]), cells[1], _pair(beside[1]), *cells[2:]]
        flattered = any(run["tested_on"] == "val" and run["selection"] != "last" for run in line.records)
        model = f"{line.model}, **epoch selected on these images**" if flattered else line.model
        rows.append([model, line.design_in_words, str(len(line.records) or ""), *cells])
    body = ["| " + " | ".join(row) + " |" for row in rows]
    body.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join([f"## {column.title}", "", *body, "", *_said(column, lines, records)])


def _said(column: Column, lines: Sequence[Line], records: Sequence[Record]) -> list[str]:
    """How the epochs were selected, and what is missing."""
    runs = [record for line in lines for record in line.records]
    wanted = sorted({record["seed"] for record in records})
    missing = []
    for line in lines:
        lacking = [seed for seed in wanted if seed not in {record["seed"] for record in line.records}]
        if not line.records:
            missing.append(f"{line.title} (no run)")
        elif lacking:
            missing.append(f"{line.title} (seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))})")
        elif not line.values("energy_pointing"):
            missing.append(f"EPG of {line.title} (no object masks, or no exact activation map)")
    said = []
    if runs:
        rules = ", ".join(sorted({f"{run['selection']} (measured on {run['tested_on']})" for run in runs}))
        said.append(f"Rule by which an epoch was selected: {rules}.")
        started = {run["backbone"]: run.get("weights") for run in runs}
        said += [f"Weights that {name} started from: {weights}." for name, weights in started.items() if weights]
    if not runs:
        said.append("Missing: every run.")
    elif missing:
        said.append(f"Missing: {'; '.join(missing)}.")
    return said


def _explanation(records: Sequence[Record]) -> str:
    text = (
        "In percent, mean ± standard deviation over the seeds. EPG: energy pointing of the predicted class's "
        "activation map; matched: maps averaged down to the grid of the deepest stage, so that no model scores for a "
        "finer map; chance: the object's share of the image. AIM [stage, area] by the paper's count. The paper's "
        "numbers are of ConvNeXt-tiny, its EPG of Grad-CAM and its like; its recipe and selection are not public."
    )
    recipes = {record["settings"]["epochs"] for record in records}
    return text + (f" Ours are of {', '.join(map(str, sorted(recipes)))} epochs." if recipes else "")


def _measure(measure: str) -> str:
    return {"matched": "energy pointing, matched"}.get(measure, measure)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return _pair((statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None))


def _pair(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return ""
    mean, deviation = value
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f}{NO_BREAK}±{NO_BREAK}{deviation:.1f}"
