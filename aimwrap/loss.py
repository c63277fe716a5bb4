"""AIMLoss (paper eq. 6 and 7) and its terms as free functions. It knows AIMOutput, never AIM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._checks import (
    check_choices,
    check_classification_loss,
    check_not_negative,
    check_one_logit,
    check_output,
    check_target,
    check_tau,
)
from ._choices import AreaPer as AreaPer
from ._numerics import wide_dtype
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
    if not isinstance(mask, Tensor):
        raise TypeError(f"active_area takes the mask of one stage, such as output.masks[3], got {type(mask).__name__}")
    return mask.float().mean(dim=(1, 2, 3))


def active_area_loss(
    mask: Tensor, tau: Tensor | float, per: AreaPer = "image", batch_mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """(r - tau)^2 of one stage's masks (eq. 6, left), averaged over the batch.

    Args:
        mask: 0 or 1, (N, 1, H, W).
        tau: the area it is pulled towards.
        per: r is the area of each ``"image"``, or the mean over the ``"batch"``, which lets images share the area
            unevenly. The paper does not say which; the methods it builds on use the batch.
        batch_mean: from the images' areas, (N,), to the batch's, a scalar. The default sees this process's images.

    Returns:
        A scalar.
    """
    area = active_area(mask)
    if per == "batch":
        area = batch_mean(area)
    elif per != "image":
        raise ValueError(f"per must be 'image' or 'batch', got {per!r}")
    return (area - tau).square().mean()  # eq. 6


class AIMLoss(nn.Module):
    r"""Classification losses of every stage and of the fused map, and the active-area loss (paper eq. 7).

    ``mask_weight * sum_l (r_l - tau_l)^2 + stage_weight * sum_l CE(stage l) + final_weight * CE(final)``

    Args:
        tau: area that the masks are pulled towards, in (0, 1]: a float for all stages or one per stage, shallow to
            deep. There is no default; pass ``model.tau``.
        mask_weight: the paper's lambda, 6 in all its experiments.
        stage_weight: weight of each stage classifier's loss: a float for all stages or one per stage, shallow to deep.
        final_weight: weight of the final classifier's loss. Eq. 7 as printed sums over stages only; the final
            prediction (eq. 5) has to be trained by something, so its loss is included. Where eq. 7 is read so that the
            final classifier is that of the last stage, the finest has weight 0: ``stage_weight=[0, 1]``.
        area_per: r per ``"image"`` or per ``"batch"``, see :func:`active_area_loss`.
        batch_mean: what averages the areas with ``area_per="batch"``. Where several processes share a batch,
            :func:`aimwrap.train.mean_over_processes` takes all of its images; per image there is nothing to share.
        classification_loss: any module that takes (logits (N, K), target) and returns a scalar; cross entropy by
            default, also of soft labels (N, K), as mixup makes them. A single logit and images with several classes
            need ``nn.BCEWithLogitsLoss()``, whose target is of the logits' shape.

    Attributes:
        tau: float32 buffer, the current target area, which :class:`~aimwrap.TauScheduler` changes.
        target_tau: the tau it was built with, as a float or a tuple of floats.

    Raises:
        ValueError: if a tau is outside (0, 1], a weight is negative, or ``area_per`` is not one of the two.

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
        stage_weight: float | Sequence[float] = 1.0,
        final_weight: float = 1.0,
        area_per: AreaPer = "image",
        batch_mean: Callable[[Tensor], Tensor] = torch.mean,
        classification_loss: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stage_weight = stage_weight if isinstance(stage_weight, int | float) else tuple(stage_weight)
        check_not_negative(mask_weight=mask_weight, final_weight=final_weight)
        for weight in self.stage_weight if isinstance(self.stage_weight, tuple) else (self.stage_weight,):
            check_not_negative(stage_weight=weight)
        check_choices(area_per=(area_per, AreaPer))
        check_classification_loss(classification_loss)
        self.target_tau = check_tau(tau)
        self.mask_weight = mask_weight
        self.final_weight = final_weight
        self.area_per: AreaPer = area_per
        self.batch_mean = batch_mean
        self.classification_loss = nn.CrossEntropyLoss() if classification_loss is None else classification_loss
        self.register_buffer("tau", torch.tensor(self.target_tau, dtype=torch.float32))
        self._tried_one_logit = False

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
        check_output(output, self.tau)
        loss = self.classification_loss
        if isinstance(loss, nn.CrossEntropyLoss) or type(loss).forward is nn.BCEWithLogitsLoss.forward:
            check_target(output.logits, target, getattr(loss, "ignore_index", None))
        elif output.logits.shape[1:] == (1,) and not self._tried_one_logit and not torch.compiler.is_compiling():
            check_one_logit(loss, output.logits, target)
            self._tried_one_logit = True
        taus = self.tau.float().expand(len(output.masks))
        areas = {
            stage: active_area_loss(mask, tau, self.area_per, self.batch_mean)
            for (stage, mask), tau in zip(output.masks.items(), taus, strict=True)
        }
        stages = {stage: self._classification(logits, target) for stage, logits in output.stage_logits.items()}
        final = self._classification(output.logits, target)
        total = (  # eq. 7
            self.mask_weight * torch.stack(list(areas.values())).sum()
            + self._weighted(torch.stack(list(stages.values())))
            + self.final_weight * final
        )
        measured = {stage: active_area(mask.detach()).mean() for stage, mask in output.masks.items()}
        return AIMLossComponents(total, final, stages, areas, measured)

    def _weighted(self, losses: Tensor) -> Tensor:
        """The sum of the stages' classification losses, (L,), with one weight for all or one per stage."""
        if not isinstance(self.stage_weight, tuple):
            return self.stage_weight * losses.sum()
        if len(self.stage_weight) != len(losses):
            raise ValueError(
                f"stage_weight must be one float or one per stage, shallow to deep: this loss has "
                f"{len(self.stage_weight)} weight(s), the output has {len(losses)} stage(s)"
            )
        return (losses.new_tensor(self.stage_weight) * losses).sum()

    def _classification(self, logits: Tensor, target: Tensor) -> Tensor:
        """In float32 at least, as under CUDA's autocast; CPU's does not do that. Its own weights and targets follow."""
        module = self.classification_loss
        buffers = dict(module.named_buffers())
        own = {name: x for name, x in {**dict(module.named_parameters()), **buffers}.items() if x.is_floating_point()}
        dtype = torch.float64 if any(x.dtype == torch.float64 for x in own.values()) else wide_dtype(logits)
        cast = {name: x.to(dtype) for name, x in own.items() if x.dtype != dtype}
        if isinstance(target, Tensor) and target.is_floating_point():
            target = target.to(dtype)
        given = logits.to(dtype), target
        loss: Tensor = torch.func.functional_call(module, cast, given) if cast else module(*given)
        for name in cast.keys() & buffers.keys():  # which a loss may change, such as a moving average
            buffers[name].data.copy_(cast[name])
        if isinstance(module, nn.CrossEntropyLoss) and not target.is_floating_point():
            loss = torch.where((target == module.ignore_index).all(), 0.0, loss)  # where it would be 0 / 0
        return loss

    def get_extra_state(self) -> Tensor:
        """The tau it was built with, for :meth:`load_state_dict`, which restores it."""
        return torch.tensor(self.target_tau, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """See :meth:`get_extra_state`."""
        self.target_tau = check_tau(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())  # older states lack it
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The arguments of eq. 7."""
        weights = list(self.stage_weight) if isinstance(self.stage_weight, tuple) else f"{self.stage_weight:g}"
        return (
            f"tau={self.target_tau}, mask_weight={self.mask_weight:g}, stage_weight={weights}, "
            f"final_weight={self.final_weight:g}, area_per={self.area_per!r}"
        )
