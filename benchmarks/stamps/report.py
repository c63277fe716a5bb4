"""Turn the study's results into the tables and figures of the documentation.

    python benchmarks/stamps/report.py            # writes results/*.md and docs/assets/found-*.png
    python benchmarks/stamps/report.py --print    # the tables only, to the terminal
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bootstrap import Estimate, by_setting, difference, estimate
from study import PARTS, RESULTS, TIES, read_results
from variants import Config

ASSETS = Path(__file__).parents[2] / "docs" / "assets"

Run = dict[str, Any]
HEADLINE = [
    ("linear probe, its best setting", None),
    ("masks held open, feature-preserving head", {"method": "open", "head": "feature-preserving"}),
    ("**AIM**, feature-preserving head, tau 0.1", {"method": "aim", "head": "feature-preserving", "tau": 0.1}),
    ("**AIM**, feature-preserving head, tau 0.25", {"method": "aim", "head": "feature-preserving", "tau": 0.25}),
    ("masks held open, paper head", {"method": "open", "head": "paper"}),
    ("**AIM**, paper head, tau 0.25", {"method": "aim", "head": "paper", "tau": 0.25}),
]
SHOWN: dict[str, Any] = {"method": "aim", "head": "feature-preserving", "tau": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables and write nothing")
    only_print = parser.parse_args().print
    for name, table in tables().items():
        if only_print:
            print(f"\n## {name}\n\n{table}")
        else:
            (RESULTS / f"{name}.md").write_text(f"{table}\n")
    if not only_print:
        draw()


def tables() -> dict[str, str]:
    """Every table, by the name of its file; those without results are left out."""
    results = {part: read_results(RESULTS / f"{part}.jsonl") for part in PARTS}
    results["headline"] += results["paper-head"]
    written = {}
    if results["headline"]:
        written |= {
            "headline": headline(results["headline"]),
            "gains": gains(results["headline"]),
            "plain-search": plain_search(results["headline"]),
            "survival": survival(results["headline"]),
        }
    if results["ablations"]:
        written["ablations"] = ablations(results["ablations"], results["headline"])
    if results["fine-tuned"]:
        written["fine-tuned"] = fine_tuned(results["fine-tuned"])
    return written


# ---- Tables ---------------------------------------------------------------------------------------------------------


def headline(records: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        for name, wanted in HEADLINE:
            runs = best_plain(records, tie) if wanted is None else pick(records, tie=tie, **wanted)
            if not runs:
                continue
            masked = "precision" in runs[0]["images"]
            cells = [interval(estimate(runs, m)) for m in ("accuracy", "worst_group", "pointing", "pointing_matched")]
            cells.append(f"{mean(runs, 'area'):.2f}" if masked else "1")
            cells += [interval(estimate(runs, m)) if masked else "" for m in ("precision", "recall")]
            rows.append([f"{tie:.0%}", name, *cells])
    header = ["tie", "", "accuracy", "worst group", "pointing", "pointing at 5 × 5", "area"]
    return markdown([*header, "mask precision", "mask recall"], rows)


def gains(records: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        plain = best_plain(records, tie)
        for name, wanted in HEADLINE[1:]:
            assert wanted is not None
            runs = pick(records, tie=tie, **wanted)
            if len(runs) < 2 or len(runs) > len(plain):
                continue
            cells = []
            for measure in ("accuracy", "worst_group", "pointing_matched"):
                gain = difference(runs, plain, measure)
                wins = sum(value > 0 for value in gain.seeds)
                cells.append(f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {wins} of {len(gain.seeds)}")
            rows.append([f"{tie:.0%}", name, *cells])
    return markdown(["tie", "minus the best linear probe", "accuracy", "worst group", "pointing at 5 × 5"], rows)


def plain_search(records: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        for runs in by_setting(records, lambda c, tie=tie: c["method"] == "plain" and c["tie"] == tie).values():
            config = runs[0]["config"]
            cells = [deviation(runs, m) for m in ("accuracy", "worst_group", "pointing")]
            rows.append([f"{tie:.0%}", str(config["epochs"]), f"{config['learning_rate']:g}", *cells])
    return markdown(["tie", "epochs", "learning rate", "accuracy", "worst group", "pointing"], rows)


def survival(records: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        runs = [run for run in pick(records, tie=tie, **SHOWN) if "survival" in run]
        kinds = [(row["region"], row["masks"]) for row in runs[0]["survival"]] if runs else []
        for region, masks in dict.fromkeys(kinds):
            cells = []
            for filling in ("mean colour", "blur", "another image"):
                rates = [
                    row["rate"]
                    for run in runs
                    for row in run["survival"]
                    if (row["region"], row["masks"], row["filling"]) == (region, masks, filling)
                ]
                cells.append(plus_minus(rates))
            rows.append([f"{tie:.0%}", region, masks, *cells])
    return markdown(["tie", "pixels kept", "masks", "rest: mean colour", "rest: blur", "rest: another image"], rows)


def ablations(records: Sequence[Run], reference: Sequence[Run]) -> str:
    seeds = {run["config"]["seed"] for run in records}
    base = [run for run in pick(reference, tie=1.0, **SHOWN) if run["config"]["seed"] in seeds]
    rows = [ablation_row("none: the row to compare with", base)] if base else []
    rows += [ablation_row(describe(runs[0]["config"]), runs) for runs in by_setting(records, lambda c: True).values()]
    return markdown(["change", "accuracy", "worst group", "pointing at 5 × 5", "area", "mask precision"], rows)


def ablation_row(name: str, runs: Sequence[Run]) -> list[str]:
    return [
        name,
        *(deviation(runs, m) for m in ("accuracy", "worst_group", "pointing_matched", "area", "precision")),
    ]


def fine_tuned(records: Sequence[Run]) -> str:
    rows = []
    for runs in by_setting(records, lambda c: True).values():
        config = runs[0]["config"]
        name = "plain" if config["method"] == "plain" else "**AIM**, feature-preserving head, tau 0.1"
        cells = [deviation(runs, m) for m in ("accuracy", "worst_group", "pointing_matched")]
        cells += [deviation(runs, m) if m in runs[0] else "" for m in ("area", "precision")]
        rows.append([f"{config['tie']:.0%}", f"{config['backbone_rate']:g}", config["norms"], name, *cells])
    rows.sort(key=lambda row: (row[0] != "95%", float(row[1]), row[2]))
    header = ["tie", "backbone's rate", "BatchNorm", "", "accuracy", "worst group", "pointing at 5 × 5", "area"]
    return markdown([*header, "mask precision"], rows)


def describe(config: dict[str, Any]) -> str:
    """What a config changes."""
    default = Config(config["method"], config["tie"], config["seed"]).key
    changed = {name: value for name, value in config.items() if value != default[name]}
    return ", ".join(f"`{name}={value!r}`" for name, value in changed.items())


# ---- Choosing runs --------------------------------------------------------------------------------------------------


def pick(records: Sequence[Run], **wanted: Any) -> list[Run]:
    """The runs whose config has these values, by seed; those of other settings than the plan's are not in the file."""
    chosen = [run for run in records if all(run["config"][name] == value for name, value in wanted.items())]
    return sorted(chosen, key=lambda run: run["config"]["seed"])


def best_plain(records: Sequence[Run], tie: float) -> list[Run]:
    """The linear probe's setting with the best worst group, picked on the test itself: in plain's favour."""
    settings = by_setting(records, lambda c: c["method"] == "plain" and c["tie"] == tie).values()
    return max(settings, key=lambda runs: (len(runs), mean(runs, "worst_group")), default=[])


# ---- Cells ----------------------------------------------------------------------------------------------------------


def mean(runs: Sequence[Run], measure: str) -> float:
    return statistics.mean(run[measure] for run in runs)


def interval(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def deviation(runs: Sequence[Run], measure: str) -> str:
    return plus_minus([run[measure] for run in runs])


def plus_minus(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f} (one seed)"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


# ---- Figures --------------------------------------------------------------------------------------------------------


def draw() -> None:
    """The figures of the page."""


if __name__ == "__main__":
    main()
