"""Make a CNN classifier choose, per image, which positions of its own feature maps the decision may use.

An independent implementation of AIM, "Amending Inherent Interpretability via Self-Supervised Masking" (Alshami et al.,
ICCV 2025). The data flow, and where each part lives::

    image -> taps/            the backbone's maps at the chosen stages
          -> mask_estimator   one map -> mask logits A                         (eq. 1)
          -> gumbel           mask logits -> mask B of zeros and ones          (eq. 2)
          -> top_down         features x mask, merged coarse to fine           (eq. 3)
          -> model            classifiers per stage and for the fused map      (eq. 4, 5)  -> AIMOutput
          -> loss, tau        classification and active-area loss, annealed    (eq. 6, 7)

Beside it: inspection (a backbone before it is wrapped), health (masks that died), explanation (exact contributions),
verification (what is guaranteed, and how far), second_look (a decision by the kept pixels alone), area_curve (how much
of the image a decision needs), preprocessing and sharing (what a saved model carries).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.areas import AreaCurve, AreaPoint, area_curve
    from .analysis.explanation import Explanation, explain
    from .analysis.findings import Check, Survival, Verification
    from .analysis.verification import verify
    from .backbones.inspection import Inspection, inspect_backbone
    from .gumbel import binary_gumbel_softmax, budgeted_mask
    from .health import MaskFinding, MaskHealth, MaskHealthWarning
    from .loss import AIMLoss, AIMLossComponents, active_area, active_area_loss
    from .mask_estimator import MaskEstimator
    from .model import AIM
    from .output import AIMOutput, MaskedFeatures, Prediction
    from .preprocessing import Preprocessing, preprocessing_of
    from .second_look import SecondLook, SecondLookOutput
    from .tau import TauScheduler, annealed_tau
else:
    # Imported when asked for: torch takes seconds, and the command line's help and completion need none of it.
    _NAMES = {
        "analysis.areas": ("AreaCurve", "AreaPoint", "area_curve"),
        "analysis.explanation": ("Explanation", "explain"),
        "gumbel": ("binary_gumbel_softmax", "budgeted_mask"),
        "health": ("MaskFinding", "MaskHealth", "MaskHealthWarning"),
        "backbones.inspection": ("Inspection", "inspect_backbone"),
        "loss": ("AIMLoss", "AIMLossComponents", "active_area", "active_area_loss"),
        "mask_estimator": ("MaskEstimator",),
        "model": ("AIM",),
        "output": ("AIMOutput", "MaskedFeatures", "Prediction"),
        "preprocessing": ("Preprocessing", "preprocessing_of"),
        "second_look": ("SecondLook", "SecondLookOutput"),
        "tau": ("TauScheduler", "annealed_tau"),
        "analysis.findings": ("Check", "Survival", "Verification"),
        "analysis.verification": ("verify",),
    }

    def __getattr__(name: str) -> object:
        """Import the module that a public name lives in."""
        from importlib import import_module

        for module, names in _NAMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "AIM",
    "AIMLoss",
    "AIMLossComponents",
    "AIMOutput",
    "AreaCurve",
    "AreaPoint",
    "Check",
    "Explanation",
    "Inspection",
    "MaskEstimator",
    "MaskFinding",
    "MaskHealth",
    "MaskHealthWarning",
    "MaskedFeatures",
    "Prediction",
    "Preprocessing",
    "SecondLook",
    "SecondLookOutput",
    "Survival",
    "TauScheduler",
    "Verification",
    "active_area",
    "active_area_loss",
    "annealed_tau",
    "area_curve",
    "binary_gumbel_softmax",
    "budgeted_mask",
    "explain",
    "inspect_backbone",
    "preprocessing_of",
    "verify",
]
