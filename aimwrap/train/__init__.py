"""Training as a command: data set, backbone, and plain or AIM, on one CPU or several machines, interrupted or not.

:mod:`~aimwrap.train.loop` is the loop. Needs the extra ``train``, except for the settings and the presets.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backbones.plain import PlainClassifier as PlainClassifier
    from ..backbones.plain import load_plain as load_plain
    from .checkpoints import CheckpointError as CheckpointError
    from .checkpoints import DivergedError as DivergedError
    from .distributed import launched_fabric as launched_fabric
    from .distributed import mean_over_processes as mean_over_processes
    from .loop import ProcessError as ProcessError
    from .loop import RunFolderError as RunFolderError
    from .loop import run_training as run_training
    from .presets import PRESETS as PRESETS
    from .run import Result as Result
    from .settings import Settings as Settings
else:
    # Imported on first use: the options of `aimwrap train` come from the settings, and its help needs no torch.
    _HOMES = {
        "..backbones.plain": ("PlainClassifier", "load_plain"),
        ".checkpoints": ("CheckpointError", "DivergedError"),
        ".distributed": ("launched_fabric", "mean_over_processes"),
        ".loop": ("ProcessError", "RunFolderError", "run_training"),
        ".presets": ("PRESETS",),
        ".run": ("Result",),
        ".settings": ("Settings",),
    }
    __all__ = sorted(name for names in _HOMES.values() for name in names)

    def __getattr__(name: str) -> object:
        """Import the module of a public name."""
        module = next((module for module, names in _HOMES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if module not in (".presets", ".settings"):
            try:
                import lightning.fabric  # noqa: F401  # only to see that it is there
                import torchmetrics  # noqa: F401  # the same
            except ImportError as error:
                message = 'training needs Lightning Fabric and torchmetrics: pip install "aimwrap[train]"'
                raise ImportError(message) from error
        found = globals()[name] = getattr(import_module(module, __name__), name)
        return found
