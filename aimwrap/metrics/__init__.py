"""Metrics for any model: where it looks, and how it does on the hardest group.

Pure functions on a batch. Over a data set, the same as torchmetrics' ``Metric`` (extra ``metrics``) is in ``modules``,
imported when first used.
"""

from typing import TYPE_CHECKING

from .groups import average_accuracy, group_accuracies, weighted_average_accuracy, worst_group_accuracy
from .masks import boxes_to_masks, mask_iou, mask_precision, mask_recall
from .pointing import area_corrected, chance_level, class_activation_map, energy_pointing_game, pointing_game

if TYPE_CHECKING:
    from .modules import EnergyPointingGame, GroupAccuracy, MaskOverlap, PointingGame
else:

    def __getattr__(name: str) -> type:
        """Import the Metric classes when they are asked for: torchmetrics is an extra."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import modules

        return getattr(modules, name)


__all__ = [
    "EnergyPointingGame",
    "GroupAccuracy",
    "MaskOverlap",
    "PointingGame",
    "area_corrected",
    "average_accuracy",
    "boxes_to_masks",
    "chance_level",
    "class_activation_map",
    "energy_pointing_game",
    "group_accuracies",
    "mask_iou",
    "mask_precision",
    "mask_recall",
    "pointing_game",
    "weighted_average_accuracy",
    "worst_group_accuracy",
]
