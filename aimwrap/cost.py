"""What a wrapped model costs beside its backbone (the comparison of the paper's appendix A.2)."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates for one image in evaluation.

    Attributes:
        parameters: of the wrapped model, the backbone's classifier no longer included.
        macs: of the wrapped model.
        backbone_parameters: of the backbone as it came, classifier included.
        backbone_macs: of the backbone as it came.
        head_parameters: of what wrapping adds: mask estimators, transforms, classifiers.
        head_macs: of what wrapping adds.
        image_size: (H, W) of the image.
    """

    parameters: int
    macs: int
    backbone_parameters: int
    backbone_macs: int
    head_parameters: int
    head_macs: int
    image_size: tuple[int, int]

    def __str__(self) -> str:
        """One line per quantity, for reports."""
        height, width = self.image_size
        more_parameters = self.parameters / self.backbone_parameters - 1
        more_macs = self.macs / self.backbone_macs - 1
        return (
            f"{self.parameters / 1e6:.2f} M parameters, backbone alone {self.backbone_parameters / 1e6:.2f} M "
            f"({more_parameters:+.1%}), head {self.head_parameters / 1e6:.2f} M\n"
            f"{self.macs / 1e9:.2f} GMACs at {height} x {width}, backbone alone {self.backbone_macs / 1e9:.2f} "
            f"({more_macs:+.1%}), head {self.head_macs / 1e9:.2f}"
        )
