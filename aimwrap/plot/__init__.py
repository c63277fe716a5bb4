"""Figures that explain themselves, from tensors. Needs matplotlib (extra ``plot``), imported only to draw.

``mask_grid`` makes a tensor for loggers, without matplotlib. Each other function returns a new
``matplotlib.figure.Figure``, without pyplot's state; ``figure.savefig("name.png")`` writes it, and a notebook
shows it. Colour never carries a meaning alone. How it is built::

    inputs    the users' inputs -> checked tensors on the CPU
    canvas    an empty figure, the colours, wrapped text; one image, mask or heatmap in one axes
    panels    a grid of images, with titles and an explanation
    -> masks      plot_masks (paper fig. 6), plot_mask_evolution (fig. 7)
    -> heatmaps   plot_heatmaps (fig. 3)
    -> scatter    plot_scatter (fig. 5)
    -> results    plot_results (fig. 4), plot_area_curves (ours)
"""

from ..masks.grid import mask_grid
from .canvas import draw_heatmap, draw_image, draw_mask, draw_masked_image
from .heatmaps import plot_heatmaps
from .masks import plot_mask_evolution, plot_masks
from .panels import Panel, plot_panels
from .results import Result, plot_area_curves, plot_results
from .scatter import plot_scatter

__all__ = [
    "Panel",
    "Result",
    "draw_heatmap",
    "draw_image",
    "draw_mask",
    "draw_masked_image",
    "mask_grid",
    "plot_area_curves",
    "plot_heatmaps",
    "plot_mask_evolution",
    "plot_masks",
    "plot_panels",
    "plot_results",
    "plot_scatter",
]
