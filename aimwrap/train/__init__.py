"""Training as a command: data set, backbone, and plain or AIM, on one CPU or several machines, interrupted or not.

:mod:`~aimwrap.train.loop` is the loop. Needs the extra ``train``.
"""

from ..backbones.plain import PlainClassifier, load_plain
from .checkpoints import CheckpointError, DivergedError
from .distributed import launched_fabric, mean_over_processes
from .loop import ProcessError, RunFolderError, run_training
from .presets import PRESETS
from .run import Result
from .settings import Settings

try:
    import lightning.fabric  # noqa: F401  # only to see that it is there
    import torchmetrics  # noqa: F401  # also
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
