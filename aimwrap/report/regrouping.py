"""The content as a page shows it: by score and by group, with the models side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

# Shown beside what it is the chance level of, not by itself.
CHANCE = "chance"
POINTING = ("energy_pointing", "energy_pointing_matched")


def by_score(content: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per score: its name, what it means, each model's value, and the difference of two models.

    Args:
        content: of a report.

    Returns:
        In the order of the first model's scores. A model's ``chance`` is the score of a map of equal values, None
        where that says nothing. The chance level comes by itself only where no pointing score is there to carry it.

    Example:
        >>> score = {"key": "area", "name": "Area", "value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "explained": "open"}
        >>> model = {"name": "AIM", "role": "model", "scores": [score]}
        >>> [entry["models"][0]["value"] for entry in by_score({"models": [model], "differences": None})]
        [0.2]
    """
    differences = {row["key"]: row for row in content["differences"] or []}
    by_model = [{score["key"]: score for score in model["scores"]} for model in content["models"]]
    keys = list(dict.fromkeys(key for scores in by_model for key in scores))
    carriers = [key for key in keys if key in POINTING]
    entries = []
    for key in keys:
        if key == CHANCE and carriers:
            continue
        rows = [
            {"model": model, **scores[key], "chance": scores.get(CHANCE, {}).get("value") if key in POINTING else None}
            for model, scores in zip(content["models"], by_model, strict=True)
            if key in scores
        ]
        told = next((row for row in rows if row["value"] is not None), rows[0])  # not why another model has none
        chance = next((scores[CHANCE] for scores in by_model if CHANCE in scores), None) if key in POINTING else None
        entries.append(
            {
                **{name: told[name] for name in ("key", "name", "explained", "n")},
                "models": rows,
                "difference": differences.get(key),
                "chance": chance,
            }
        )
    return entries


def usual_difference(content: dict[str, Any]) -> str:
    """What is said of most differences, so that a page need not say it of each; empty without differences.

    Example:
        >>> usual_difference({"differences": [{"explained": said} for said in ("paired", "by group", "paired")]})
        'paired'
    """
    said = Counter(row["explained"] for row in content["differences"] or [])
    return said.most_common(1)[0][0] if said else ""


def by_group(content: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per group: name, counts, and each model's accuracy, marked where it is the model's lowest.

    Args:
        content: of a report.

    Returns:
        In the order of the groups.
    """
    models = content["models"]
    lowest = [
        min((group["accuracy"] for group in model["groups"] if group["accuracy"] is not None), default=None)
        for model in models
    ]
    rows = []
    for same in zip(*(model["groups"] for model in models), strict=True):
        cells = [
            {"model": model, **group, "worst": group["accuracy"] is not None and group["accuracy"] == worst}
            for model, group, worst in zip(models, same, lowest, strict=True)
        ]
        rows.append({**{name: same[0][name] for name in ("name", "images", "train_images")}, "models": cells})
    return rows


def pairs(content: dict[str, Any]) -> list[tuple[int, int]]:
    """Which models can be plotted against each other: numbers of the one across and the one upwards.

    Args:
        content: of a report.

    Returns:
        The model against plain first, then against the other, then the other against plain; none where no object is
        known.
    """
    if not content["data"]["objects_known"]:
        return []
    number = {model["role"]: index for index, model in enumerate(content["models"])}
    wanted = (("plain", "model"), ("other", "model"), ("plain", "other"))
    return [(number[across], number[up]) for across, up in wanted if across in number and up in number]
