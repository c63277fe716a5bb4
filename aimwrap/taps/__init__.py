"""Taps: where a backbone's stages are, and a backbone that returns their maps.

``tap_backbone`` is the whole of it: it probes the model on fake tensors (:mod:`.probe`), turns stage numbers into node
names (:mod:`.stages`), and builds the extractor from torchvision's graph utilities (:mod:`.graph`), checked against the
shapes that the probe saw. The user's model is only read.
"""

from .graph import TappedBackbone
from .probe import count_macs, probe
from .stages import find_stages, number_of_classes
from .tap import FINAL, Stage, Tap, TappedModel, tap_backbone, unwrapped

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
