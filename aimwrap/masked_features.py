"""What lies between the backbone's maps and the classifiers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .taps import Stage
from .top_down import FeaturePreservingTopDown, PaperTopDown


@dataclass(frozen=True, eq=False, repr=False)
class MaskedFeatures:
    """What lies between the backbone's maps and the classifiers; the dicts are keyed by stage, shallow to deep.

    The classifiers read averages alone, so the masked maps and the fused one are made when they are asked for.

    Attributes:
        top_down: the head's pathway, which knows how they are made.
        mask_logits: the paper's A, (N, 1, H_l, W_l) each; empty where masks were given.
        masks: the paper's B, (N, 1, H_l, W_l) each, for the area loss.
        selections: the same masks as the features meet them: what is trained through them, unless ``labels_move_area``,
            orders an image's positions but does not shift their logits together.
        features: what is masked: T_l(S_l(x_l)), (N, D, H_l, W_l) each, or the backbone's final map, (N, D, h, w).
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
        masks = list(self.selections.values())
        return self.top_down.fuse(masks, masks)[1]
