"""The types that AIM returns: the model, the loss and everything after them share these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.utils import _pytree

from .taps import Stage
from .top_down import FeaturePreservingTopDown, PaperTopDown


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
    """The result of :meth:`aimwrap.AIM.predict`.

    Attributes:
        logits: the prediction, (N, K).
        masks: each stage's mask, exactly 0 or 1, (N, 1, H_l, W_l) each, keyed as the user named the stages.
    """

    logits: Tensor
    masks: dict[Stage, Tensor]


# torch.export.save refuses it without a serialized name; torch has no public function for NamedTuples.
_pytree._register_namedtuple(AIMOutput, serialized_type_name="aimwrap.AIMOutput")


@dataclass(frozen=True, eq=False, repr=False)
class MaskedFeatures:
    """Everything between the backbone's maps and the classifiers, by stage as the user named them, shallow to deep.

    The classifiers read averages only, so the masked maps and the fused one are made when they are asked for.

    Attributes:
        top_down: the head's pathway, which knows how the masked maps are made.
        mask_logits: the paper's A (eq. 1), (N, 1, H_l, W_l) each; empty where masks were given.
        masks: the paper's B (eq. 2), (N, 1, H_l, W_l) each, for the area loss.
        selections: the same masks as the features meet them. Only the gradient differs, and only without
            ``labels_move_area``: through them the classification losses order an image's positions, but do not shift
            their logits together.
        features: the maps to be masked: T_l(S_l(x_l)), (N, D, H_l, W_l) each, or the backbone's final map,
            (N, D, h, w).
    """

    top_down: PaperTopDown | FeaturePreservingTopDown
    mask_logits: dict[Stage, Tensor]
    masks: dict[Stage, Tensor]
    selections: dict[Stage, Tensor]
    features: dict[Stage, Tensor]

    @property
    def masked(self) -> dict[Stage, Tensor]:
        """The paper's O (eq. 3), (N, D, H_l, W_l) each."""
        masked = self.top_down.masked(list(self.features.values()), list(self.selections.values()))
        return dict(zip(self.features, masked, strict=True))

    @property
    def fused(self) -> Tensor:
        """The paper's O_final, (N, D, H, W)."""
        return self.top_down.fuse(list(self.masked.values()), list(self.selections.values()))[0]

    @property
    def merged_mask(self) -> Tensor:
        """The support of ``fused``, (N, 1, H, W)."""
        selected = list(self.selections.values())
        return self.top_down.fuse(selected, selected)[1]
