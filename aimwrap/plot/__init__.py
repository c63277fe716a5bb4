"""Figures that explain themselves, from tensors. Needs matplotlib (extra ``plot``), imported only to draw.

Each function returns a ``matplotlib.figure.Figure`` of its own, without pyplot's state; ``figure.savefig("name.png")``
writes it, and a notebook shows it. Nothing is told by colour alone. How it is built::

    inputs    what users hand in -> checked tensors on the CPU
    canvas    an empty figure, the colours, and text that fits
    draw      one picture into one axes: image, mask, heatmap
    panels    a grid of pictures, with titles and an explanation
    -> masks      plot_masks           (paper fig. 6)
    -> evolution  plot_mask_evolution  (fig. 7)
    -> heatmaps   plot_heatmaps        (fig. 3)
    -> scatter    plot_scatter         (fig. 5)
    -> results    plot_results         (fig. 4)
    -> areas      plot_area_curves     (ours)
"""

from .areas import plot_area_curves
from .canvas import draw_heatmap, draw_image, draw_mask, draw_masked_image
from .evolution import plot_mask_evolution
from .heatmaps import plot_heatmaps
from .masks import plot_masks
from .panels import Panel, plot_panels
from .results import Result, plot_results
from .scatter import plot_scatter

__all__ = [
    "Panel",
    "Result",
    "draw_heatmap",
    "draw_image",
    "draw_mask",
    "draw_masked_image",
    "plot_area_curves",
    "plot_heatmaps",
    "plot_mask_evolution",
    "plot_masks",
    "plot_panels",
    "plot_results",
    "plot_scatter",
]
