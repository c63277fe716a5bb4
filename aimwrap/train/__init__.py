"""Training as a command: data set, backbone, and plain or AIM, on one CPU or several machines, killed or not.

:mod:`~aimwrap.train.loop` is the loop; what it stands on lies beside it, a file for each idea. Needs the extra
``train``.
"""

from ..backbones.plain import PlainClassifier, load_plain
from .checkpoints import CheckpointError, DivergedError
from .distributed import launched_fabric, mean_over_processes
from .presets import PRESETS
from .settings import Settings
from .training import ProcessError, Result, RunFolderError, run_training

try:
    import lightning.fabric  # noqa: F401  # only asked whether it is there
    import torchmetrics  # noqa: F401  # likewise
except ImportError as error:
    raise ImportError('training needs Lightning Fabric and torchmetrics: pip install "aimwrap[train]"') from error


__all__ = [
    "PRESETS",
    "CheckpointError",
    "DivergedError",
    "PlainClassifier",
    "ProcessError",
    "Result",
    "RunFolderError",
    "Settings",
    "launched_fabric",
    "load_plain",
    "mean_over_processes",
    "run_training",
]
