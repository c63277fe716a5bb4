"""The report: its content as plain values, which ``report.json`` and the page hold, its headline, and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._files import replacing_together
from .._text import table
from ..data.release import ReleaseDataset, groups_of
from ..health import MaskFinding
from .measuring import Evaluation, Groups, Seen, differences, group_rows, scores_of
from .subjects import card_of

FORMAT = 1


class Written(NamedTuple):
    """The files of a report.

    Attributes:
        page: the HTML file, which needs nothing else.
        numbers: the same content as JSON, without the images.
    """

    page: Path
    numbers: Path


@dataclass(frozen=True)
class Report:
    """What :func:`build_report` found; ``print`` its numbers, or write it.

    Attributes:
        content: everything, as dicts, lists, texts and numbers.
    """

    content: dict[str, Any]

    @property
    def headline(self) -> dict[str, Any]:
        """The scores alone, by model, and the differences."""
        models = [
            {key: model[key] for key in ("name", "role", "kind", "variant", "scores")}
            for model in self.content["models"]
        ]
        return {
            "data": self.content["data"]["name"],
            "split": self.content["data"]["split"],
            "images": self.content["data"]["images"],
            "models": models,
            "differences": self.content["differences"],
            "notes": self.content["notes"],
        }

    def write(self, path: str | Path) -> Written:
        """Write the page, and the same content as JSON next to it.

        Args:
            path: of the page, ending in ``.html``; its folder is made if missing.

        Returns:
            Both files.

        Raises:
            ImportError: without Jinja, naming the extra.
            OSError: if it cannot be written.
            ValueError: if the path has another ending, or is a folder.
        """
        from .html import render

        page = Path(path)
        check_page(page)
        text = render(self.content)
        numbers = page.with_suffix(".json")
        images = [{name: image[name] for name in image if name != "thumbnail"} for image in self.content["images"]]
        values = json.dumps(self.content | {"images": images}, indent=1) + "\n"
        with replacing_together(page, numbers) as (new_page, new_numbers):
            new_page.write_text(text, encoding="utf-8", errors="replace")  # file names may not be valid text
            new_numbers.write_text(values, encoding="utf-8")
        return Written(page, numbers)

    def __str__(self) -> str:
        data = self.content["data"]
        lines = [f"{data['name']}, split {data['split']}: {data['images']} images"]
        for model in self.content["models"]:
            lines += ["", f"{model['name']} ({model['variant']})", _score_table(model["scores"])]
            for finding in model["health"] or ():
                lines.append(f"  {finding['message']}")
            if model["verification"] is not None:
                failed = [check["name"] for check in model["verification"]["checks"] if not check["passed"]]
                said = f"FAILED: {', '.join(failed)}" if failed else "every guarantee holds"
                lines.append(f"  verify, on {model['verification']['images']} images: {said}")
        if self.content["background"] is not None:
            lines += ["", self.content["background"]["verdict"]]
        if self.content["differences"] is not None:
            lines += ["", "Difference, first minus second", _score_table(self.content["differences"])]
        return "\n".join(lines)


def check_page(path: Path, name: str = "path") -> None:
    """Check before the long work that a page can be written there, and make its folder; ``name`` is the argument's.

    Errors are those of :meth:`Report.write`.
    """
    from .html import page_template

    page_template()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{name} must end in .html, got {str(path)!r}: its JSON goes next to it with another ending")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, and {path} is a folder; write {path / 'report.html'}")
    numbers = path.with_suffix(".json")
    if numbers.is_file() and not numbers.read_bytes().startswith(b'{\n "format": '):
        raise ValueError(f"{name} must have another name: its JSON would replace {numbers}, which is of no report")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{name} must be in a folder that can be written to, and {path.parent} cannot")


def content_of(
    evaluation: Evaluation,
    *,
    root: str,
    title: str | None,
    command: str | None,
    notes: Sequence[str],
    verifications: Sequence[dict[str, Any] | None],
    background: dict[str, Any] | None,
) -> dict[str, Any]:
    """Dicts, lists, texts and finite numbers; the arguments are those of ``build_report``, or made by it."""
    from .. import __version__

    images, shown = evaluation.images, evaluation.cards.shown()
    groups, objects = groups_in(images), objects_in(images)
    return {
        "format": FORMAT,
        "title": title or f"{evaluation.subjects[0].name} on {images.release.name}",
        "created": date.today().isoformat(),
        "aimwrap": __version__,
        "command": command,
        "data": {
            "name": images.release.name,
            "root": root,
            "split": images.split or "all",
            "images": len(images),
            "shown": len(shown),
            "chosen": _chosen(evaluation),
            "classes": list(images.classes),
            "groups": list(groups.names) if groups.are_places else None,
            "objects_known": objects is not None,
            "objects": objects,
        },
        "image_size": list(evaluation.subjects[0].preprocessing.image_size),
        "notes": list(notes),
        "models": [
            {**_model(seen, groups, images.labels, objects, evaluation.coarsest), "verification": verification}
            for seen, verification in zip(evaluation.seen, verifications, strict=True)
        ],
        "background": background,
        "differences": _differences(evaluation, groups),
        "images": [card for _, card in shown],
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
    seen: Seen, groups: Groups, labels: Tensor, objects: str | None, coarsest: tuple[int, int]
) -> dict[str, Any]:
    subject, aim, measured = seen.subject, seen.subject.aim, seen.measured
    return {
        "name": subject.name,
        "role": subject.role,
        "kind": "plain" if aim is None else "aim" if subject.second is None else "second look",
        "variant": subject.variant,
        "head": None if aim is None else aim.head,
        "stages": [
            {"stage": str(stage), "grid": list(seen.mask_grids[stage]), "tau": tau, "area": round(seen.area(stage), 6)}
            for stage, tau in zip(subject.stages, () if aim is None else aim.tau, strict=True)
        ],
        "grid": list(seen.grid if subject.second is None else seen.mask_grids[subject.stages[0]]),
        "contributions_grid": list(seen.grid),
        "card": card_of(subject),
        "scores": [score.as_dict() for score in scores_of(measured, groups, labels, objects, coarsest)],
        "groups": group_rows(measured, labels, groups),
        "health": None if seen.health is None else [*map(_finding, seen.health.report())],
    }


def _finding(found: MaskFinding) -> dict[str, str | None]:
    stage = None if found.stage is None else str(found.stage)
    return {"stage": stage, "symptom": found.symptom, "message": found.message}


def _differences(evaluation: Evaluation, groups: Groups) -> list[dict[str, Any]] | None:
    by_role = {seen.subject.role: seen.measured for seen in evaluation.seen}
    if "other" not in by_role:
        return None
    found = differences(by_role["model"], by_role["other"], evaluation.images.labels, groups)
    return [score.as_dict() for score in found]


def _chosen(evaluation: Evaluation) -> str | None:
    if evaluation.cards.counts is None:
        return None
    worst, drawn = evaluation.cards.counts
    compared = any(subject.role == "other" for subject in evaluation.subjects)
    extreme = "on which the two models differ most" if compared else "on which it is least sure of the label"
    return f"the {worst} {extreme}, and {drawn} drawn at random from the others"


def _score_table(scores: list[dict[str, Any]]) -> str:
    rows = []
    for score in scores:
        if score["value"] is not None:
            interval = "" if score["low"] is None else f"[{score['low']:.3f}, {score['high']:.3f}]"
            rows.append((score["name"], f"{score['value']:.3f}", interval))
    return table(rows, indent="  ")
