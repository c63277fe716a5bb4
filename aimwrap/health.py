"""Notice masks that died: fully on, fully off, frozen, the same for every image, or open in training only."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .loss import AIMLoss
from .output import AIMOutput
from .taps import Stage

Symptom = Literal[
    "not finite",
    "all on",
    "all off",
    "open only in training",
    "all or nothing",
    "frozen",
    "same for every image",
    "off tau",
]

# An area this close to 0 or 1 counts as 0 or 1, unless tau is that close too.
_EDGE = 0.02
# While tau is annealed, areas follow late: above this tau, only masks that are off are reported.
_LATE = 0.7
# With at least this share of images fully on or fully off, a mask chooses images and not positions.
_MOST = 0.9

_REMEDIES: dict[Symptom, str] = {
    "not finite": "training diverged: lower the learning rate, clip gradients, and in half precision scale the loss",
    "all on": "the model then works without masks: lower the new modules' learning rate, let tau fall for longer "
    "(TauScheduler, anneal_share), and keep the defaults of mask_norm, logit_spread and logit_range",
    "all off": "only the classifier's bias then decides: raise tau, lower the new modules' learning rate, and give "
    "the masks more steps",
    "open only in training": "noise opens positions whose logits are all below 0: keep logit_spread at its default, "
    "or train longer after the annealing, so that the logits spread",
    "same for every image": "it hides a fixed region whatever the image shows: train longer, tap a finer stage, or "
    "raise the estimators' learning rate; on a map of a few positions it can be harmless",
    "all or nothing": "it chooses images and not positions: keep area_per='image' and logit_spread at its default, or "
    "train longer",
    "off tau": "that is more than max(0.05, 0.4 tau): train longer after the annealing, raise the mask estimators' "
    "learning rate, or raise the weight of the area loss (mask_weight)",
    "frozen": "its area is off tau and it has not moved since the last report: raise the mask estimators' learning "
    "rate, and see that their parameters are in the optimizer",
}


class MaskHealthWarning(UserWarning):
    """A mask is dead or dying; the message names the stage and the remedy."""


class MaskFinding(NamedTuple):
    """One symptom of one stage's mask.

    Attributes:
        stage: as the user named it; None where the symptom concerns all stages.
        symptom: what is wrong.
        area: mean active area that it was seen at.
        message: a sentence for the user, with the remedy.
    """

    stage: Stage | None
    symptom: Symptom
    area: float
    message: str


@dataclass
class _Seen:
    """A stage's masks in one mode, summed up; tensors stay on their device until a report is asked for."""

    images: int
    area: Tensor  # summed over images
    extreme: Tensor  # images that are fully on or fully off
    any_on: Tensor  # per position, while all maps have one size
    all_on: Tensor
    first: Tensor  # the first batch's masks
    comparable: bool = True

    @staticmethod
    def of(mask: Tensor) -> _Seen:
        areas = mask.float().mean((1, 2, 3))
        extreme = ((areas == 0) | (areas == 1)).sum()
        return _Seen(len(mask), areas.sum(), extreme, mask.amax(0), mask.amin(0), mask.bool())

    def add(self, more: _Seen) -> None:
        self.images += more.images
        self.area, self.extreme = self.area + more.area, self.extreme + more.extreme
        self.comparable = self.comparable and self.any_on.shape == more.any_on.shape
        if self.comparable:
            self.any_on = torch.maximum(self.any_on, more.any_on)
            self.all_on = torch.minimum(self.all_on, more.all_on)

    @property
    def mean_area(self) -> float:
        return float(self.area) / self.images

    @property
    def one_for_all(self) -> bool:
        return self.comparable and self.images > 1 and torch.equal(self.any_on, self.all_on)


@dataclass
class _Batches:
    """Everything seen since the last report."""

    training: dict[Stage, _Seen] = field(default_factory=dict)
    evaluation: dict[Stage, _Seen] = field(default_factory=dict)
    bad_values: Tensor | None = None  # how many logits or mask values were not finite
    tau: Tensor | None = None  # that the masks were last trained towards


class MaskHealth:
    """Watch masks over batches and say which are dead, and what to do (never an exception: training goes on).

    Feed it outputs of training and of evaluation, and ask for a report regularly, for instance once per epoch. Most
    symptoms only show in evaluation, since noise varies a training mask. A few batches are enough. A mask is

    - *all on*, or *all off*: less than 2 % away from it, where tau is not;
    - *open only in training*: off in evaluation, and not in training;
    - *all or nothing*: fully on or fully off in nine of ten images;
    - *frozen*: off tau, and bit for bit the same on the first evaluation batch as in the last report, though there was
      training in between (show it the same images first each time);
    - the *same for every image*, bit for bit, in evaluation;
    - *off tau*: in evaluation and after the annealing, more than max(0.05, 0.4 tau) away from it.

    While tau is being annealed and still above 0.7, masks follow late, and only those that are off are reported.

    Args:
        tau: the area that the masks should have: the :class:`~aimwrap.AIMLoss`, whose annealed tau is then followed, a
            float, or one per stage.

    Raises:
        TypeError: if tau is none of these.
        ValueError: if it is not in (0, 1].

    Example:
        >>> health = MaskHealth(0.25)
        >>> open_masks = {3: torch.ones(4, 1, 7, 7)}
        >>> logits = torch.zeros(4, 2)
        >>> health.update(AIMOutput(logits, {3: logits}, open_masks), training=False)
        >>> [(finding.stage, finding.symptom) for finding in health.report()]
        [(3, 'all on')]
    """

    def __init__(self, tau: AIMLoss | float | Sequence[float]) -> None:
        if isinstance(tau, torch.nn.Module) and not isinstance(tau, AIMLoss):
            expected = "tau must be the AIMLoss, a float, or one per stage"
            raise TypeError(f"{expected}, got {type(tau).__name__}; pass the criterion, or model.tau")
        self._criterion = tau if isinstance(tau, AIMLoss) else AIMLoss(tau)
        self._batches = _Batches()
        self._last_first: dict[Stage, Tensor] = {}

    @torch.no_grad()
    def update(self, output: AIMOutput, *, training: bool) -> None:
        """Look at one batch; cheap, and without waiting for a GPU.

        Args:
            output: the model's, or a second look's.
            training: whether the model was in training mode: ``model.training``. A second look's masks never are.

        Raises:
            TypeError: if ``output`` is not an :class:`~aimwrap.AIMOutput`.
            ValueError: if tau does not fit its stages.
        """
        if isinstance(first := getattr(output, "first", None), AIMOutput):
            # Of a second look: its logits, and the masks of the first one, which is always in evaluation mode.
            output, training = first._replace(logits=output.logits), False
        if not isinstance(output, AIMOutput):
            raise TypeError(f"output must be what an AIM returns, an AIMOutput, got {type(output).__name__}")
        if len(output.logits) == 0:
            return
        stages, values = len(output.masks), self._criterion.tau.numel()
        if values not in (1, stages):
            raise ValueError(f"tau must be one value or one per stage: the outputs have {stages}, tau has {values}")
        seen = self._batches.training if training else self._batches.evaluation
        for stage, mask in output.masks.items():
            batch = _Seen.of(mask)
            if (so_far := seen.setdefault(stage, batch)) is not batch:
                so_far.add(batch)
        parts = (output.logits, *output.stage_logits.values(), *output.masks.values())
        bad = sum((~part.detach().isfinite()).sum() for part in parts)
        before = self._batches.bad_values
        self._batches.bad_values = torch.as_tensor(bad if before is None else before + bad)
        if training or self._batches.tau is None:
            # That of the last training batch: before evaluation, the scheduler has often changed it already.
            self._batches.tau = self._criterion.tau.detach().clone()

    def report(self) -> list[MaskFinding]:
        """Name what is wrong with the batches since the last report, and start again.

        Returns:
            One finding per stage and symptom, empty where the masks are healthy.
        """
        batches, self._batches = self._batches, _Batches()
        return self._findings(batches)

    def _findings(self, batches: _Batches) -> list[MaskFinding]:
        if batches.tau is None:
            return []
        findings: list[MaskFinding] = []
        if batches.bad_values is not None and int(batches.bad_values) > 0:
            what = f"{int(batches.bad_values)} logits or mask values are not finite"
            findings.append(MaskFinding(None, "not finite", float("nan"), f"{what}: {_REMEDIES['not finite']}"))
        stages = list(dict.fromkeys((*batches.training, *batches.evaluation)))
        taus, targets = (
            torch.as_tensor(tau).expand(len(stages)).tolist() for tau in (batches.tau, self._criterion.target_tau)
        )
        for stage, tau, target in zip(stages, taus, targets, strict=True):
            training, evaluation = batches.training.get(stage), batches.evaluation.get(stage)
            findings += self._of_stage(stage, tau, tau > 1.01 * target, training, evaluation)
        self._last_first |= {stage: seen.first for stage, seen in batches.evaluation.items()}
        return findings

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen since the last report, and what the next one compares with: flat, for any checkpoint."""
        state = {"bad_values": self._batches.bad_values, "tau": self._batches.tau}
        for mode, stages in (("training", self._batches.training), ("evaluation", self._batches.evaluation)):
            for stage, seen in stages.items():
                state |= {f"{mode}/{json.dumps(stage)}/{name}": value for name, value in vars(seen).items()}
        state |= {f"last/{json.dumps(stage)}/first": first for stage, first in self._last_first.items()}
        return {name: torch.as_tensor(value).clone() for name, value in state.items() if value is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`.

        Args:
            state: of a monitor of the same model, on the device of its masks.

        Raises:
            ValueError: if it is not such a state, or not all of it.
        """
        parts: dict[str, dict[Stage, dict[str, Any]]] = {"training": {}, "evaluation": {}, "last": {}}
        tried, wrong = MaskHealth(self._criterion), ""
        try:
            for key, value in state.items():
                wrong = f"has {key!r}"
                mode, _, rest = key.partition("/")
                encoded, _, name = rest.rpartition("/")
                if mode in parts and name in _Seen.__dataclass_fields__:
                    part = parts[mode].setdefault(json.loads(encoded), {})
                    part[name] = value.item() if name in ("images", "comparable") else value
                elif key not in ("bad_values", "tau"):
                    raise ValueError(key)
            wrong = "lacks a part, or its parts do not fit each other"
            training, evaluation = (
                {stage: _Seen(**part) for stage, part in parts[mode].items()} for mode in ("training", "evaluation")
            )
            last = {stage: part["first"] for stage, part in parts["last"].items()}
            batches = _Batches(training, evaluation, state.get("bad_values"), state.get("tau"))
            if (training or evaluation) and (batches.bad_values is None or batches.tau is None):
                raise ValueError(wrong)
            tried._last_first = dict(last)
            tried._findings(batches)  # what cannot be reported is refused here, and not at the end of an epoch
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"state must be a MaskHealth's state_dict(), and {wrong}; pass that one") from error
        self._batches, self._last_first = batches, last

    def warn(self) -> list[MaskFinding]:
        """As :meth:`report`, and issue each finding as a :class:`MaskHealthWarning`."""
        findings = self.report()
        for finding in findings:
            warnings.warn(finding.message, MaskHealthWarning, stacklevel=2)
        return findings

    def _of_stage(
        self, stage: Stage, tau: float, annealing: bool, training: _Seen | None, evaluation: _Seen | None
    ) -> list[MaskFinding]:
        """At most one finding: the first symptom that fits explains the others."""
        seen = evaluation or training
        assert seen is not None
        where = "in evaluation" if evaluation else "in training"
        area = seen.mean_area
        early = annealing and tau >= _LATE
        # Further from tau than healthy masks are (benchmarks/mask_health.py).
        off_tau = evaluation is not None and abs(area - tau) > max(0.05, 0.4 * tau)
        last = self._last_first.get(stage)
        symptom: Symptom | None = None
        if area > 1 - _EDGE:
            symptom = "all on" if tau < 1 - 2 * _EDGE and not early else None
        elif area < _EDGE and tau > 2 * _EDGE:
            opened = training is not None and evaluation is not None and training.mean_area > max(_EDGE, 0.2 * tau)
            symptom = "open only in training" if opened else "all off"
        elif early:
            pass  # most masks are still fully open, and the same for all images, as they should be
        elif seen.first[0].numel() > 1 and float(seen.extreme) >= _MOST * seen.images:
            symptom = "all or nothing"
        elif training is not None and off_tau and last is not None and torch.equal(last, seen.first):
            symptom = "frozen"
        elif evaluation is not None and evaluation.one_for_all and tau < 1:
            symptom = "same for every image"
        elif off_tau and not annealing:
            symptom = "off tau"
        if symptom is None:
            return []
        state = f"the mask of stage {stage!r} is {symptom} (area {area:.3f} {where}, tau {tau:.3g})"
        return [MaskFinding(stage, symptom, area, f"{state}: {_REMEDIES[symptom]}")]
