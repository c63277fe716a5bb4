"""Training as a command: data set, backbone, and plain or AIM, on one CPU or several machines, interrupted or not.

:mod:`~aimwrap.train.loop` is the loop. Needs the extra ``train``, except for the settings and the presets.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backbones.plain import PlainClassifier, load_plain
    from .checkpoints import CheckpointError, DivergedError
    from .distributed import launched_fabric, mean_over_processes
    from .loop import ProcessError, RunFolderError, run_training
    from .presets import PRESETS
    from .run import Result
    from .settings import Settings
else:
    # Imported on first use: the options of `aimwrap train` come from the settings, and its help needs no torch.
    _NAMES = {
        "PRESETS": ".presets",
        "Settings": ".settings",
        "PlainClassifier": "..backbones.plain",
        "load_plain": "..backbones.plain",
        "CheckpointError": ".checkpoints",
        "DivergedError": ".checkpoints",
        "launched_fabric": ".distributed",
        "mean_over_processes": ".distributed",
        "ProcessError": ".loop",
        "Result": ".run",
        "RunFolderError": ".loop",
        "run_training": ".loop",
    }

    def __getattr__(name: str) -> object:
        """Import the module of a public name."""
        from importlib import import_module

        if name not in _NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in ("PRESETS", "Settings"):
            try:
                import lightning.fabric  # noqa: F401  # only to see that it is there
                import torchmetrics  # noqa: F401  # the same
            except ImportError as error:
                message = 'training needs Lightning Fabric and torchmetrics: pip install "aimwrap[train]"'
                raise ImportError(message) from error
        found = globals()[name] = getattr(import_module(_NAMES[name], __name__), name)
        return found


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
