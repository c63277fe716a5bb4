"""The report as plain values: what ``report.json`` holds, and what the page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import torch

from ..data.release import ReleaseDataset, groups_of
from ..health import MaskFinding
from .measuring import Evaluation, Groups, differences, group_rows, scores_of
from .subjects import card_of

FORMAT = 1


def content_of(
    evaluation: Evaluation,
    images: ReleaseDataset,
    *,
    root: str,
    title: str | None,
    command: str | None,
    notes: Sequence[str],
    verifications: Sequence[dict[str, Any] | None],
) -> dict[str, Any]:
    """Dicts, lists, texts and finite numbers; the arguments are those of ``build_report``, or made by it."""
    from .. import __version__

    groups, objects = groups_in(images), objects_in(images)
    subjects = evaluation.subjects
    split = images.split or "all"
    return {
        "format": FORMAT,
        "title": title or f"{subjects[0].name} on {images.release.name}",
        "created": date.today().isoformat(),
        "aimwrap": __version__,
        "command": command,
        "data": {
            "name": images.release.name,
            "root": root,
            "split": split,
            "images": len(images),
            "shown": len(evaluation.cards),
            "chosen": _chosen(evaluation),
            "classes": list(images.classes),
            "groups": list(groups.names) if groups.are_places else None,
            "objects_known": objects is not None,
            "objects": objects,
        },
        "image_size": list(subjects[0].preprocessing.image_size),
        "notes": list(notes),
        "models": [
            _model(evaluation, number, groups, objects, verification)
            for number, verification in enumerate(verifications)
        ],
        "differences": _differences(evaluation, groups),
        "images": [card for _, card in evaluation.cards],
    }


def groups_in(images: ReleaseDataset) -> Groups:
    """The groups of a split's images, counted in the release's training images too."""
    places = images.groups is not None
    names = images.group_names if places else images.classes
    counts = None
    if "train" in images.splits:
        counts = torch.bincount(groups_of(ReleaseDataset(images.release, "train")), minlength=len(names))
    return Groups(groups_of(images), names, places, counts)


def objects_in(images: ReleaseDataset) -> str | None:
    """Whether masks or boxes of the objects are known, in words."""
    masks = any(record.mask_path is not None for record in images.records)
    boxes = any(record.mask_path is None and record.boxes is not None for record in images.records)
    return {(True, True): "masks and boxes", (True, False): "masks", (False, True): "boxes"}.get((masks, boxes))


def _model(
    evaluation: Evaluation, number: int, groups: Groups, objects: str | None, verification: dict[str, Any] | None
) -> dict[str, Any]:
    subject, masks = evaluation.subjects[number], evaluation.masks[number]
    measured, labels = evaluation.measured[number], evaluation.labels
    coarsest = min(rows for rows, _ in evaluation.grids), min(columns for _, columns in evaluation.grids)
    findings = masks.findings()
    aim = subject.aim
    taus = () if aim is None else aim.tau
    return {
        "name": subject.name,
        "role": subject.role,
        "kind": "plain" if aim is None else "aim",
        "variant": subject.variant,
        "head": None if aim is None else aim.head,
        "stages": [
            {"stage": str(stage), "grid": list(masks.grids[stage]), "tau": tau, "area": round(masks.area(stage), 6)}
            for stage, tau in zip(subject.stages, taus, strict=True)
        ],
        "grid": list(evaluation.grids[number]),
        "card": card_of(subject),
        "scores": [
            score.as_dict() for score in scores_of(measured, evaluation.chance, groups, labels, objects, coarsest)
        ],
        "groups": group_rows(measured, labels, groups),
        "health": None if findings is None else [_finding(found) for found in findings],
        "verification": verification,
    }


def _finding(found: MaskFinding) -> dict[str, str | None]:
    stage = None if found.stage is None else str(found.stage)
    return {"stage": stage, "symptom": found.symptom, "message": found.message}


def _differences(evaluation: Evaluation, groups: Groups) -> list[dict[str, Any]] | None:
    by_role = {s.role: measured for s, measured in zip(evaluation.subjects, evaluation.measured, strict=True)}
    if "other" not in by_role:
        return None
    found = differences(by_role["model"], by_role["other"], evaluation.labels, groups)
    return [score.as_dict() for score in found]


def _chosen(evaluation: Evaluation) -> str | None:
    if evaluation.drawn is None:
        return None
    worst, drawn = evaluation.drawn
    compared = any(subject.role == "other" for subject in evaluation.subjects)
    extreme = "on which the two models differ most" if compared else "on which it is least sure of the label"
    return f"the {worst} {extreme}, and {drawn} drawn at random from the others"
