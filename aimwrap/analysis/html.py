"""Results as notebooks show them: tables and small images, in HTML that needs no other file.

No script, no style sheet and no other host. Text has the notebook's own colour, and what is drawn is seen on white and
on black alike. Whatever comes from outside, such as names of stages, is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import torch
from torch import Tensor

_SIDE = 84  # of an image, in pixels
_OPEN, _FOR, _AGAINST = (47, 133, 90), (214, 96, 20), (60, 110, 220)  # green, orange, blue: seen on white and on black
_GREY = "rgba(128,128,128,.45)"


class Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def _cell(value: str, tag: str) -> str:
    inner = value if isinstance(value, Markup) else escape(value)
    return (
        f'<{tag} style="text-align:left;vertical-align:top;padding:3px 10px 3px 0;white-space:pre-line">{inner}</{tag}>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; text is escaped, and :class:`Markup` is not."""
    head = "".join(_cell(name, "th") for name in header)
    body = "".join(f"<tr>{''.join(_cell(value, 'td') for value in row)}</tr>" for row in rows)
    return f'<table style="border-collapse:collapse;margin:4px 0"><tr>{head}</tr>{body}</table>'


def block(*parts: str) -> str:
    """Parts below each other, to scroll sideways where they are wide."""
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def line(text: str) -> str:
    """A line of text."""
    return f'<div style="margin:4px 0">{escape(text)}</div>'


def interval(rate: float, low: float, high: float) -> Markup:
    """A proportion on a line from 0 to 1, with its interval."""
    x, left, right = (4 + 112 * value for value in (rate, low, high))
    said = f"{rate:.3f} [{low:.3f}, {high:.3f}]"
    return Markup(
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


def code(text: str) -> str:
    """Text to copy."""
    return f'<pre style="margin:4px 0">{escape(text)}</pre>'


def mask_picture(mask: Tensor, name: str) -> Markup:
    """Of a mask (h, w): what is open is green."""
    height, width = mask.shape
    if not mask.isfinite().all():
        return Markup("not finite")
    title = f"{name}: {int(mask.sum())} of {mask.numel()} positions open, {height} x {width}"
    colours = torch.tensor(_OPEN).expand(height, width, 3)
    return Markup(f"{_picture(colours, 235 * mask, title)}<br/>{mask.mean().item():.1%} open")


def contribution_picture(contributions: Tensor, largest: float, name: str, said: str) -> Markup:
    """Of contributions (h, w): orange speaks for the class, blue against it, the paler the less."""
    colours = torch.where((contributions > 0)[..., None], torch.tensor(_FOR), torch.tensor(_AGAINST))
    opacity = 255 * (contributions.abs() / max(largest, 1e-30)).nan_to_num().clamp(0, 1)
    title = f"{name}: from {contributions.min().item():.3g} to {contributions.max().item():.3g} per position"
    return Markup(f"{_picture(colours, opacity, title)}<br/>{escape(said)}")
