"""The texts of a training: a line per epoch, and its results as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .._text import table
from .evaluation import EXPLAINED
from .run import Result

_SHOWN = (
    *("average", "worst_group", "weighted_average"),
    *("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall"),
)
_OF_RULES = ("worst_class", "survival")  # measured where an epoch is selected by them
_WHAT = {
    "average": "accuracy",
    "weighted_average": "accuracy, weighted by training groups",
    "energy_pointing_matched": "energy pointing, matched grid",
}
_PARTS = {"exchange": "exchanged", "second_look": "second look"}  # of a result, in the order of the table


def format_epoch(line: Mapping[str, Any], seconds: float) -> str:
    """One epoch in a line.

    >>> format_epoch({"epoch": 3, "tau": (0.5, 0.25), "train": {"loss": 1.25, "average": 0.5}}, 12.0)
    'epoch 3: tau 0.5 0.25, train loss 1.250, accuracy 0.500; 12 s'
    """
    name = f"{line['part']}, epoch" if "part" in line else "epoch"
    parts = []
    if "tau" in line:
        tau = line["tau"] if isinstance(line["tau"], list | tuple) else [line["tau"]]
        parts.append(f"tau {' '.join(f'{value:.3g}' for value in dict.fromkeys(tau))}")
    parts.append(f"train loss {line['train']['loss']:.3f}, accuracy {line['train']['average']:.3f}")
    validation = line.get("validation")
    if validation is not None:
        areas = "".join(f", area of stage {stage} {area:.3f}" for stage, area in validation.get("area", {}).items())
        more = "".join(f", {_name(name)} {_text(validation[name])}" for name in _OF_RULES if name in validation)
        parts.append(
            f"validation {_text(validation['average'])}, worst group {_text(validation['worst_group'])}{more}{areas}"
        )
    return f"{name} {line['epoch']}: {', '.join(parts)}; {seconds:.0f} s"


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Each score's mean and deviation over runs that differ in their seed alone, as in ``summary.json``."""
    first = results[0]
    found = {
        "variant": first.variant,
        "seeds": [result.seed for result in results],
        "selection": first.selection,
        "epochs": [result.epoch for result in results],
        "tested_on": first.tested_on,
        "scores": _means([result.scores for result in results]),
    }
    for part in _PARTS:
        if each := [getattr(result, part) for result in results if getattr(result, part) is not None]:
            means = _means([one["scores"] for one in each])
            found[part] = {"epochs": [one["epoch"] for one in each], "scores": means}
    return found


def format_results(results: Sequence[Result]) -> str:
    """All seeds' scores, mean ± deviation, and the rule by which the epochs were selected."""
    found = summary(results)
    first = results[0]
    lines = [f"{first.variant}, on the split {first.tested_on}, seed{'s' if len(results) > 1 else ''} "]
    lines[0] += ", ".join(str(seed) for seed in found["seeds"])
    lines += [f"  {first.classes}"] if first.classes else []
    parts = {part: name for part, name in _PARTS.items() if part in found}
    looks = [(found["scores"], first.scores)]
    looks += [(found[part]["scores"], getattr(first, part)["scores"]) for part in parts]
    rows = [["", "first look", *parts.values()]] if parts else []
    rows += [
        [_name(name), *(_cell(name, means[name], one, len(results)) for means, one in looks)]
        for name in found["scores"]
    ]
    lines.append(table(rows, indent="  "))
    rule = EXPLAINED[first.selection]  # type: ignore[index]  # written by a run, as one of these
    lines.append(f"Selected by {first.selection}: {rule}. Epoch {', '.join(map(str, found['epochs']))}.")
    for part, name in parts.items():
        of = "exchanged classifier" if part == "exchange" else name
        lines[-1] += f" Of the {of}, epoch {', '.join(map(str, found[part]['epochs']))}."
    if first.tested_on == "val" and first.selection != "last":
        lines.append("There is no test split, so these are the images that the epoch was selected on: they flatter.")
    findings = {finding for result in results for finding in result.mask_findings}
    lines += [f"Masks of the saved model: {finding}" for finding in sorted(findings)]
    return "\n".join(lines)


def _means(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    columns = {name: [one.get(name) for one in scores] for name in _SHOWN if name in scores[0]}
    for stage in scores[0].get("area", {}):
        columns[f"area of stage {stage}"] = [one.get("area", {}).get(stage) for one in scores]
    found: dict[str, dict[str, float | None]] = {}
    for name, values in columns.items():
        defined = [value for value in values if value is not None]
        found[name] = {
            "mean": statistics.fmean(defined) if defined else None,
            "deviation": statistics.stdev(defined) if len(defined) > 1 else None,
            "seeds": len(defined),
        }
    return found


def _cell(name: str, score: Mapping[str, float | None], of_first_seed: Mapping[str, Any], seeds: int) -> str:
    deviation = "" if score["deviation"] is None else f" ± {score['deviation']:.3f}"
    chance = of_first_seed.get("chance") if name == "energy_pointing" else None
    if score["seeds"] not in (0, seeds):
        deviation += f" in {score['seeds']} of {seeds} seeds, undefined in the others"
    return f"{_text(score['mean'])}{deviation}{'' if chance is None else f' (chance {chance:.3f})'}"


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _name(score: str) -> str:
    return _WHAT.get(score, score.replace("_", " "))
