"""Turn the study's results into tables, results/*.md: python benchmarks/second_look/cell_tables.py (--print: prints).

Every method has twenty settings. Each is shown at `aimwrap train --second-look`'s own, 20 epochs at 3e-4 (default), at
the one with the best worst group, picked on the test itself as for Stamps (best), and as the median over the twenty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "stamps"))

from bootstrap import by_setting, difference
from cells import (
    AIM_ALONE,
    CELLS,
    DEFAULT,
    LOOK,
    ORACLE,
    OWN,
    PLAIN,
    RESULTS,
    SEARCHED,
    SEEDS,
    Run,
    lines_of,
    read_runs,
)
from report import NO_BREAK, best_of, few, markdown, mean, pick, signed

MEASURES = {"worst_group": "worst group", "accuracy": "accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables and write nothing")
    only_print = parser.parse_args().print
    for name, table in tables().items():
        if only_print:
            print(f"\n## {name}\n\n{table}")
        else:
            (RESULTS / f"{name}.md").write_text(f"{table}\n")


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Every table, by the name of its file."""
    cells = cells_of(read_runs(results))
    if not cells:
        return {}
    return {
        "worst-group": scores(cells, "worst_group"),
        "accuracy": scores(cells, "accuracy"),
        "gains": gains(cells),
        "acceptance": acceptance(cells),
        "masks": masks([line for path in sorted(results.glob("*.jsonl")) for line in lines_of(path)]),
    }


class Cell(NamedTuple):
    """A set, a network and a tie: each method's runs at its default, at its best setting, and at all of them."""

    name: list[str]
    first: list[Run]
    default: dict[str, list[Run]]
    best: dict[str, list[Run]]
    all: dict[str, list[list[Run]]]

    def scores(self, method: str, measure: str) -> tuple[float, float, float]:
        """At the default, at the best setting, and the median over the settings, of means over seeds."""
        median = statistics.median(mean(runs, measure) for runs in self.all[method])
        return mean(self.default[method], measure), mean(self.best[method], measure), median


def cells_of(records: Sequence[Run]) -> list[Cell]:
    """The cells that there are results of."""
    cells = []
    for name, network, tie in CELLS:
        runs = pick(records, set=name, network=network, tie=tie)
        if runs:
            first = pick(runs, method=AIM_ALONE)
            default = {method: pick(runs, method=method, **DEFAULT) for method in SEARCHED}
            best = {method: best_of(runs, method, tie) for method in SEARCHED}
            settings = {m: list(by_setting(runs, lambda c, m=m: c["method"] == m).values()) for m in SEARCHED}
            cells.append(Cell(shown((name, network, tie), first), first, default, best, settings))
    return cells


# ---- Tables ---------------------------------------------------------------------------------------------------------


def scores(cells: Sequence[Cell], measure: str) -> str:
    """One measure of every method, with the mean over the cells below."""
    rows = [
        [
            *(value for method in SEARCHED for value in cell.scores(method, measure)),
            mean(cell.first, measure),
        ]
        for cell in cells
    ]
    rows.append([statistics.mean(column) for column in zip(*rows, strict=True)])
    names = [*(cell.name for cell in cells), ["**mean**", "", ""]]
    header = [f"{method}, {which}" for method in SEARCHED for which in ("default", "best", "median")]
    table = [[*name, *(f"{value:.3f}" for value in row)] for name, row in zip(names, rows, strict=True)]
    return markdown(["set", "network", "tie", *header, AIM_ALONE], table)


def gains(cells: Sequence[Cell]) -> str:
    """Differences, paired by seed and image, with intervals over cut-outs."""
    rows = []
    for cell in cells:
        for name, runs, others in pairs(cell):
            found = [difference(runs, others, measure) for measure in MEASURES]
            rows.append([*cell.name, name, *map(signed, found)])
    return markdown(["set", "network", "tie", "", *MEASURES.values()], rows)


def pairs(cell: Cell) -> list[tuple[str, list[Run], list[Run]]]:
    """What is compared."""
    default, best = cell.default, cell.best
    return [
        ("second look, default, minus the best linear probe", default[LOOK], best[PLAIN]),
        ("second look, best, minus the best linear probe", best[LOOK], best[PLAIN]),
        ("second look, default, minus no background, default", default[LOOK], default[ORACLE]),
        ("second look, best, minus no background, best", best[LOOK], best[ORACLE]),
        ("second look, default, minus the same without copies", default[LOOK], default[OWN]),
    ]


def acceptance(cells: Sequence[Cell]) -> str:
    """What was promised (issue 21), counted."""
    rows = []
    for measure, words in MEASURES.items():
        ours = [cell.scores(LOOK, measure)[0] for cell in cells]
        for column, which in enumerate(("default", "best")):
            gaps = [own - cell.scores(ORACLE, measure)[column] for own, cell in zip(ours, cells, strict=True)]
            average = statistics.mean(gaps)
            what = f"{words}: second look at its default minus no background at its {which}, mean over the cells"
            found = f"{average:+.3f} (cells: {min(gaps):+.3f} to {max(gaps):+.3f})"
            rows.append([what, "-0.020 or more", found, verdict(cells, average >= -0.02)])
    gained = [difference(cell.default[LOOK], cell.best[PLAIN], "worst_group") for cell in cells]
    medians = [cell.scores(LOOK, "worst_group")[2] - cell.scores(PLAIN, "worst_group")[1] for cell in cells]
    counts = {
        "second look at its default above the best linear probe": (12, sum(gain.mean > 0 for gain in gained)),
        "the same, with an interval above zero": (8, sum(gain.low > 0 for gain in gained)),
        "the second look's median over its settings above the best linear probe": (12, sum(g > 0 for g in medians)),
    }
    for what, (wanted, found) in counts.items():
        reached = found / len(cells) >= wanted / len(CELLS)
        row = [f"worst group: {what}", f"{wanted} of {len(CELLS)} cells", f"{found} of {len(cells)}"]
        rows.append([*row, verdict(cells, reached)])
    return markdown(["", "wanted", "found", "reached"], rows)


def verdict(cells: Sequence[Cell], reached: bool) -> str:
    """Whether a target is reached; it may change while cells or seeds are missing."""
    fewest = min(len(cell.first) for cell in cells)
    so_far = "" if (len(cells), fewest) == (len(CELLS), len(SEEDS)) else ", so far"
    return f"{'yes' if reached else 'no'}{so_far}"


def masks(lines: Sequence[dict[str, Any]]) -> str:
    """What the masks keep of the test images, means over seeds."""
    names = ["object_area", "mask_area", "mask_precision", "mask_recall", "kept_area", "kept_precision", "kept_recall"]
    rows = []
    for cell in CELLS:
        found = [line for line in lines if (line["set"], line["network"], line["tie"]) == cell]
        if found:
            means = (statistics.mean(line["masks"][name] for line in found) for name in names)
            rows.append([*shown(cell, found), *(f"{value:.2f}" for value in means)])
    header = ["set", "network", "tie", "object's share", "mask's area", "mask precision", "mask recall"]
    return markdown([*header, "pixels kept", "of them object", "of the object kept"], rows)


def shown(cell: tuple[str, str, float], runs: Sequence[Run]) -> list[str]:
    """The first columns of its rows."""
    name, network, tie = cell
    return [name, network, f"{100 * tie:.0f}{NO_BREAK}%{few(runs)}"]


if __name__ == "__main__":
    main()
