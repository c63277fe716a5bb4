"""A trained model for where it is served: ONNX, ``torch.export`` and AOTInductor, held against the model itself.

::

    serving   what is exported: images in, logits, masks and contributions out, by name
    parity    an artefact against the model, on seeded images
    formats   one function per format: trace, write, load back, compare

ONNX needs the extra ``export`` and torch 2.7, AOTInductor torch 2.9.
"""

from .formats import Exported, export_aotinductor, export_onnx, export_program
from .parity import Parity, ParityError
from .serving import ServingModel

__all__ = [
    "Exported",
    "Parity",
    "ParityError",
    "ServingModel",
    "export_aotinductor",
    "export_onnx",
    "export_program",
]
