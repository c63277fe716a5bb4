"""Taps: where a backbone's stages are, and a backbone that returns their maps.

``tap_backbone`` (:mod:`.tapping`) checks whether the model can be copied (:mod:`.copies`), runs a copy on fake tensors
(:mod:`.probe`), turns stage numbers into nodes (:mod:`.stages`) and looks for a program that computes their outputs
(:mod:`.extraction`): torchvision's graph utilities (:mod:`.graph`), or the backbone's own code (:mod:`.usage`) with
hooks (:mod:`.hooks`) or timm's ``forward_intermediates``. The program is compared with the model
(:mod:`.equivalence`). A :class:`TappedBackbone` (:mod:`.backbone`) runs it and returns the outputs as maps
(:mod:`.layout`). The user's model is only read.
"""

from .backbone import TappedBackbone
from .copies import unwrapped
from .extraction import FINAL
from .probe import count_macs, probe
from .stages import find_stages, number_of_classes
from .tapping import Stage, Tap, TappedModel, tap_backbone

__all__ = [
    "FINAL",
    "Stage",
    "Tap",
    "TappedBackbone",
    "TappedModel",
    "count_macs",
    "find_stages",
    "number_of_classes",
    "probe",
    "tap_backbone",
    "unwrapped",
]
