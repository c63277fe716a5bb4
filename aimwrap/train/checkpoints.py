"""Checkpoints: one file each, that is there whole or not at all, and of which the last two are kept."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..replacing import replacing

KEPT = 2
_FORMAT = "aimwrap training 1"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, or belongs to another run."""


class Checkpoint(NamedTuple):
    """All that a run has to know to go on.

    Attributes:
        tensors: by part and name, such as ``model/classifier.weight``; on the CPU.
        state: everything else, as JSON has it.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, without its name.

        >>> Checkpoint({"model/weight": torch.zeros(2), "ema/weight": torch.ones(2)}, {}).part("ema")
        {'weight': tensor([1., 1.])}
        """
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint behind a step lies."""
    return folder / f"step-{step:09d}.safetensors"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, on the disk and not only on its way there.

    Args:
        path: of the file.
        checkpoint: what to write.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk; what was there before is untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state)
    metadata = {"format": _FORMAT, "state": state, "sha256": _digest(tensors, state)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values()) / 2**20
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        left = [other.name for other in checkpoints_in(path.parent)]
        good = f"The last good one, {left[-1]}, is untouched" if left else "There is none before it"
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {'the disk is full' if full else error}. {good}. It needs "
            f"{needed:.0f} MiB; make room, give the same command again, and the run goes on from there"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in it is run.

    Args:
        path: of the file.

    Returns:
        What was written.

    Raises:
        CheckpointError: if it is cut off or damaged, or no checkpoint, naming the one before it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_damaged(path, f"cannot be read ({error}): it was cut off or overwritten")) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(_damaged(path, "was not written by this version of aimwrap train"))
    if metadata.get("sha256") != _digest(tensors, metadata["state"]):
        raise CheckpointError(_damaged(path, "is damaged: its contents are not those that were written"))
    return Checkpoint(tensors, json.loads(metadata["state"]))


def remove_old_checkpoints(folder: Path) -> None:
    """Remove all but the last two."""
    for path in checkpoints_in(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def optimizer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an optimiser's ``state_dict()``, by parameter and name; the groups are the settings' business."""
    return {
        f"{number}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }


def optimizer_state(tensors: Mapping[str, Tensor], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's ``state_dict()`` from its tensors and a fresh optimiser's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    return {**fresh, "state": state}


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> str:
    before = [other for other in checkpoints_in(path.parent) if other.name < path.name]
    way_out = (
        f"The one before it, {before[-1].name}, is still there: remove {path.name}, give the same command again, and "
        "the run goes on from that"
        if before
        else "There is none before it: remove it, and the run begins anew"
    )
    return f"the checkpoint {path} {what}. {way_out}"
