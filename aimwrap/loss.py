"""AIMLoss (paper eq. 6 and 7) and its terms as free functions. It knows AIMOutput, never AIM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from ._choices import AreaPer as AreaPer
from .output import AIMOutput
from .taps import Stage


class AIMLossComponents(NamedTuple):
    """The terms of eq. 7, unweighted except for ``total``.

    Attributes:
        total: what is back-propagated, a scalar.
        final_classification: the final classifier's loss, a scalar.
        stage_classification: each stage classifier's loss, scalars by stage.
        active_area_loss: each stage's (r - tau)^2 of eq. 6, scalars by stage.
        active_area: each stage's mean active area r, scalars by stage, without gradient; for the log.
    """

    total: Tensor
    final_classification: Tensor
    stage_classification: dict[Stage, Tensor]
    active_area_loss: dict[Stage, Tensor]
    active_area: dict[Stage, Tensor]


def active_area(mask: Tensor) -> Tensor:
    """Share of a mask that is open: the paper's r (eq. 6, right).

    Args:
        mask: 0 or 1, (N, 1, H, W), any floating dtype.

    Returns:
        float32 (N,), in [0, 1].

    Example:
        >>> active_area(torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))
        tensor([0.2500])
    """
    return mask.float().mean(dim=(1, 2, 3))


def active_area_loss(
    mask: Tensor,
    tau: Tensor | float,
    per: AreaPer = "image",
    batch_mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """(r - tau)^2 of one stage's masks (eq. 6, left), averaged over the batch.

    Args:
        mask: 0 or 1, (N, 1, H, W).
        tau: the area it is pulled towards.
        per: whose area r is: each ``"image"``'s own, or the whole ``"batch"``'s, which lets images share the area
            unevenly. The paper's indices do not tell; its parents use the batch.
        batch_mean: from the images' areas, (N,), to the batch's, a scalar. The default sees this process's images.

    Returns:
        A scalar.
    """
    area = active_area(mask)
    if per == "batch":
        area = batch_mean(area)
    return (area - tau).square().mean()  # eq. 6


class AIMLoss(nn.Module):
    r"""Classification losses of every stage and of the fused map, and the active-area loss (paper eq. 7).

    ``mask_weight * sum_l (r_l - tau_l)^2 + stage_weight * sum_l CE(stage l) + final_weight * CE(final)``

    Args:
        tau: area that the masks are pulled towards, in (0, 1]: a float for all stages or one per stage, shallow to
            deep. There is no default; pass ``model.tau``.
        mask_weight: the paper's lambda, 6 in all its experiments.
        stage_weight: weight of each stage classifier's loss.
        final_weight: weight of the final classifier's loss. Eq. 7 as printed sums over stages only; the final
            prediction (eq. 5) has to be trained by something, so its loss is included.
        area_per: r per ``"image"`` or per ``"batch"``, see :func:`active_area_loss`.
        batch_mean: what averages the areas with ``area_per="batch"``. Where several processes share a batch,
            :func:`aimwrap.train.mean_over_processes` takes all of its images; per image there is nothing to share.
        classification_loss: any module that takes (logits (N, K), target) and returns a scalar; cross entropy by
            default. It serves label smoothing, soft labels, and binary cross entropy.

    Attributes:
        tau: float32 buffer, the area pulled towards *now*: what :class:`~aimwrap.TauScheduler` moves.
        target_tau: the tau it was built with, as a float or a tuple of floats.

    Raises:
        ValueError: if a tau is outside (0, 1], a weight is negative, or ``area_per`` is none of the two.

    Example:
        >>> from aimwrap import AIMOutput
        >>> mask = torch.tensor([[[[1.0, 0.0]]]])
        >>> output = AIMOutput(torch.zeros(1, 2), {3: torch.zeros(1, 2)}, {3: mask})
        >>> round(AIMLoss(tau=0.25)(output, torch.tensor([1])).item(), 4)  # 6 * 0.25^2 + 2 ln 2
        1.7613
    """

    tau: Tensor

    def __init__(
        self,
        tau: float | Sequence[float],
        *,
        mask_weight: float = 6.0,
        stage_weight: float = 1.0,
        final_weight: float = 1.0,
        area_per: AreaPer = "image",
        batch_mean: Callable[[Tensor], Tensor] = torch.mean,
        classification_loss: nn.Module | None = None,
    ) -> None:
        super().__init__()
        weights = {"mask_weight": mask_weight, "stage_weight": stage_weight, "final_weight": final_weight}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} must not be negative, got {weight}; 0 switches the term off")
        if area_per not in get_args(AreaPer):
            raise ValueError(f"area_per must be 'image' or 'batch', got {area_per!r}")
        if classification_loss is not None and not isinstance(classification_loss, nn.Module):
            raise TypeError(
                "classification_loss must be a module, such as nn.CrossEntropyLoss(label_smoothing=0.1), got "
                f"{getattr(classification_loss, '__name__', type(classification_loss).__name__)}; was () forgotten?"
            )
        if getattr(classification_loss, "reduction", "mean") == "none":
            raise ValueError('classification_loss must return a scalar; build it with reduction="mean"')
        self.target_tau = check_tau(tau)
        self.mask_weight = mask_weight
        self.stage_weight = stage_weight
        self.final_weight = final_weight
        self.area_per: AreaPer = area_per
        self.batch_mean = batch_mean
        self.classification_loss = nn.CrossEntropyLoss() if classification_loss is None else classification_loss
        self.register_buffer("tau", torch.tensor(self.target_tau, dtype=torch.float32))

    def forward(self, output: AIMOutput, target: Tensor) -> Tensor:
        """The scalar to back-propagate.

        Args:
            output: what the model returned.
            target: class indices (N,), or whatever ``classification_loss`` takes.

        Returns:
            The total of eq. 7.

        Raises:
            TypeError: if ``output`` is not an :class:`~aimwrap.AIMOutput`.
            ValueError: if the targets do not fit the logits, or tau not the stages.
        """
        return self.components(output, target).total

    def components(self, output: AIMOutput, target: Tensor) -> AIMLossComponents:
        """Every term apart, for the log. Arguments and errors as in :meth:`forward`."""
        self._check(output, target)
        taus = self.tau.float().expand(len(output.masks))
        areas = {
            stage: active_area_loss(mask, tau, self.area_per, self.batch_mean)
            for (stage, mask), tau in zip(output.masks.items(), taus, strict=True)
        }
        stages = {stage: self._classification(logits, target) for stage, logits in output.stage_logits.items()}
        final = self._classification(output.logits, target)
        total = (  # eq. 7
            self.mask_weight * torch.stack(list(areas.values())).sum()
            + self.stage_weight * torch.stack(list(stages.values())).sum()
            + self.final_weight * final
        )
        measured = {stage: active_area(mask.detach()).mean() for stage, mask in output.masks.items()}
        return AIMLossComponents(total, final, stages, areas, measured)

    def _classification(self, logits: Tensor, target: Tensor) -> Tensor:
        """In float32 at least, as CUDA's autocast has it, and CPU's has not."""
        loss: Tensor = self.classification_loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), target)
        return loss

    def _check(self, output: AIMOutput, target: Tensor) -> None:
        if not hasattr(output, "stage_logits"):
            raise TypeError(
                f"AIMLoss takes the AIMOutput that AIM returns, got {type(output).__name__}; "
                "call criterion(model(images), labels), not criterion(model(images).logits, labels)"
            )
        if self.tau.ndim == 1 and len(self.tau) != len(output.masks):
            raise ValueError(
                f"this loss holds tau for {len(self.tau)} stage(s), the output has {len(output.masks)} "
                f"({', '.join(map(str, output.masks))}); build it with AIMLoss(tau=model.tau) of the same model"
            )
        if isinstance(self.classification_loss, nn.CrossEntropyLoss):
            _check_target(output.logits, target, self.classification_loss.ignore_index)

    def extra_repr(self) -> str:
        """The arguments of eq. 7."""
        return (
            f"tau={self.target_tau}, mask_weight={self.mask_weight:g}, stage_weight={self.stage_weight:g}, "
            f"final_weight={self.final_weight:g}, area_per={self.area_per!r}"
        )


def check_tau(tau: float | Sequence[float], name: str = "tau") -> float | tuple[float, ...]:
    """Return an area as a float, or as a tuple of floats if it came as a sequence; every one of them in (0, 1]."""
    tau = tau.tolist() if hasattr(tau, "tolist") else tau  # NumPy's numbers and arrays, and tensors
    single = isinstance(tau, int | float) and not isinstance(tau, bool)
    if not single and not (isinstance(tau, Sequence) and all(isinstance(value, int | float) for value in tau)):
        raise TypeError(f"{name} must be a float, or a list of floats with one per stage, got {tau!r}")
    values = (float(tau),) if isinstance(tau, int | float) else tuple(map(float, tau))
    if not values or not all(0 < value <= 1 for value in values):
        raise ValueError(
            f"{name} must lie in (0, 1], got {tau}; it is the share of a mask that stays open, "
            "0.25 or 0.35 in the paper"
        )
    return values[0] if single else values


def _check_target(logits: Tensor, target: Tensor, ignore_index: int) -> None:
    classes = logits.shape[1]
    if not isinstance(target, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(target).__name__}; torch.tensor(labels) makes one")
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"soft labels must have the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}; "
                "class indices must be integers: labels.long()"
            )
        return
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be class indices of shape ({logits.shape[0]},), got {tuple(target.shape)}; "
            "labels.squeeze() or one_hot.argmax(dim=1) may be what is missing"
        )
    if target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"labels must be int64, got {target.dtype}; call labels.long()")
    # Looking at values would wait for a GPU and break a compiled graph; there, torch's own check remains.
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
        if len(wrong):
            raise ValueError(
                f"labels must lie in 0..{classes - 1}, got {wrong[0].item()}; "
                f"the model was built for {classes} classes, set num_classes= if that is wrong"
            )
