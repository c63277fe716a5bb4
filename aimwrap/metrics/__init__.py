"""Metrics: where a model looks, and how it does on the hardest group."""

from aimwrap.metrics.functional import (
    class_activation_map,
    energy_pointing_game,
    group_accuracies,
    worst_group_accuracy,
)

__all__ = ["class_activation_map", "energy_pointing_game", "group_accuracies", "worst_group_accuracy"]
