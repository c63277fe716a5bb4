"""Results as notebooks show them: tables and small pictures in HTML that stands alone.

No script, no style sheet and no other host. Text has the notebook's own colour, and what is drawn is seen on white and
on black alike. Whatever comes from outside, such as names of stages, is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..backbones.inspection import Inspection
    from .areas import AreaCurve, AreaPoint
    from .explanation import Explanation
    from .findings import Verification


IMAGES, CLASSES = 4, 3  # of an explanation, that are shown
_SIDE = 84  # of a picture, in pixels
_OPEN, _FOR, _AGAINST = (47, 133, 90), (214, 96, 20), (60, 110, 220)  # green, orange, blue: seen on white and on black
_GREY = "rgba(128,128,128,.45)"


class _Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def _cell(value: str, tag: str) -> str:
    inner = value if isinstance(value, _Markup) else escape(value)
    return (
        f'<{tag} style="text-align:left;vertical-align:top;padding:3px 10px 3px 0;white-space:pre-line">{inner}</{tag}>'
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(_cell(name, "th") for name in header)
    body = "".join(f"<tr>{''.join(_cell(value, 'td') for value in row)}</tr>" for row in rows)
    return f'<table style="border-collapse:collapse;margin:4px 0"><tr>{head}</tr>{body}</table>'


def _block(*parts: str) -> str:
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def _line(text: str) -> str:
    return f'<div style="margin:4px 0">{escape(text)}</div>'


def _interval(rate: float, low: float, high: float) -> _Markup:
    """A proportion on a line from 0 to 1, with its interval."""
    x, left, right = (4 + 112 * value for value in (rate, low, high))
    said = f"{rate:.3f} [{low:.3f}, {high:.3f}]"
    return _Markup(
        f'<svg width="120" height="14" role="img" aria-label="{said}"><g stroke="currentColor" fill="currentColor">'
        f'<line x1="4" x2="116" y1="7" y2="7" stroke-opacity=".3"/>'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="7" y2="7" stroke-width="3"/>'
        f'<circle cx="{x:.1f}" cy="7" r="3.5"/></g></svg> {said}'
    )


def _picture(colours: Tensor, opacity: Tensor, title: str) -> str:
    """A grid of cells as a PNG: colours (h, w, 3) and opacity (h, w), in 0 to 255."""
    from PIL import Image

    height, width = opacity.shape
    pixels = torch.cat([colours, opacity[..., None]], dim=2).round().to(torch.uint8)
    file = io.BytesIO()
    Image.frombytes("RGBA", (width, height), bytes(pixels.flatten().tolist())).save(file, "PNG")
    shown_width = round(_SIDE * max(0.25, min(4.0, width / height)))
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" width="{shown_width}" '
        f'height="{_SIDE}" alt="{escape(title)}" title="{escape(title)}" style="image-rendering:pixelated;'
        f'border:1px solid {_GREY};background:none;max-width:none;margin:0"/>'
    )


def _mask_picture(mask: Tensor, name: str) -> _Markup:
    """Of a mask (h, w): what is open is green."""
    height, width = mask.shape
    title = f"{name}: {int(mask.sum())} of {mask.numel()} positions open, {height} x {width}"
    colours = torch.tensor(_OPEN).expand(height, width, 3)
    return _Markup(f"{_picture(colours, 235 * mask, title)}<br/>{mask.mean().item():.1%} open")


def _contribution_picture(contributions: Tensor, largest: float, name: str, said: str) -> _Markup:
    """Of contributions (h, w): orange speaks for the class, blue against it, the paler the less."""
    colours = torch.where((contributions > 0)[..., None], torch.tensor(_FOR), torch.tensor(_AGAINST))
    opacity = 255 * (contributions.abs() / max(largest, 1e-30)).nan_to_num().clamp(0, 1)
    title = f"{name}: from {contributions.min().item():.3g} to {contributions.max().item():.3g} per position"
    return _Markup(f"{_picture(colours, opacity, title)}<br/>{escape(said)}")


def explanation_html(explanation: Explanation) -> str:
    """The first images' masks, and what the strongest classes' logits are made of."""
    logits, contributions, bias, merged = (
        values.detach().float().cpu()
        for values in (explanation.logits, explanation.contributions, explanation.bias, explanation.merged_mask)
    )
    masks = {stage: mask.detach().float().cpu() for stage, mask in explanation.masks.items()}
    images, num_classes = logits.shape
    asked, shown = contributions.shape[1], min(IMAGES, images)
    sums = contributions.sum((2, 3)) + bias  # the logits of the classes that were asked for
    rows = []
    for number in range(shown):
        strongest = sums[number].argsort(descending=True, stable=True)[:CLASSES].tolist()
        largest = contributions[number, strongest].abs().max().item()
        predicted = int(logits[number].argmax())
        row: list[str] = [f"{number}", f"class {predicted}\nlogit {logits[number, predicted].item():.4g}"]
        row += [_mask_picture(mask[number, 0], f"stage {stage}") for stage, mask in masks.items()]
        row.append(_mask_picture(merged[number, 0], "merged mask"))
        for k in strongest:
            name = f"class {k}" if asked == num_classes else f"asked for as number {k}"
            said = f"{name}\nlogit {sums[number, k].item():.4g}\nbias {bias[k].item():.3g}"
            row.append(_contribution_picture(contributions[number, k], largest, name, said))
        rows.append(row)
    header = ["image", "prediction", *(f"mask of stage {stage}" for stage in masks), "merged mask"]
    header += [f"contributions {rank}" for rank in range(1, 1 + min(CLASSES, asked))]
    first = f"the first {shown} of {images} images" if shown < images else f"{images} image{'s' * (images != 1)}"
    return _block(
        _line(f"Explanation: {first}; {asked} of {num_classes} classes, the strongest {min(CLASSES, asked)} shown."),
        _table(header, rows),
        _line(
            "Green is open. Orange speaks for the class and blue against it, on one scale per image; what is empty "
            "adds exactly nothing. Contributions and bias sum to the logit."
        ),
    )


def verification_html(verification: Verification) -> str:
    """Each guarantee with ok or FAILED, and the measurements with their intervals."""
    rows = []
    for check in verification.checks:
        colour, word = ("inherit", "ok") if check.passed else ("#d33", "FAILED")
        rows.append((_Markup(f'<b style="color:{colour}">{word}</b>'), check.name, check.detail))
    parts = [_table(("", "guarantee", "found"), rows)]
    if verification.survival:
        parts.append(_line(f"Prediction survives when only a region's pixels are left (area {verification.area:.2f}):"))
        measured = (
            (row.region, row.filling, row.masks, _interval(row.rate, row.low, row.high), f"{row.images}")
            for row in verification.survival
        )
        parts.append(_table(("region", "filling", "masks", "survives, with 95 % interval", "images"), measured))
    if verification.note:
        parts.append(_line(f"Pixels not measured: {verification.note}"))
    return _block(*parts)


def inspection_html(inspection: Inspection) -> str:
    """The stages, what masks on them cost, and the lines to paste."""
    tables = (_line(title) + _table(rows[0], rows[1:]) for title, rows in inspection.tables().items())
    lines = escape("\n".join(inspection.lines))
    return _block(_line(inspection.summary), *tables, _line("To go on:"), f'<pre style="margin:4px 0">{lines}</pre>')


def area_curve_html(curve: AreaCurve) -> str:
    """Accuracy with its interval by area, and with the model's own masks."""
    grouped = curve.own.worst_group is not None

    def row(point: AreaPoint) -> list[str]:
        asked = "the model's own" if point.asked is None else f"{point.asked:.3g}"
        found = [asked, f"{point.area:.3f}", _interval(point.accuracy, point.low, point.high)]
        return found + ([] if point.worst_group is None else [f"{point.worst_group:.3f}"])

    header = ["area asked for", "of the merged mask", "accuracy, with 95 % interval"] + ["worst group"] * grouped
    return _block(_table(header, map(row, (*curve.points, curve.own))), _line(f"Of {curve.images} images."))
