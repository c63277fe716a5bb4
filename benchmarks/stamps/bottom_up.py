"""The paper's first attempt, its Table 2: masks inside the backbone, where each masked map feeds the next stage.

Section 6.1: the same estimators, no top-down pathway; a stage's binary mask multiplies its output, and the sparse map
proceeds. The paper saw accuracy fall and masks stay fully open. It trained the backbone; with a frozen one, as here,
later layers read zeros that they have never seen. The last mask is applied after the head convolution, whose
BatchNorm would otherwise put constants where the mask is closed.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from aimwrap import AIMOutput, MaskEstimator
from aimwrap.gumbel import perturb, rank_only, straight_through
from aimwrap.top_down import pool

STAGES = (2, 3)
BLOCKS = 5  # of tf_efficientnet_lite0, up to the end of stage 2


class BottomUpFeatures(NamedTuple):
    """What is classified, and the masks on the way there.

    Attributes:
        masks: by stage, (N, 1, H_l, W_l).
        fused: the final map times the last mask, (N, D, h, w).
        merged_mask: the last mask, (N, 1, h, w).
    """

    masks: dict[int, Tensor]
    fused: Tensor
    merged_mask: Tensor


class BottomUp(nn.Module):
    """timm's tf_efficientnet_lite0 with masks after stages 2 and 3.

    Args:
        backbone: it is used, not copied.
        num_classes: K.
        mask_width, mask_norm: of the mask estimators, as in :class:`aimwrap.AIM`.
        labels_move_area: as in :class:`aimwrap.AIM`.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, mask_width: int, mask_norm: str, labels_move_area: bool
    ) -> None:
        super().__init__()
        self.labels_move_area = labels_move_area
        self.stage_2 = nn.Sequential(backbone.conv_stem, backbone.bn1, *backbone.blocks[:BLOCKS])
        self.stage_3 = nn.Sequential(*backbone.blocks[BLOCKS:])
        self.head = nn.Sequential(backbone.conv_head, backbone.bn2)
        channels = (backbone.feature_info[3]["num_chs"], backbone.feature_info[4]["num_chs"])
        self.mask_estimators = nn.ModuleDict(
            {str(stage): MaskEstimator(c, mask_width, mask_norm) for stage, c in zip(STAGES, channels, strict=True)}
        )
        self.classifier = nn.Linear(backbone.num_features, num_classes)

    def forward(self, map_2: Tensor) -> BottomUpFeatures:
        """From stage 2's map (N, C, H, W), which a frozen backbone's user caches, to the masked final map."""
        mask_2, selection_2 = self._mask(2, map_2)
        map_3 = self.stage_3(map_2 * selection_2)
        mask_3, selection_3 = self._mask(3, map_3)
        return BottomUpFeatures({2: mask_2, 3: mask_3}, self.head(map_3) * selection_3, selection_3)

    def forward_head(self, features: BottomUpFeatures) -> AIMOutput:
        """Final logits; the stages have none of their own, and their loss is to be weighed with zero."""
        logits = self.classifier(pool(features.fused, features.merged_mask, "active"))
        return AIMOutput(logits, dict.fromkeys(features.masks, logits.detach()), features.masks)

    def _mask(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mask for the area loss, and as the features meet it: as in :meth:`aimwrap.AIM.forward_masks`."""
        attention = perturb(self.mask_estimators[str(stage)](x), training=self.training)
        mask = straight_through(attention)
        return mask, mask if self.labels_move_area else straight_through(rank_only(attention))
