"""What AIM returns: the one type that the model, the loss and everything behind them share, and what it serves."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils import _pytree

from .taps import Stage


class AIMOutput(NamedTuple):
    """Logits and masks of a batch; the dicts are keyed as the user named the stages, shallow to deep.

    Attributes:
        logits: the prediction, from the fused map (paper eq. 5), (N, K).
        stage_logits: each stage classifier's logits, from its own masked map (eq. 4), (N, K) each.
        masks: each stage's mask B (eq. 2), exactly 0 or 1 also in training, (N, 1, H_l, W_l) each.
    """

    logits: Tensor
    stage_logits: dict[Stage, Tensor]
    masks: dict[Stage, Tensor]


class Prediction(NamedTuple):
    """What :meth:`aimwrap.AIM.predict` returns.

    Attributes:
        logits: the prediction, (N, K).
        masks: each stage's mask, exactly 0 or 1, (N, 1, H_l, W_l) each, keyed as the user named the stages.
    """

    logits: Tensor
    masks: dict[Stage, Tensor]


# Without a name of its own torch.export.save refuses it; torch has no public function for NamedTuples.
_pytree._register_namedtuple(AIMOutput, serialized_type_name="aimwrap.AIMOutput")
