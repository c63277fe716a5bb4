"""How far a run is, and what it has seen of the epoch that it is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs done.
        step_of_epoch: optimiser steps done of the one that it is in.
        step: all optimiser steps done.
        history: the log's line of each epoch that is done.
        best: epoch, score and file of the best weights so far; None before there are any.
        sums: of this epoch and process: loss and hits over images, and images; float64 (3,).
    """

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note a batch, without waiting for a GPU: the mean loss of its images, their logits and labels."""
        hits = (logits.argmax(1) == labels).sum()
        seen = torch.stack([loss.double() * len(labels), hits.double(), hits.new_tensor(len(labels)).double()])
        self.sums = self.sums.to(seen.device) + seen

    def end_step(self) -> None:
        """Note a step of the optimiser."""
        self.step_of_epoch += 1
        self.step += 1

    def sums_of_all(self) -> list[float]:
        """The sums over all processes."""
        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def training_scores(self) -> dict[str, float]:
        """The epoch's mean loss and accuracy in training, over all processes."""
        loss, hits, images = self.sums_of_all()
        return {"loss": loss / images, "average": hits / images}

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Begin the next epoch."""
        self.history.append(line)
        self.epoch += 1
        self.step_of_epoch = 0
        self.sums = torch.zeros_like(self.sums)

    def state_dict(self) -> dict[str, Any]:
        """Plain values; to be called in all processes."""
        names = ("epoch", "step_of_epoch", "step", "history", "best")
        return {**{name: getattr(self, name) for name in names}, "sums": self.sums_of_all()}

    def load_state_dict(self, state: dict[str, Any], rank: int) -> None:
        """Stand where another process stood; the first of them takes over what all had seen of the epoch."""
        for name in ("epoch", "step_of_epoch", "step", "history", "best"):
            setattr(self, name, state[name])
        self.sums = torch.tensor(state["sums"] if rank == 0 else [0.0] * 3, dtype=torch.float64)
