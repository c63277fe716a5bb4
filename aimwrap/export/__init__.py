"""A trained model for a server: ONNX, ``torch.export`` and AOTInductor, compared with the model itself.

::

    serving   the exported module: images in, logits, masks and contributions out, by name
    parity    an artefact against the model, on seeded images
    formats   one function per format: trace, write, load back, compare

ONNX needs the extra ``export`` and torch 2.7, AOTInductor torch 2.9.
"""

from .formats import Exported, export_aotinductor, export_onnx, export_program
from .parity import Parity, ParityError
from .serving import ServingModel

__all__ = ["Exported", "Parity", "ParityError", "ServingModel", "export_aotinductor", "export_onnx", "export_program"]
