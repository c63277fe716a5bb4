"""A report: its content, its headline, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .._files import replacing


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
            ValueError: if the path has another ending.
        """
        from .html import render

        page = Path(path)
        if page.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"path must end in .html, got {str(path)!r}: its JSON goes next to it with another ending")
        text = render(self.content)
        page.parent.mkdir(parents=True, exist_ok=True)
        numbers = page.with_suffix(".json")
        with replacing(page) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="replace")  # file names may not be valid text
        with replacing(numbers) as unfinished:
            unfinished.write_text(json.dumps(_without_thumbnails(self.content), indent=1) + "\n", encoding="utf-8")
        return Written(page, numbers)

    def __str__(self) -> str:
        data = self.content["data"]
        lines = [f"{data['name']}, split {data['split']}: {data['images']} images"]
        for model in self.content["models"]:
            lines += ["", f"{model['name']} ({model['variant']})", *_score_lines(model["scores"])]
            for finding in model["health"] or ():
                lines.append(f"  {finding['message']}")
            if model["verification"] is not None:
                failed = [check["name"] for check in model["verification"]["checks"] if not check["passed"]]
                said = f"FAILED: {', '.join(failed)}" if failed else "every guarantee holds"
                lines.append(f"  verify, on {model['verification']['images']} images: {said}")
        if self.content["differences"] is not None:
            lines += ["", "Difference, first minus second", *_score_lines(self.content["differences"])]
        return "\n".join(lines)


def _without_thumbnails(content: dict[str, Any]) -> dict[str, Any]:
    return content | {
        "images": [{name: value for name, value in image.items() if name != "thumbnail"} for image in content["images"]]
    }


def _score_lines(scores: list[dict[str, Any]]) -> list[str]:
    defined = [score for score in scores if score["value"] is not None]
    width = max((len(score["name"]) for score in defined), default=0)
    lines = []
    for score in defined:
        interval = "" if score["low"] is None else f"  [{score['low']:.3f}, {score['high']:.3f}]"
        lines.append(f"  {score['name']:<{width}}  {score['value']:.3f}{interval}")
    return lines
