"""An empty figure without pyplot, the colours and markers that everyone can tell apart, and text that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, without black, which is for text, and without yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # as many as no multiple of the colours: 42 pairs before one comes again
RIGHT, WRONG = COLOURS[0], COLOURS[1]  # always beside the words
INK, GREY = "0.15", "0.45"
DPI = 110

TITLE, TEXT, SMALL = 12.5, 9.0, 8.5  # font sizes, in points
LINE_SPACING = 1.35


def new_figure(width: float, height: float) -> Figure:
    """A white figure that pyplot does not know, so that nobody has to close it.

    Args:
        width: in inches, likewise ``height``.
        height: see there.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "aimwrap[plot]"') from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def wrap(text: str, inches: float, size: float, weight: Literal["normal", "bold"] = "normal") -> str:
    """Break text into lines no wider than this, measured in its own font; what is one word stays one line."""
    trial = new_figure(1, 1).text(0, 0, "", fontsize=size, fontweight=weight)

    def fits(line: str) -> bool:
        trial.set_text(line)
        return bool(trial.get_window_extent().width <= inches * DPI)

    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and not fits(longer):
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return "\n".join(lines)


def text_width(text: str, size: float) -> float:
    """Of the longest line, in inches."""
    return float(new_figure(1, 1).text(0, 0, text, fontsize=size).get_window_extent().width) / DPI


def line_height(size: float) -> float:
    """Of one line of text, in inches."""
    return size * LINE_SPACING / 72


def text_height(text: str, size: float) -> float:
    """Of wrapped text, in inches; 0 for none."""
    return line_height(size) * (text.count("\n") + 1) if text else 0.0


def write_frame(figure: Figure, title: str, explanation: str, left: float) -> None:
    """Write a title on top, in bold, and an explanation at the bottom; both wrapped before, for their heights.

    Args:
        figure: where to write.
        title: wrapped.
        explanation: wrapped.
        left: where the explanation begins, in inches.
    """
    width, height = figure.get_size_inches()
    figure.suptitle(title, fontsize=TITLE, fontweight="bold", y=1 - 0.1 / height, va="top")
    figure.text(left / width, 0.1 / height, explanation, fontsize=TEXT, va="bottom", linespacing=LINE_SPACING)
