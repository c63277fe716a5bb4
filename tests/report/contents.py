"""Synthetic content of a report: small scenes with an object, and two or three models that look at them.

Deterministic, and consistent with itself: scores and table rows are worked out from the masks and contributions that
are next to them, so that a page can be checked against numbers that it did not make.
"""

from __future__ import annotations

import base64
import functools
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aimwrap.analysis.intervals import wilson_interval

Array = NDArray[Any]
SIDE = 224
STAGES = {"2": 14, "3": 7}
OBJECT_SIDE = 28
SCENES = 40  # different thumbnails; thousands of images take turns
COLOURS = {"bird": (214, 196, 160), "mammal": (120, 84, 60), "insect": (60, 110, 70)}
PLACES = {"land": ((128, 150, 92), (92, 110, 62)), "water": ((150, 188, 214), (40, 84, 130))}

# Strings as an attacker, or an unlucky file system, would choose them.
HOSTILE = (
    "</script><img src=x onerror=\"window.hacked='image'\">",
    '"><svg onload="window.hacked=\'svg\'">',
    "\u202egnp.rac \u2066\u200f",
    "w" * 500,
    "🦆🏽‍🌊 " * 4,
    "javascript:window.hacked='link'",
    "{{ 7 * 7 }} ${7 * 7} <!-- <script>window.hacked='script'</script>",
    "a\u2028b\u2029c\x00d\udc80e &amp; &lt;b&gt;",
)


class Look(NamedTuple):
    """How a synthetic model looks: how often at the object, how sharply, and how often it is right then and else."""

    name: str
    role: str
    kind: str
    on_object: float
    skill: float


AIM = Look("AIM, tau 0.25", "model", "aim", 0.9, 0.93)
OTHER = Look("AIM, tau 0.5", "other", "aim", 0.7, 0.88)
PLAIN = Look("plain", "plain", "plain", 0.45, 0.85)


def make_content(
    images: int = 24,
    *,
    compare: bool = False,
    plain: bool = True,
    objects: bool = True,
    groups: bool = True,
    hostile: bool = False,
    alone: Look = AIM,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of a report, as the contract with ``aimwrap.report.html.render`` has it."""
    random = np.random.default_rng(seed)
    looks = [alone, *([OTHER] if compare else []), *([PLAIN] if plain else [])]
    classes = ["bird", "mammal", "insect"]
    group_names = [f"{label} on {place}" for label in classes for place in PLACES]
    shown = [_image(index, looks, classes, objects, groups, random) for index in range(images)]
    if compare:
        shown.sort(key=_difference, reverse=True)
    else:
        shown.sort(key=lambda image: image["by_model"][0]["true_confidence"])
    names = group_names if groups else classes
    content = {
        "format": 1,
        "title": "Birds, mammals and insects",
        "created": "2026-11-28",
        "aimwrap": "0.1.0",
        "command": "aimwrap report runs/aim folder data/animals --plain runs/plain --out report.html",
        "data": {
            "name": "animals",
            "root": "data/animals",
            "split": "test",
            "images": images,
            "shown": images,
            "classes": classes,
            "groups": group_names if groups else None,
            "objects_known": objects,
        },
        "image_size": [SIDE, SIDE],
        "models": [_model(look, index, shown, names, groups, objects) for index, look in enumerate(looks)],
        "background": _background() if alone.kind == "aim" else None,
        "differences": _differences(shown, objects) if compare else None,
        "images": shown,
    }
    return _made_hostile(content) if hostile else content


def _difference(image: dict[str, Any]) -> tuple[float, float]:
    first, second = image["by_model"][:2]
    pointing = [entry["energy_pointing"] or 0.0 for entry in (first, second)]
    return abs(first["true_confidence"] - second["true_confidence"]), abs(pointing[0] - pointing[1])


# ---- One image ------------------------------------------------------------------------------------------------------


def _image(
    index: int, looks: list[Look], classes: list[str], objects: bool, groups: bool, random: np.random.Generator
) -> dict[str, Any]:
    scene = index % SCENES
    label, place = scene % len(classes), scene // len(classes) % len(PLACES)
    thumbnail, (x, y, radius) = _scene(classes[label], list(PLACES)[place], scene)
    mask = _disc(OBJECT_SIDE, x, y, radius)
    bits = {"grid": [OBJECT_SIDE, OBJECT_SIDE], "bits": packed(mask)} if objects else None
    return {
        "id": f"{classes[label]}/{index:05d}.jpg",
        "label": label,
        "group": label * len(PLACES) + place if groups else None,
        "thumbnail": thumbnail,
        "object": bits,
        "by_model": [
            _seen_by(look, label, len(classes), (x, y, radius), mask if objects else None, random) for look in looks
        ],
    }


@functools.cache
def _scene(label: str, place: str, seed: int) -> tuple[str, tuple[float, float, float]]:
    """A thumbnail as a data URL, and the object's centre and radius as shares of the side."""
    random = np.random.default_rng(seed)
    side = 160
    top, bottom = (np.array(colour, dtype=float) for colour in PLACES[place])
    height = np.linspace(0, 1, side)[:, None, None]
    pixels = top * (1 - height) + bottom * height + random.normal(0, 9, (side, side, 1))
    if place == "water":
        waves = np.sin(np.arange(side)[None, :, None] / 9 + 12 * height + seed) * (height > 0.45) * 16
        pixels = pixels + waves
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    x, y, radius = random.uniform(0.3, 0.7), random.uniform(0.3, 0.7), random.uniform(0.14, 0.24)
    draw = ImageDraw.Draw(picture)
    box = [side * (x - radius), side * (y - 0.75 * radius), side * (x + radius), side * (y + 0.75 * radius)]
    draw.ellipse(box, fill=COLOURS[label])
    head = [side * (x + 0.5 * radius), side * (y - radius), side * (x + 1.1 * radius), side * (y - 0.4 * radius)]
    draw.ellipse(head, fill=tuple(value - 20 for value in COLOURS[label]))
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), (x, y, radius)


def _disc(side: int, x: float, y: float, radius: float) -> Array:
    centres = (np.arange(side) + 0.5) / side
    return (centres[None] - x) ** 2 + (centres[:, None] - y) ** 2 < radius**2


def _seen_by(
    look: Look, label: int, classes: int, place: tuple[float, float, float], mask: Array | None, random: Any
) -> dict[str, Any]:
    x, y, radius = place
    looks_at_it = random.random() < look.on_object
    if not looks_at_it:
        x, y = random.uniform(0.1, 0.9, 2)
    right = random.random() < (look.skill if looks_at_it else 0.4)
    predicted = label if right else (label + random.integers(1, classes)) % classes
    confidence = random.uniform(0.45, 0.99)
    masks = {stage: _disc(side, x, y, radius + 0.5 / side) for stage, side in STAGES.items() if look.kind == "aim"}
    side = max(STAGES.values()) if masks else min(STAGES.values())
    centres = (np.arange(side) + 0.5) / side
    hill = np.exp(-((centres[None] - x) ** 2 + (centres[:, None] - y) ** 2) / (2 * (radius * 0.8) ** 2))
    values = hill - 0.3 + random.normal(0, 0.15, (side, side))
    merged = masks["2"] | masks["3"].repeat(2, 0).repeat(2, 1) if masks else None
    if merged is not None:
        values = values * merged
    scale = float(np.abs(values).max()) or 0.0
    levels = np.round(values / scale * 127).astype(np.int8) if scale else np.zeros((side, side), np.int8)
    return {
        "predicted": int(predicted),
        "right": bool(predicted == label),
        "confidence": round(float(confidence), 4),
        "true_confidence": round(float(confidence if predicted == label else (1 - confidence) * random.random()), 4),
        **_scores(np.maximum(levels, 0), merged, mask),
        "masks": {stage: packed(values) for stage, values in masks.items()},
        "merged": None if merged is None else packed(merged),
        "contributions": {"scale": scale / 10, "values": base64.b64encode(levels.tobytes()).decode()},
    }


def _scores(positive: Array, merged: Array | None, mask: Array | None) -> dict[str, float | None]:
    """Energy pointing on the object's grid, and the merged mask against the object."""
    area = None if merged is None else round(float(merged.mean()), 4)
    if mask is None:
        return {"energy_pointing": None, "mask_precision": None, "mask_recall": None, "area": area}
    times = len(mask) // len(positive)
    energy = positive.repeat(times, 0).repeat(times, 1).astype(float)
    pointing = float(energy[mask].sum() / energy.sum()) if energy.sum() else None
    if merged is None:
        return {"energy_pointing": pointing, "mask_precision": None, "mask_recall": None, "area": area}
    fine = merged.repeat(times, 0).repeat(times, 1)
    shared = float((fine & mask).sum())
    return {
        "energy_pointing": pointing,
        "mask_precision": shared / float(fine.sum()) if fine.any() else None,
        "mask_recall": shared / float(mask.sum()),
        "area": area,
    }


def packed(mask: Array) -> str:
    """Bits, row by row, the most significant first, in base64."""
    return base64.b64encode(np.packbits(mask.astype(bool)).tobytes()).decode()


# ---- What is said of a model ----------------------------------------------------------------------------------------

EXPLAINED = {
    "average": ("Average accuracy", "Share of all images that are classified right."),
    "worst_group": ("Worst group", "Accuracy in the group where it is lowest."),
    "weighted_average": ("Weighted average", "The groups' accuracies, weighted by their shares of the training set."),
    "energy_pointing": ("Energy pointing", "Share of the positive contributions that lies on the object."),
    "energy_pointing_matched": ("Energy pointing, matched", "The same with every map averaged to the coarsest grid."),
    "chance": ("Chance level", "What a map of equal values would score: the object's share of the image."),
    "mask_precision": ("Mask precision", "Share of the merged mask that lies on the object."),
    "mask_recall": ("Mask recall", "Share of the object that the merged mask covers."),
    "area": ("Area", "Share of the positions that the decision may use."),
}


def _model(
    look: Look, index: int, images: list[dict[str, Any]], names: list[str], groups: bool, objects: bool
) -> dict[str, Any]:
    aim = look.kind == "aim"
    of_model = [image["by_model"][index] for image in images]
    by_group = [
        _accuracy([one["right"] for image, one in zip(images, of_model, strict=True) if image[key] == number])
        for key in ["group" if groups else "label"]
        for number in range(len(names))
    ]
    tau = 0.5 if look.role == "other" else 0.25
    return {
        "name": look.name,
        "role": look.role,
        "kind": look.kind,
        "variant": "ConvNeXt-T+AIM [2, 25%], feature-preserving head" if aim else "ConvNeXt-T",
        "head": "feature-preserving" if aim else None,
        "stages": [
            {"stage": stage, "grid": [side, side], "tau": tau, "area": round(tau + 0.01 * int(stage), 4)}
            for stage, side in STAGES.items()
            if aim
        ],
        "grid": [max(STAGES.values())] * 2 if aim else [min(STAGES.values())] * 2,
        "contributions_grid": [max(STAGES.values())] * 2 if aim else [min(STAGES.values())] * 2,
        "card": [
            {"name": "backbone", "value": "convnext_tiny"},
            {"name": "head", "value": "feature-preserving" if aim else "the backbone's own"},
            {"name": "images", "value": "224 x 224, resized (bicubic), central crop 0.875"},
        ],
        "scores": _scores_of(of_model, by_group, images, objects),
        "groups": [
            {
                "name": name,
                "images": row["n"],
                "train_images": 10 * row["n"] + 7 if groups else None,
                "accuracy": row["value"],
                "low": row["low"],
                "high": row["high"],
            }
            for name, row in zip(names, by_group, strict=True)
        ],
        "health": _health(look),
        "verification": _verification() if aim else None,
    }


def _accuracy(right: list[bool]) -> dict[str, Any]:
    if not right:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = wilson_interval(sum(right), len(right))
    return {"value": sum(right) / len(right), "low": low, "high": high, "n": len(right)}


def _mean(values: list[float | None]) -> dict[str, Any]:
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return {"value": None, "low": None, "high": None, "n": 0}
    value, error = float(known.mean()), float(1.96 * known.std() / len(known) ** 0.5)
    return {"value": value, "low": max(-1.0, value - error), "high": min(1.0, value + error), "n": len(known)}


def _scores_of(
    of_model: list[dict[str, Any]], by_group: list[dict[str, Any]], images: list[dict[str, Any]], objects: bool
) -> list[dict[str, Any]]:
    average = _accuracy([one["right"] for one in of_model])
    pointing = _mean([one["energy_pointing"] for one in of_model])
    values = {
        "average": average,
        "worst_group": min((row for row in by_group if row["n"]), key=lambda row: row["value"], default=average),
        "weighted_average": {**average, "low": None, "high": None},
        "energy_pointing": pointing,
        "energy_pointing_matched": {
            key: value and (value if key == "n" else 0.9 * value) for key, value in pointing.items()
        },
        "chance": {**_mean([0.11 if objects else None for _ in images]), "low": None, "high": None},
        **{key: _mean([one[key] for one in of_model]) for key in ("mask_precision", "mask_recall", "area")},
    }
    return [
        {"key": key, "name": EXPLAINED[key][0], **value, "explained": EXPLAINED[key][1]}
        for key, value in values.items()
    ]


def _health(look: Look) -> list[dict[str, Any]] | None:
    if look.kind == "plain":
        return None
    if look.role == "model":
        return []
    message = "the mask of stage 3 is off tau (area 0.811 in evaluation, tau 0.5): raise AIMLoss's mask_weight"
    return [{"stage": "3", "symptom": "off tau", "message": message}]


def _verification() -> dict[str, Any]:
    names = ("values are finite", "masks are exactly 0 or 1", "evaluation is repeatable")
    rates = {"merged mask": (88, 76), "moved mask": (41, 37), "plain CAM": (52,)}
    survival = [
        {"region": region, "filling": filling, "masks": masks, "images": 128, **_rate(count, 128)}
        for filling in ("mean colour", "blur", "another image")
        for region, counts in rates.items()
        for masks, count in zip(("none",) if region == "plain CAM" else ("fixed", "recomputed"), counts, strict=True)
    ]
    return {
        "passed": True,
        "checks": [{"name": name, "passed": True, "detail": "at every stage"} for name in names],
        "survival": survival,
        "area": 0.24,
        "note": "",
    }


def _background() -> dict[str, Any]:
    counts = {
        "the background": 96,
        "the kept region": 91,
        "where the box is": 55,
        "nothing: the most frequent class": 34,
    }
    rows = [{"sees": name, **_rate(count, 100)} for name, count in counts.items()]
    return {
        "verdict": "The background alone predicts the label of 96% of 100 images.",
        "rows": [{"accuracy" if key == "rate" else key: value for key, value in row.items()} for row in rows],
        "hidden": 0.31,
        "images": 100,
        "wrong": [f"bird/{number:05d}.jpg" for number in (3, 17, 59, 98)],
    }


def _rate(count: int, images: int) -> dict[str, float]:
    low, high = wilson_interval(count, images)
    return {"rate": count / images, "low": low, "high": high}


def _differences(images: list[dict[str, Any]], objects: bool) -> list[dict[str, Any]]:
    keys = ["average", *(["energy_pointing"] if objects else []), "area"]
    fields = {"average": "right"}
    rows = []
    for key in keys:
        pairs = [[one[fields.get(key, key)] for one in image["by_model"][:2]] for image in images]
        gaps = [float(first) - float(second) for first, second in pairs if first is not None and second is not None]
        said = "Paired over the images that both models saw."
        rows.append({"key": key, "name": EXPLAINED[key][0], **_mean([*gaps]), "explained": said})
    return rows


def _made_hostile(content: dict[str, Any]) -> dict[str, Any]:
    """Every free string replaced by one that would run, or break the layout, if it were not escaped."""
    names = [*HOSTILE]
    content["title"] = HOSTILE[0] + HOSTILE[3]
    content["command"] = f"aimwrap report {HOSTILE[1]} {HOSTILE[3]}"
    content["data"] |= {"name": HOSTILE[6], "root": HOSTILE[7], "split": HOSTILE[2]}
    content["data"]["classes"] = names[:3]
    if content["data"]["groups"]:
        content["data"]["groups"] = names[:6]
    for position, model in enumerate(content["models"]):
        model |= {"name": names[(position + 3) % len(names)], "variant": HOSTILE[1], "head": HOSTILE[0]}
        model["card"] = [{"name": name, "value": name} for name in names]
        model["health"] = [{"stage": HOSTILE[0], "symptom": HOSTILE[1], "message": name} for name in names]
        for group, name in zip(model["groups"], names, strict=False):
            group["name"] = name
        for score in model["scores"]:
            score |= {"name": HOSTILE[0], "explained": HOSTILE[6]}
        if model["verification"]:
            model["verification"]["note"] = HOSTILE[0]
            for check, name in zip(model["verification"]["checks"], names, strict=False):
                check |= {"name": name, "detail": name}
    if content["background"]:
        content["background"]["wrong"] = names
    for position, image in enumerate(content["images"]):
        image["id"] = names[position % len(names)]
    return content
