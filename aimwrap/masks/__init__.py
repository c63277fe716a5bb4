"""Masks as files: what a model kept of each image, at the image's own size, for people and for other tools.

From a model and images to a folder::

    grid        images seen through their masks, as one picture for loggers
    placing     where the model's input lies on the image, and its maps put there
    formats     one image's files, and COCO's and YOLO's files
    exporting   export_masks: the pass over the images, which can be interrupted and continued

COCO needs the extra ``masks``.
"""

from .exporting import MaskExport, export_masks
from .grid import mask_grid
from .placing import seen_part

__all__ = ["MaskExport", "export_masks", "mask_grid", "seen_part"]
