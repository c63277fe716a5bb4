"""The page: one HTML file that needs nothing else, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

# Shown with the score that it is the chance level of, not by itself.
CHANCE = "chance"
POINTING = ("energy_pointing", "energy_pointing_matched")


def by_score(content: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per score: its name, what it means, each model's value, and the difference of two models.

    In the order of the first model's scores. The chance level has no entry of its own: it is the ``chance`` of the
    pointing scores, what a map of equal values gets. Kept pixels have one where a model is a second look.

    Example:
        >>> score = {"key": "area", "name": "Area", "value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "explained": "open"}
        >>> model = {"name": "AIM", "role": "model", "scores": [score]}
        >>> [entry["models"][0]["value"] for entry in by_score({"models": [model], "differences": None})]
        [0.2]
    """
    differences = {row["key"]: row for row in content["differences"] or []}
    by_model = [{score["key"]: score for score in model["scores"]} for model in content["models"]]
    entries = []
    for key in [key for key in by_model[0] if key != CHANCE]:
        rows = [
            {"model": model, **scores[key], "chance": scores[CHANCE]["value"] if key in POINTING else None}
            for model, scores in zip(content["models"], by_model, strict=True)
        ]
        shown = next((row for row in rows if row["value"] is not None), rows[0])  # not why another model has none
        if key == "kept_area" and shown["value"] is None:
            continue
        entries.append(
            {
                **{name: shown[name] for name in ("key", "name", "explained", "n")},
                "models": rows,
                "difference": differences.get(key),
                "chance": by_model[0][CHANCE] if key in POINTING else None,
            }
        )
    return entries


def usual_difference(content: dict[str, Any]) -> str:
    """The explanation of most differences, which the page then gives only once; empty without differences.

    Example:
        >>> usual_difference({"differences": [{"explained": said} for said in ("paired", "by group", "paired")]})
        'paired'
    """
    said = Counter(row["explained"] for row in content["differences"] or [])
    return said.most_common(1)[0][0] if said else ""


def by_group(content: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per group: name, counts, and each model's accuracy, marked where it is the model's lowest."""
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
    """Numbers of the models to plot against each other, (horizontal, vertical); none where no object is known."""
    if not content["data"]["objects_known"]:
        return []
    number = {model["role"]: index for index, model in enumerate(content["models"])}
    wanted = (("plain", "model"), ("other", "model"), ("plain", "other"))
    return [(number[across], number[up]) for across, up in wanted if across in number and up in number]


PAGE = Path(__file__).parent / "page"
# In this order: what a file uses at its top level comes before it.
STYLES = ("colours", "base", "masthead", "numbers", "scatter", "gallery", "dialog", "print")
SCRIPTS = (
    *("elements", "content", "words", "decoding", "overlays", "painting", "state", "choosing", "views"),
    *("cards", "gallery", "controls", "dialog", "scatter", "keys", "theme", "start"),
)


def render(content: dict[str, Any]) -> str:
    """Write the content of a report as one HTML page.

    The numbers are in the markup, the gallery is made by the page's own script from the content embedded as JSON. A
    content security policy lets the browser run this script and no other, apply this style and no other, and load
    nothing; names are always shown as text.

    Args:
        content: of format 1, as ``aimwrap.report`` makes it and ``report.json`` has it, with thumbnails.

    Returns:
        The page. Write it as UTF-8.

    Raises:
        ImportError: without Jinja, naming the extra.
        ValueError: if a number is NaN or infinite: what is undefined must be None.
    """
    style = "\n".join((PAGE / f"{name}.css").read_text("utf-8") for name in STYLES)
    script = joined_scripts()
    allowed = {"img-src": "data:", "script-src": _hash(script), "style-src": _hash(style)}
    rules = ["default-src 'none'", *map(" ".join, allowed.items()), "base-uri 'none'", "form-action 'none'"]
    page: str = page_template().render(
        content=content,
        scores=by_score(content),
        groups=by_group(content),
        pairs=pairs(content),
        usual_difference=usual_difference(content),
        embedded=embed(content),
        style=style,
        script=script,
        policy="; ".join(rules),
    )
    # Names of files that are not UTF-8 hold lone surrogates, which no page can.
    return page.encode("utf-8", "replace").decode("utf-8")


def page_template() -> Any:
    """Jinja's template of the page; an ImportError without Jinja, naming the extra."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise ImportError("reports need Jinja: pip install 'aimwrap[report]'") from error
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "points": points, "count": count}
    return environment.get_template("page.html.j2")


def joined_scripts() -> str:
    """The scripts in one, in a function of their own, so that the page's globals stay as they are."""
    parts = "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def embed(content: dict[str, Any]) -> str:
    r"""JSON that is safe inside a script element: no text in it can end the element or start another.

    Example:
        >>> print(embed({"name": "</script>"}))
        {"name":"\u003c/script\u003e"}
    """
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII only, so U+2028 is escaped as well
    except ValueError as error:
        raise ValueError(f"content must hold finite numbers, and None for what is undefined: {error}") from error
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def percent(value: float | None) -> str:
    """A share in per cent.

    Example:
        >>> percent(0.8617), percent(None)
        ('86.2%', 'undefined')
    """
    return "undefined" if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """A difference of shares, in percentage points and with its sign.

    Example:
        >>> points(0.031), points(-0.0004), points(-0.2)
        ('+3.1', '0.0', '−20.0')
    """
    if value is None:
        return "undefined"
    rounded = round(100 * value, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def count(value: int | None) -> str:
    """A number of things.

    Example:
        >>> count(5000), count(None)
        ('5,000', 'unknown')
    """
    return "unknown" if value is None else f"{value:,}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
