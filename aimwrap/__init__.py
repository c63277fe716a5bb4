"""Make a CNN classifier choose, per image, which positions of its own feature maps the decision may use.

An independent implementation of AIM, "Amending Inherent Interpretability via Self-Supervised Masking" (Alshami et al.,
ICCV 2025). The data flow, and where each part lives::

    image -> taps/            the backbone's maps at the chosen stages
          -> mask_estimator   one map -> mask logits A                         (eq. 1)
          -> gumbel           mask logits -> mask B of zeros and ones          (eq. 2)
          -> top_down         features x mask, merged coarse to fine           (eq. 3)
          -> model            classifiers per stage and for the fused map      (eq. 4, 5)  -> AIMOutput
          -> loss, tau        classification and active-area loss, annealed    (eq. 6, 7)

Around it: backbones (a network before it is wrapped), health (masks that died), analysis (exact contributions, what is
guaranteed and how far, how much of the image a decision needs), second_look (a decision by the kept pixels alone),
exchange (backgrounds of a batch), preprocessing and sharing (what a saved model contains).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ._choices import PAPER as PAPER
    from .analysis.areas import AreaCurve as AreaCurve
    from .analysis.areas import AreaPoint as AreaPoint
    from .analysis.areas import area_curve as area_curve
    from .analysis.background import BackgroundBias as BackgroundBias
    from .analysis.background import background_bias as background_bias
    from .analysis.explanation import Explanation as Explanation
    from .analysis.explanation import explain as explain
    from .analysis.findings import Check as Check
    from .analysis.findings import Survival as Survival
    from .analysis.findings import Verification as Verification
    from .analysis.verification import verify as verify
    from .backbones.inspection import Inspection as Inspection
    from .backbones.inspection import inspect_backbone as inspect_backbone
    from .backbones.records import preprocessing_of as preprocessing_of
    from .exchange import exchange_backgrounds as exchange_backgrounds
    from .gumbel import binary_gumbel_softmax as binary_gumbel_softmax
    from .gumbel import budgeted_mask as budgeted_mask
    from .health import MaskFinding as MaskFinding
    from .health import MaskHealth as MaskHealth
    from .health import MaskHealthWarning as MaskHealthWarning
    from .loss import AIMLoss as AIMLoss
    from .loss import AIMLossComponents as AIMLossComponents
    from .loss import active_area as active_area
    from .loss import active_area_loss as active_area_loss
    from .mask_estimator import MaskEstimator as MaskEstimator
    from .masks.exporting import MaskExport as MaskExport
    from .masks.exporting import export_masks as export_masks
    from .model import AIM as AIM
    from .output import AIMOutput as AIMOutput
    from .output import MaskedFeatures as MaskedFeatures
    from .output import Prediction as Prediction
    from .preprocessing import Preprocessing as Preprocessing
    from .second_look import SecondLook as SecondLook
    from .second_look import SecondLookOutput as SecondLookOutput
    from .tau import TauScheduler as TauScheduler
    from .tau import annealed_tau as annealed_tau
else:
    # Imported when asked for: importing torch takes seconds, and the command line's help and completion do not need it.
    _HOMES = {
        "_choices": ("PAPER",),
        "analysis.areas": ("AreaCurve", "AreaPoint", "area_curve"),
        "analysis.background": ("BackgroundBias", "background_bias"),
        "analysis.explanation": ("Explanation", "explain"),
        "analysis.findings": ("Check", "Survival", "Verification"),
        "analysis.verification": ("verify",),
        "backbones.inspection": ("Inspection", "inspect_backbone"),
        "backbones.records": ("preprocessing_of",),
        "exchange": ("exchange_backgrounds",),
        "gumbel": ("binary_gumbel_softmax", "budgeted_mask"),
        "health": ("MaskFinding", "MaskHealth", "MaskHealthWarning"),
        "loss": ("AIMLoss", "AIMLossComponents", "active_area", "active_area_loss"),
        "mask_estimator": ("MaskEstimator",),
        "masks.exporting": ("MaskExport", "export_masks"),
        "model": ("AIM",),
        "output": ("AIMOutput", "MaskedFeatures", "Prediction"),
        "preprocessing": ("Preprocessing",),
        "second_look": ("SecondLook", "SecondLookOutput"),
        "tau": ("TauScheduler", "annealed_tau"),
    }
    __all__ = sorted(name for names in _HOMES.values() for name in names)

    def __getattr__(name: str) -> object:
        """Import the module that defines a public name."""
        for module, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
