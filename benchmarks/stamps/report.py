"""Turn the study's results into the tables and figures of the documentation.

python benchmarks/stamps/report.py            # writes results/*.md and docs/assets/found-*.png
python benchmarks/stamps/report.py --print    # the tables only, to the terminal
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootstrap import Estimate, by_setting, difference, estimate
from parts import LOOK, LOOK_BY_CAM, PARTS, TIES
from records import RESULTS, read_results, results_of
from variants import Config

from aimwrap.plot import Result, plot_results, plot_scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parents[2] / "docs" / "assets"

Run = dict[str, Any]
NO_BREAK = "\N{NO-BREAK SPACE}"
SEARCHES = ("aim-search", "control-search", "look-again")
SHOWN_PARTS = ("headline", "paper-head", "oracle")
SHOWN: dict[str, Any] = {"method": "aim", "head": "feature-preserving", "tau": 0.1}
MASKS_BY_SEED = ("areas of stages 2, 3, by seed", "seeds with a dead mask")
HEADLINE = [
    ("linear probe, its best setting", "plain"),
    ("masks held open, feature-preserving head", {**SHOWN, "method": "open", "epochs": 20}),
    ("masks held open, feature-preserving head, 6 epochs", {**SHOWN, "method": "open", "epochs": 6}),
    ("masks held open, feature-preserving head, its best setting", "open"),
    ("**AIM**, feature-preserving head, tau 0.1", {"method": "aim", "head": "feature-preserving", "tau": 0.1}),
    ("**AIM**, feature-preserving head, tau 0.1, its best setting", "aim"),
    ("**AIM**, feature-preserving head, tau 0.25", {"method": "aim", "head": "feature-preserving", "tau": 0.25}),
    ("**AIM**, second look at the kept pixels, its best setting", LOOK),
    ("second look through the probe's map, its best setting", LOOK_BY_CAM),
    ("masks held open, paper head", {"method": "open", "head": "paper"}),
    ("**AIM**, paper head, tau 0.25", {"method": "aim", "head": "paper", "tau": 0.25}),
    ("the object's own mask on the same features", {"method": "true mask", "epochs": 6}),
    ("linear probe without any background (oracle)", {"method": "oracle"}),
]


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
        records = shown_records()
        searches = [run for part in SEARCHES for run in read_results(results_of(part))]
        draw(records, search_of(records, searches))


def shown_records() -> list[Run]:
    """The runs of the headline's table and figures."""
    return [record for part in SHOWN_PARTS for record in read_results(results_of(part))]


def tables() -> dict[str, str]:
    """Every table, by the name of its file; those without results are left out."""
    results = {part: read_results(results_of(part)) for part in PARTS} | {"headline": shown_records()}
    search = search_of(results["headline"], [run for part in SEARCHES for run in results[part]])
    written = {}
    if results["headline"]:
        written |= {
            "headline": headline(results["headline"], search),
            "gains": gains(results["headline"], search),
            "control": control(results["headline"], search),
            "search": search_table(search),
            "survival": survival(results["headline"]),
        }
    if results["look-again"]:
        written["look-again"] = look_again(results["look-again"], search)
    if results["pixels-again"]:
        written["pixels-again"] = pixels_again(results["pixels-again"])
    if results["ablations"]:
        written["ablations"] = ablations(results["ablations"], results["headline"])
    if results["fine-tuned"]:
        written["fine-tuned"] = fine_tuned(results["fine-tuned"])
        written["fine-tuned-gains"] = fine_tuned_gains(results["fine-tuned"], search)
    if results["paper-design"]:
        written["paper-design"] = designs([*results["headline"], *results["paper-design"], *results["sparsity"]])
        papers = [run for part in ("paper-design", "paper-search", "paper-fine-tuned") for run in results[part]]
        written["rule"] = rule([*search, *results["fine-tuned"]], papers)
    if results["paper-norms"]:
        written["paper-norms"] = norms(results["paper-norms"])
    if results["second-look"]:
        written["second-look"] = second_look(results["second-look"], search)
    if results["rivals"]:
        written["rivals"] = rivals(results["rivals"], results["table-1"], results["headline"], search)
    if results["bottom-up"]:
        written["bottom-up"] = bottom_up(results["bottom-up"], results["headline"])
    centred = read_results(results_of("centre-bias"))
    if centred:
        written["centre-bias"] = centre_bias(centred)
    return written


# ---- Tables ---------------------------------------------------------------------------------------------------------


def headline(records: Sequence[Run], search: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        for name, runs in headline_rows(records, search, tie):
            masked = "precision" in runs[0]["images"]
            cells = [interval(estimate(runs, m)) for m in ("accuracy", "worst_group", "pointing")]
            cells.append(f"{mean(runs, 'area'):.2f}" if masked else "1")
            cells += [interval(estimate(runs, m)) if masked else "" for m in ("precision", "recall")]
            rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{name}{few(runs)}", *cells])
    header = ["tie", "", "accuracy", "worst group", "pointing", "area"]
    return markdown([*header, "mask precision", "mask recall"], rows)


def gains(records: Sequence[Run], search: Sequence[Run]) -> str:
    rows = []
    for tie in TIES:
        plain = best_of(search, "plain", tie)
        for name, runs in headline_rows(records, search, tie)[1:]:
            rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{name}{few(runs)}", *gain_cells(runs, plain)])
    return markdown(["tie", "minus the best linear probe", "accuracy", "worst group", "pointing"], rows)


def gain_cells(runs: Sequence[Run], others: Sequence[Run]) -> list[str]:
    """Differences by measure, with interval and the number of seeds that gain."""
    cells = []
    for measure in ("accuracy", "worst_group", "pointing"):
        gain = difference(runs, others, measure)
        wins = sum(value > 0 for value in gain.seeds)
        cells.append(f"{signed(gain)}, {wins}{NO_BREAK}of{NO_BREAK}{len(gain.seeds)}")
    return cells


def control(records: Sequence[Run], search: Sequence[Run]) -> str:
    """AIM minus its control with the very same settings: what the masks alone do."""
    rows = []
    known = [*search, *(run for run in records if run not in search)]
    for tie in TIES:
        for held_open in by_setting(known, lambda c, t=tie: (c["method"], c["tie"]) == ("open", t)).values():
            config = held_open[0]["config"]
            tau = SHOWN["tau"] if config["head"] == SHOWN["head"] else 0.25
            alike = {**config, "method": "aim", "tau": tau, "seed": None}
            runs = pick([*search, *records], **alike)
            paired = {run["config"]["seed"]: run for run in runs}  # once each, though search holds some of records
            if paired:
                length = f"{config['epochs']} epochs at {config['learning_rate']:g}"
                setting = f"{config['head']} head, tau {tau:g}, {length}"
                both = [paired[run["config"]["seed"]] for run in held_open if run["config"]["seed"] in paired]
                rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{setting}{few(both)}", *gain_cells(both, held_open)])
    header = ["tie", "AIM minus masks held open", "accuracy", "worst group", "pointing"]
    return markdown(header, rows)


def fine_tuned_gains(records: Sequence[Run], search: Sequence[Run]) -> str:
    """AIM with a trained backbone, minus plain trained alike and minus the best linear probe on the same seeds."""
    rows = []
    for runs in by_setting(records, lambda c: c["method"] == "aim").values():
        config = runs[0]["config"]
        alike, held_open = (pick(records, **{**config, "method": m, "seed": None}) for m in ("plain", "open"))
        setting = [f"{100 * config['tie']:.0f}{NO_BREAK}%", f"{config['backbone_rate']:g}, {config['norms']}"]
        probes = best_of(search, "plain", config["tie"])
        compared = {"plain, trained alike": alike, "masks held open": held_open, "the best linear probe": probes}
        for name, others in compared.items():
            both = {run["config"]["seed"] for run in runs} & {run["config"]["seed"] for run in others}
            paired = [run for run in runs if run["config"]["seed"] in both]
            if paired:
                rows.append([*setting, f"{name}{few(paired)}", *gain_cells(paired, others)])
    rows.sort(key=lambda row: (not row[0].startswith("95"), row[1]))
    header = ["tie", "backbone's rate, BatchNorm", "AIM minus", "accuracy", "worst group", "pointing"]
    return markdown(header, rows)


def search_table(search: Sequence[Run]) -> str:
    rows = []
    names = {"plain": "linear probe", "open": "masks held open", "aim": "**AIM**, tau 0.1"}
    names |= {LOOK: "**AIM**, second look", LOOK_BY_CAM: "second look through the probe's map"}
    for method, name in names.items():
        for tie in TIES:
            for runs in by_setting(search, lambda c, m=method, t=tie: (c["method"], c["tie"]) == (m, t)).values():
                config = runs[0]["config"]
                cells = [deviation(runs, m) for m in ("accuracy", "worst_group", "pointing")]
                setting = [str(config["epochs"]), f"{config['learning_rate']:g}"]
                rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{name}{few(runs)}", *setting, *cells])
    return markdown(["tie", "", "epochs", "learning rate", "accuracy", "worst group", "pointing"], rows)


def rivals(records: Sequence[Run], table_1: Sequence[Run], headline: Sequence[Run], search: Sequence[Run]) -> str:
    """Every method at its best setting, those that know no groups first."""
    without: list[tuple[str, str, list[Run]]] = []
    knowing: list[tuple[str, str, list[Run]]] = []
    for tie in TIES:
        shown = f"{100 * tie:.0f}{NO_BREAK}%"
        default = {**SHOWN, "tie": tie}
        without += [
            (shown, "plain", best_of(search, "plain", tie)),
            (shown, "MaskTune", best_of(records, "MaskTune", tie)),
            (shown, "**AIM**, our default", pick(headline, **default)),
            (shown, "**AIM**, best of nine", best_of(search, "aim", tie)),
            (shown, "**AIM**, second look", best_of(search, LOOK, tie)),
        ]
        for stages, number in (([2, 3], 2), ([1, 2, 3], 1)):
            for tau in (0.25, 0.35):
                runs = pick([*headline, *table_1], **(default | {"tau": tau, "stages": stages}))
                without.append((shown, f"**AIM** [{number}, {100 * tau:.0f}{NO_BREAK}%]", runs))
        for method, known in (
            ("balanced sampling", "training images"),
            ("group DRO", "training images"),
            ("DFR", "untied images"),
            ("AIM with DFR", "untied images"),
        ):
            knowing.append((shown, f"{method} | {known}", best_of(records, method, tie)))
    rows = []
    for tie, name, runs in [*((tie, f"{name} | none", runs) for tie, name, runs in without), *knowing]:
        if runs:
            method, known = name.split(" | ")
            measures = ("accuracy", "worst_group", "pointing")
            cells = [interval(estimate(runs, measure)) for measure in measures]
            rows.append([tie, f"{method}{few(runs)}", known, *cells])
    rows.sort(key=lambda row: not row[0].startswith("95"))
    return markdown(["tie", "", "groups that must be known", "accuracy", "worst group", "pointing"], rows)


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
            rows.append([f"{100 * tie:.0f}{NO_BREAK}%", region, masks, *cells])
    return markdown(["tie", "pixels kept", "masks", "rest: mean colour", "rest: blur", "rest: another image"], rows)


def ablations(records: Sequence[Run], reference: Sequence[Run]) -> str:
    seeds = {run["config"]["seed"] for run in records}
    base = [run for run in pick(reference, tie=1.0, **SHOWN) if run["config"]["seed"] in seeds]
    rows = [ablation_row(f"none: the row to compare with{few(base)}", base)] if base else []
    for runs in by_setting(records, lambda c: True).values():
        rows.append(ablation_row(f"{describe(runs[0]['config'])}{few(runs)}", runs))
    return markdown(["change", "accuracy", "worst group", "pointing", "area", "mask precision"], rows)


def ablation_row(name: str, runs: Sequence[Run]) -> list[str]:
    return [
        name,
        *(deviation(runs, m) for m in ("accuracy", "worst_group", "pointing", "area", "precision")),
    ]


def designs(records: Sequence[Run]) -> str:
    """Our design, the paper's head with our measures, and the paper's design: 20 epochs, frozen backbone."""
    kinds: dict[str, dict[str, Any]] = {
        "our design": {"head": "feature-preserving", "mask_weight": 6.0},
        '`head="paper"`': {"head": "paper", "design": "ours"},
        "the paper's design": {"design": "paper", "mask_weight": 6.0},
        "our design, no area loss": {"head": "feature-preserving", "mask_weight": 0.0},
        "the paper's design, no area loss": {"design": "paper", "mask_weight": 0.0},
    }
    rows = []
    for tie, tau, (name, setting) in itertools.product(TIES, (0.1, 0.25), kinds.items()):
        runs = pick(records, **({"method": "aim", "tau": tau, "epochs": 20, "tie": tie} | setting))
        if runs:
            asked = "" if setting.get("mask_weight") == 0 else f", tau {tau:g}"
            cells = [interval(estimate(runs, m)) for m in ("accuracy", "worst_group", "pointing", "precision")]
            rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{name}{asked}{few(runs)}", *cells, *masks_by_seed(runs)])
    header = ["tie", "", "accuracy", "worst group", "pointing", "mask precision"]
    return markdown([*header, *MASKS_BY_SEED], rows)


def norms(records: Sequence[Run]) -> str:
    """The paper's design with each norm in its mask estimators."""
    rows = []
    for runs in by_setting(records, lambda c: True).values():
        cells = [deviation(runs, m) for m in ("accuracy", "worst_group", "precision")]
        rows.append([f"`mask_norm={runs[0]['config']['mask_norm']!r}`{few(runs)}", *cells, *masks_by_seed(runs)])
    return markdown(["", "accuracy", "worst group", "mask precision", *MASKS_BY_SEED], rows)


def masks_by_seed(runs: Sequence[Run]) -> list[str]:
    """The cells below ``MASKS_BY_SEED``."""
    areas = (", ".join(f"{area:.2f}" for area in run["areas"].values()) for run in runs)
    return ["; ".join(areas), str(dead_masks(runs))]


def rule(ours: Sequence[Run], papers: Sequence[Run]) -> str:
    """Both designs at their best settings, and what the rule of README.md says of them."""
    rows, verdicts = [], []
    for regime, trained in (("frozen", False), ("trained", True)):
        gains: dict[str, list[Estimate]] = {"worst group": [], "mask precision": []}
        for tie in TIES:
            of_rule = [searched(records, tie, trained=trained) for records in (ours, papers)]
            shared = of_rule[0].keys() & of_rule[1].keys()
            best = [best_of([runs[key] for key in sorted(shared)], "aim", tie) for runs in of_rule]
            seeds = set.intersection(*({run["config"]["seed"] for run in runs} for runs in best))
            if not seeds:
                continue
            best = [[run for run in runs if run["config"]["seed"] in seeds] for runs in best]
            row = [regime, f"{100 * tie:.0f}{NO_BREAK}%{few(best[0])}", *map(best_setting, best)]
            for found, measure in zip(gains.values(), ("worst_group", "precision"), strict=True):
                found.append(difference(*best, measure))
                row += [*(f"{mean(runs, measure):.3f}" for runs in best), signed(found[-1])]
            rows.append(row)
        if gains["worst group"]:
            fewest = min(len(gain.seeds) for gain in gains["worst group"])
            so_far = "" if fewest >= 5 else f" (so far, with {fewest} of five seeds)"
            found = verdict(gains) if len(gains["worst group"]) == len(TIES) else "the rule needs both ties"
            verdicts.append(f"With a {regime} backbone {found}{so_far}.")
    header = ["backbone", "tie", "our design at", "the paper's design at"]
    for measure in ("worst group", "mask precision"):
        header += [f"{measure}: ours", "the paper's", "difference"]
    return "\n\n".join([markdown(header, rows), *verdicts])


def searched(records: Sequence[Run], tie: float, *, trained: bool) -> dict[tuple[Any, ...], Run]:
    """AIM's runs that the rule compares, all at tau 0.1, by what was searched and by seed."""
    names = ("epochs", "learning_rate", "backbone_rate", "norms", "seed")
    return {
        tuple(run["config"][name] for name in names): run
        for run in pick(records, method="aim", tie=tie, tau=SHOWN["tau"])
        if (run["config"]["backbone_rate"] > 0) == trained
    }


def best_setting(runs: Sequence[Run]) -> str:
    """What these runs share of what was searched, and their dead masks."""
    config = runs[0]["config"]
    trained = f", backbone at {config['backbone_rate']:g}, norms {config['norms']}" if config["backbone_rate"] else ""
    dead = f"; {dead_masks(runs)} of {len(runs)} seeds with a dead mask"
    return f"{config['epochs']} epochs at {config['learning_rate']:g}{trained}{dead}"


def verdict(gains: dict[str, list[Estimate]]) -> str:
    """Which design is better by the rule, and in what: above zero at one tie, not below zero at the other."""
    won = {"our design": list[str](), "the paper's design": list[str]()}
    for (name, measures), (measure, found) in itertools.product(won.items(), gains.items()):
        sign = 1 if name == "our design" else -1
        ends = [sorted((sign * gain.low, sign * gain.high)) for gain in found]
        if len(ends) == len(TIES) and any(low > 0 for low, _ in ends) and all(high >= 0 for _, high in ends):
            measures.append(measure)
    better = [f"{name} is better in {' and '.join(measures)}" for name, measures in won.items() if measures]
    return ", ".join(better) or "neither design is better"


def second_look(records: Sequence[Run], search: Sequence[Run]) -> str:
    """Each setting of AIM with a second look, below the same seeds with one."""
    rows = []
    looked = by_setting(records, lambda c: c["second_look"]).values()
    once = [*search, *(run for run in records if not run["config"]["second_look"])]
    for twice in looked:
        config = twice[0]["config"]
        seeds = [run["config"]["seed"] for run in twice]
        partner = [run for seed in seeds for run in pick(once, **(config | {"seed": seed, "second_look": False}))]
        setting = f"tau {config['tau']:g}, {config['epochs']} epochs at {config['learning_rate']:g}"
        for name, runs in ((f"{setting}, one look", partner), (f"{setting}, second look", twice)):
            if runs:
                rows.append(ablation_row(f"{name}{few(runs)}", runs))
    return markdown(["", "accuracy", "worst group", "pointing", "area", "mask precision"], rows)


def look_again(records: Sequence[Run], search: Sequence[Run]) -> str:
    """The second look and its control at their best settings: what they gain, and what they are shown."""
    rows = []
    for tie in TIES:
        plain = best_of(search, "plain", tie)
        for method in (LOOK, LOOK_BY_CAM):
            runs = best_of(records, method, tie)
            if not runs:
                continue
            seeds = {run["config"]["seed"] for run in runs}
            name = "**AIM**, second look" if method == LOOK else "second look through the probe's map"
            cells = gain_cells(runs, [run for run in plain if run["config"]["seed"] in seeds])
            cells += [f"{mean(runs, measure):.2f}" for measure in ("kept_area", "kept_precision", "kept_recall")]
            rows.append([f"{100 * tie:.0f}{NO_BREAK}%", f"{name}{few(runs)}", *cells])
    header = ["tie", "minus the best linear probe", "accuracy", "worst group", "pointing"]
    return markdown([*header, "pixels kept", "of them animal", "of the animal kept"], rows)


def pixels_again(records: Sequence[Run]) -> str:
    """How many of a second look's predictions survive when the first look sees other pixels."""
    rates: dict[str, list[float]] = {}
    for run in records:
        for row in run["survival"]:
            rates.setdefault(row["filling"], []).append(row["rate"])
    kept = plus_minus([run["kept_pixels"] for run in records])
    row = [f"kept pixels, {kept}{few(records)}", "recomputed", *(plus_minus(values) for values in rates.values())]
    return markdown(["pixels kept", "masks", *(f"rest: {filling}" for filling in rates)], [row])


def bottom_up(records: Sequence[Run], reference: Sequence[Run]) -> str:
    """Masks inside the backbone, next to AIM with the same tau and seeds."""
    rows = []
    for runs in by_setting(records, lambda c: True).values():
        config = runs[0]["config"]
        moved = ", `labels_move_area=True`" if config["labels_move_area"] else ""
        rows.append(ablation_row(f"bottom-up, tau {config['tau']:g}{moved}{few(runs)}", runs))
    seeds = {run["config"]["seed"] for run in records}
    for tau in sorted({run["config"]["tau"] for run in records}, reverse=True):
        top_down = pick(reference, tie=1.0, **(SHOWN | {"tau": tau}))
        same = [run for run in top_down if run["config"]["seed"] in seeds]
        if same:
            rows.append(ablation_row(f"**AIM**, tau {tau:g}{few(same)}", same))
    return markdown(["", "accuracy", "worst group", "pointing", "area", "mask precision"], rows)


def centre_bias(records: Sequence[Run]) -> str:
    """Trained on centred animals, tested by where the animals are."""
    rows = []
    for runs in by_setting(records, lambda c: True).values():
        config = runs[0]["config"]
        names = {"plain": "linear probe", "open": "masks held open", "aim": "**AIM**, tau 0.1"}
        setting = f"{names[config['method']]}, {config['epochs']} epochs at {config['learning_rate']:g}"
        for placement in dict.fromkeys(run["placement"] for run in runs):
            there = [run for run in runs if run["placement"] == placement]
            cells = [deviation(there, measure) for measure in ("accuracy", "pointing")]
            chance = f"{mean(there, 'chance'):.3f}"
            precision = deviation(there, "precision") if config["method"] == "aim" else ""
            rows.append([f"{setting}{few(there)}", placement, *cells, chance, precision])
    return markdown(["", "animals are", "accuracy", "pointing", "its chance", "mask precision"], rows)


def fine_tuned(records: Sequence[Run]) -> str:
    """Every setting, and the seeds it was run with."""
    names = {"plain": "plain", "open": "masks held open", "aim": "**AIM**, tau 0.1"}
    rows = []
    for runs in by_setting(records, lambda c: True).values():
        config = runs[0]["config"]
        name = f"{names[config['method']]}{few(runs)}"
        cells = [deviation(runs, m) for m in ("accuracy", "worst_group", "pointing")]
        cells += [deviation(runs, m) if m in runs[0] else "" for m in ("area", "precision")]
        setting = [f"{100 * config['tie']:.0f}{NO_BREAK}%", f"{config['backbone_rate']:g}", config["norms"]]
        rows.append([*setting, name, *cells])
    rows.sort(key=lambda row: (not row[0].startswith("95"), float(row[1]), row[2]))
    header = ["tie", "backbone's rate", "BatchNorm", "", "accuracy", "worst group", "pointing", "area"]
    return markdown([*header, "mask precision"], rows)


def describe(config: dict[str, Any]) -> str:
    """What a config changes."""
    default = Config(config["method"], config["tie"], config["seed"]).key
    changed = {name: value for name, value in config.items() if value != default[name]}
    return ", ".join(f"`{name}={value!r}`" for name, value in changed.items())


# ---- Choosing runs --------------------------------------------------------------------------------------------------


def pick(records: Sequence[Run], **wanted: Any) -> list[Run]:
    """The runs whose config has these values, by seed; None means any value."""
    given = {name: value for name, value in wanted.items() if value is not None}
    chosen = [run for run in records if all(run["config"][name] == value for name, value in given.items())]
    return sorted(chosen, key=lambda run: run["config"]["seed"])


def search_of(headline: Sequence[Run], searches: Sequence[Run]) -> list[Run]:
    """Every setting that plain, the control and AIM were tried with."""
    plain = [run for run in headline if run["config"]["method"] == "plain"]
    masked = [
        run
        for tie in TIES
        for method in ("open", "aim")
        for run in pick(headline, **SHOWN | {"tie": tie, "method": method})
    ]
    return [*plain, *masked, *searches]


def best_of(search: Sequence[Run], method: str, tie: float) -> list[Run]:
    """The setting with the best worst group among those with most seeds, picked on the test itself."""
    settings = by_setting(search, lambda c: c["method"] == method and c["tie"] == tie).values()
    return max(settings, key=lambda runs: (len(runs), mean(runs, "worst_group")), default=[])


def headline_rows(records: Sequence[Run], search: Sequence[Run], tie: float) -> list[tuple[str, list[Run]]]:
    """Names and runs of the rows that there are results for."""
    rows = [
        (name, best_of(search, wanted, tie) if isinstance(wanted, str) else pick(records, tie=tie, **wanted))
        for name, wanted in HEADLINE
    ]
    unique: list[tuple[str, list[Run]]] = []  # AIM's best setting gets a row only where it is another
    for name, runs in rows:
        if runs and all(runs != other for _, other in unique):
            unique.append((name, runs))
    return unique


def few(runs: Sequence[Run]) -> str:
    """A remark where not all five seeds were run."""
    return "" if len(runs) >= 5 else f" ({len(runs)} seed{'s' if len(runs) > 1 else ''})"


def dead_masks(runs: Sequence[Run]) -> int:
    """The number of runs in which a stage's mask is open nearly everywhere or nearly nowhere."""
    return sum(any(not 0.02 < area < 0.98 for area in run["areas"].values()) for run in runs)


# ---- Cells ----------------------------------------------------------------------------------------------------------


def mean(runs: Sequence[Run], measure: str) -> float:
    return statistics.mean(run[measure] for run in runs)


def interval(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f},{NO_BREAK}{value.high:.3f}]"


def signed(gain: Estimate) -> str:
    return f"{gain.mean:+.3f} [{gain.low:+.3f},{NO_BREAK}{gain.high:+.3f}]"


def deviation(runs: Sequence[Run], measure: str) -> str:
    return plus_minus([run[measure] for run in runs])


def plus_minus(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---- Figures --------------------------------------------------------------------------------------------------------


def draw(records: Sequence[Run], search: Sequence[Run]) -> None:
    """The figures of the page, from the headline's runs."""
    draw_results(records, search).savefig(ASSETS / "found-results.png", dpi=110)
    draw_scatter(records, search).savefig(ASSETS / "found-scatter.png", dpi=110)


def draw_results(records: Sequence[Run], search: Sequence[Run]) -> Figure:
    """Every headline row as a dot with its interval."""
    measures = {"accuracy": "accuracy", "worst_group": "worst group", "pointing": "pointing"}
    panels: dict[tuple[str, str], list[Result]] = {}
    baseline = HEADLINE[0][0]
    for tie in TIES:
        for measure, shown in measures.items():
            rows = panels.setdefault((f"{100 * tie:.0f} % tie", shown), [])
            for name, runs in headline_rows(records, search, tie):
                rows.append(Result(name.replace("*", ""), *estimate(runs, measure)))
    chance = {"pointing": statistics.mean(run["chance"] for run in records)}
    return plot_results(
        panels,
        baseline=baseline,
        interval="95 % bootstrap over cut-outs",
        chance=chance,
        title="Stamps: a frozen tf_efficientnet_lite0",
    )


def draw_scatter(records: Sequence[Run], search: Sequence[Run]) -> Figure:
    """Energy pointing of every test image at a 100 % tie, all seeds together."""
    plain = {run["config"]["seed"]: run["images"] for run in best_of(search, "plain", 1.0)}
    aim = {run["config"]["seed"]: run["images"] for run in pick(records, tie=1.0, **SHOWN)}
    seeds = sorted(plain.keys() & aim.keys())
    assert all(plain[seed]["cutout"] == aim[seed]["cutout"] for seed in seeds)
    return plot_scatter(
        *([math.nan if x is None else x for seed in seeds for x in run[seed]["pointing"]] for run in (plain, aim)),
        groups=[group for seed in seeds for group in plain[seed]["group"]],
        group_names=["bird on water", "bird on land", "mammal on water", "mammal on land"],
        chance=statistics.mean(run["chance"] for run in pick(records, tie=1.0, **SHOWN)),
        measure="energy pointing",
        names=("linear probe", "AIM"),
    )


if __name__ == "__main__":
    main()
