"""The annealed area target: a pure function of the step, and the scheduler that moves a loss's tau along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import torch

from ._checks import check_choices

if TYPE_CHECKING:
    from .loss import AIMLoss

Curve = Literal["linear", "cosine"]


def annealed_tau(
    step: float, target: float, anneal_steps: float, *, start: float = 1.0, curve: Curve = "linear"
) -> float:
    """The area target at a step: from ``start`` to ``target`` in ``anneal_steps``, then held.

    The paper's annealing (section 3, "Optional Mask Annealing"): training begins with fully active masks and the
    threshold is lowered each epoch. That it falls linearly is our choice.

    Args:
        step: epochs or optimiser steps done, from 0.
        target: the area held at the end, in (0, 1].
        anneal_steps: number of annealing steps; 0 starts at the target.
        start: the area at step 0, in (0, 1].
        curve: ``"linear"``, or ``"cosine"``: half a cosine wave, slow at both ends.

    Returns:
        The area target at that step.

    Raises:
        ValueError: if ``curve`` is not one of the two, or a number is out of range or not finite.

    Example:
        >>> [annealed_tau(epoch, target=0.2, anneal_steps=4) for epoch in (0, 2, 4, 9)]
        [1.0, 0.6, 0.2, 0.2]
    """
    check_choices(curve=(curve, Curve))
    if not (step >= 0 and 0 <= anneal_steps < math.inf and 0 < target <= 1 and 0 < start <= 1):
        raise ValueError(f"steps must be 0 or more, areas in (0, 1], got {step=}, {anneal_steps=}, {target=}, {start=}")
    progress = min(1.0, step / anneal_steps) if anneal_steps > 0 else 1.0
    if progress == 1.0:
        return target
    if curve == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return start - (start - target) * progress


class TauScheduler:
    """Move a loss's area target from ``start`` down to the value it was built with, then hold it.

    It changes ``criterion.tau`` as a learning-rate scheduler changes an optimiser's rate: it is ``start`` before any
    :meth:`step`. Give the annealing's length in epochs and call :meth:`step` after each epoch, or in optimiser steps
    and call it after each of those.

    Args:
        criterion: the loss; the tau that it was built with is the target.
        anneal_epochs: length in calls of :meth:`step`, one per epoch.
        anneal_steps: length in calls of :meth:`step`, one per optimiser step. Exactly one of the two must be given.
        start: the area at the beginning; the paper's 1.0 is fully open. At least the target of every stage.
        curve: ``"linear"`` or ``"cosine"``; the paper's main text names none.

    Raises:
        ValueError: if not exactly one length is given, as a whole number, or ``start`` or ``curve`` does not fit.

    Example:
        >>> from aimwrap import AIMLoss
        >>> criterion = AIMLoss(tau=0.5)
        >>> schedule = TauScheduler(criterion, anneal_epochs=2)
        >>> for epoch in range(4):
        ...     print(criterion.tau.item())
        ...     schedule.step()
        1.0
        0.75
        0.5
        0.5
    """

    def __init__(
        self,
        criterion: AIMLoss,
        anneal_epochs: int | None = None,
        *,
        anneal_steps: int | None = None,
        start: float = 1.0,
        curve: Curve = "linear",
    ) -> None:
        if (anneal_epochs is None) == (anneal_steps is None):
            raise ValueError(
                "TauScheduler needs exactly one of anneal_epochs (call step() after each epoch) and anneal_steps "
                f"(call it after each optimiser step), got anneal_epochs={anneal_epochs}, anneal_steps={anneal_steps}"
            )
        if not hasattr(criterion, "target_tau"):
            raise TypeError(f"TauScheduler moves an AIMLoss's tau, got {type(criterion).__name__}; pass the criterion")
        self.unit = "steps" if anneal_epochs is None else "epochs"
        length: Any = anneal_steps if anneal_epochs is None else anneal_epochs
        if isinstance(length, bool) or not isinstance(length, Integral) or length < 0:
            wrong = "not be negative" if isinstance(length, Integral) else "be a whole number"
            raise ValueError(f"anneal_{self.unit} must {wrong}, got {length!r}; 0 starts at the target")
        self.criterion = criterion
        self.target: float | tuple[float, ...] = criterion.target_tau
        if not max(_as_tuple(self.target)) <= start <= 1:
            raise ValueError(
                f"start must be between the target {self.target} and 1, got {start}; masks open before they close"
            )
        self.length = int(length)
        self.start = start
        self.curve: Curve = curve
        self.steps_done = 0
        self._move()

    def step(self) -> None:
        """Note that one more epoch, or optimiser step, is done, and move ``criterion.tau``."""
        self.steps_done += 1
        self._move()

    @property
    def tau(self) -> float | tuple[float, ...]:
        """The current area target: a float, or one per stage, shallow to deep."""
        values = tuple(
            annealed_tau(self.steps_done, target, self.length, start=self.start, curve=self.curve)
            for target in _as_tuple(self.target)
        )
        return values if isinstance(self.target, tuple) else values[0]

    def state_dict(self) -> dict[str, Any]:
        """The progress, the target and the curve, for a resumed run; plain numbers and strings."""
        names = ("steps_done", "target", "length", "unit", "start", "curve")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from another scheduler's state, and set ``criterion.tau`` accordingly.

        Args:
            state: from :meth:`state_dict`. Its target is restored too, so the new loss may hold any tau.

        Raises:
            ValueError: if entries are missing, or the number of stages differs.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(
                f"this is not a state of a TauScheduler, it lacks {sorted(missing)}; pass its state_dict()"
            )
        if state["unit"] != self.unit:
            raise ValueError(
                f"the state counts {state['unit']} and this scheduler {self.unit}; build it with "
                f"anneal_{state['unit']}={state['length']}"
            )
        values, own = _as_tuple(state["target"]), _as_tuple(self.target)
        if len(values) != len(own):
            raise ValueError(
                f"the state is for {len(values)} stage(s) and this loss has {len(own)}; build the AIMLoss with the tau "
                "of the model that is resumed"
            )
        for name in self.state_dict():
            setattr(self, name, state[name])
        self.criterion.target_tau = values if isinstance(self.criterion.target_tau, tuple) else values[0]
        self._move()

    def __repr__(self) -> str:
        return (
            f"TauScheduler({self.start:g} -> {self.target} in {self.length} {self.unit}, {self.curve}; "
            f"{self.steps_done} done, tau = {self.tau})"
        )

    def _move(self) -> None:
        self.target = self.criterion.target_tau  # its loaded state may have another
        # In place: a buffer that keeps its identity costs torch.compile no recompilation when its value moves.
        with torch.no_grad():
            self.criterion.tau.copy_(torch.tensor(self.tau))


def _as_tuple(value: float | Sequence[float]) -> tuple[float, ...]:
    return (value,) if isinstance(value, int | float) else tuple(value)
