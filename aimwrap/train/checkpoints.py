"""Checkpoints of a run: each file is complete or not there at all, and the last two are kept."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .._files import is_full, read_json, replacing
from .._text import first_line
from ..sharing.files import read_tensors
from .data import OLD
from .distributed import gathered
from .evaluation import score_of
from .run import Run, are_others
from .settings import Settings, differences

KEPT = 2  # checkpoints, and best weights: the older checkpoint may name the older ones
_FORMAT = "aimwrap training 1"
# Of files that were changed by hand.
UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, or belongs to another run."""


class DivergedError(RuntimeError):
    """The training loss, or a weight, is not finite."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint file."""

    tensors: dict[str, Tensor]  # by part and name, such as model/classifier.weight; on the CPU
    state: dict[str, Any]  # everything else, as JSON values

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by name."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def checkpoint_folder(folder: Path) -> Path:
    """Where a run's checkpoints are."""
    return folder / "checkpoints"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path of the checkpoint after a step."""
    return folder / f"step-{step:09d}.safetensors"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and return when it is on the disk.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk; files from before stay as they are.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state)
    metadata = {"format": _FORMAT, "state": state, "sha256": _digest(tensors, state)}
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent} was removed in mid-run; give the same command again to start over")
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values()) / 2**20
        full = is_full(error)
        left = [other.name for other in checkpoints_in(path.parent)]
        good = f"The last good one, {left[-1]}, is unchanged" if left else "There is none before it"
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {'the disk is full' if full else error}. {good}. It needs "
            f"{needed:.0f} MiB; make room, give the same command again, and the run continues from there"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. No code in it is run.

    Raises:
        CheckpointError: if it is cut off, damaged or not a checkpoint; the message names the one before it.
    """
    try:
        tensors, metadata = read_tensors(path)
        state = read_json(metadata.get("state", "null"))
    except ValueError as error:
        raise _damaged(path, f"cannot be read ({error}): it was cut off or overwritten") from error
    if metadata.get("format") != _FORMAT:
        raise _damaged(path, "was not written by this version of aimwrap train")
    if metadata.get("sha256") != _digest(tensors, metadata.get("state", "")):
        raise _damaged(path, "is damaged: its contents are not those that were written")
    return Checkpoint(tensors, state)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    """Safetensors files have no checksum of their own."""
    digest = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> CheckpointError:
    before = [other.name for other in checkpoints_in(path.parent) if other.name < path.name]
    way_out = "There is none before it: remove it, and the run starts from the beginning"
    if before:
        way_out = f"The one before it, {before[-1]}, is still there: remove {path.name}, give the same command again, "
        way_out += "and the run continues from that"
    return CheckpointError(f"the checkpoint {path} {what}. {way_out}")


def save_checkpoint(run: Run) -> None:
    """Write a run's state; to be called in all processes, of which the first one writes.

    Raises:
        CheckpointError: in all processes, if it cannot be written.
        DivergedError: if a weight is not finite; then nothing is written.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in run.network.parameters()):
        raise DivergedError(
            f"the weights after step {run.progress.step} are not finite: lower the learning rates, or clip the "
            "gradients, and start in another folder. The last checkpoint is from before"
        )
    folder = checkpoint_folder(run.folder)
    _write_once(run, checkpoint_path(folder, run.progress.step), _checkpoint_of(run))
    if run.fabric.is_global_zero:
        _remove_old(folder)


def keep_if_best(run: Run, epoch: int, validation: dict[str, Any] | None) -> None:
    """Keep the evaluated weights if no epoch before was better by the run's rule; none counts before tau is reached.

    The epoch is in the file's name: the file before it stays until a checkpoint names the new one.
    """
    score = score_of(run.rule, validation)
    best = run.progress.best
    if epoch >= run.annealing and score > -math.inf and (best is None or score >= best["score"]):
        checkpoint = Checkpoint(dict(run.evaluated.state_dict()), {"epoch": epoch + 1})
        _write_once(run, _path_of_best(run, epoch + 1), checkpoint)
        run.progress.best = {"epoch": epoch + 1, "score": score}


def load_best(run: Run) -> int:
    """Load the selected weights into the evaluated model, and return their epoch.

    Raises:
        CheckpointError: if they are damaged.
    """
    best = run.progress.best
    if best is None:
        return run.progress.epoch
    path = _path_of_best(run, best["epoch"])
    tensors = read_checkpoint(path).tensors
    try:
        run.evaluated.load_state_dict(tensors)
    except UNFIT as error:
        raise _damaged(path, f"does not fit this run ({first_line(error)})") from error
    return int(best["epoch"])


def _path_of_best(run: Run, epoch: int) -> Path:
    return checkpoint_folder(run.folder) / f"best-epoch-{epoch:04d}.safetensors"


def resume(run: Run) -> bool:
    """Continue from the newest checkpoint; returns whether there is one.

    Raises:
        CheckpointError: if it is damaged, or another run's.
    """
    paths = checkpoints_in(checkpoint_folder(run.folder))
    if not paths:
        return False
    try:
        checkpoint = read_checkpoint(paths[-1])
        state, images = checkpoint.state, run.splits.fingerprint
        changed = ", ".join(differences(Settings.from_json(state["settings"]), run.settings))
        for what, differs in {
            f"of {state['variant']}, and this run trains {run.variant}": state["variant"] != run.variant,
            "of a run on other images": state["data"] not in (images["train"], images[OLD])
            or state.get("val", images.get("val")) != images.get("val"),
            "of a run with other names of classes or places": state.get("names", images["names"]) != images["names"],
            f"of a run with other settings: {changed}": changed,
            f"of a run of {state.get('weights')}, and this one is of {run.weights}, by the network's code and "
            "weights": are_others(state.get("weights"), state.get("torch"), run.weights),
        }.items():
            if differs:
                raise CheckpointError(
                    f"the checkpoint {paths[-1]} is {what}. Give each run its own folder, or remove "
                    "the checkpoint to start from the beginning"
                )
        run.weights = state.get("weights", run.weights)
        run.network.load_state_dict(checkpoint.part("model"))
        if run.average is not None:
            run.average.load_state_dict(checkpoint.part("average"))
        run.optimizer.load_state_dict(optimizer_state(checkpoint.part("optimizer"), run.optimizer.state_dict()))
        for weight, values in run.optimizer.state.items():
            if any(value.shape not in ((), weight.shape) for value in values.values()):
                raise ValueError("the optimizer's state has other shapes than the weights")
        if run.schedule is not None:
            run.schedule.load_state_dict(state["tau"])
        if run.health is not None:  # of the first process, which reports
            run.health.load_state_dict({n: x.to(run.fabric.device) for n, x in checkpoint.part("health").items()})
        run.fabric.strategy.precision.load_state_dict(state["precision"])
        run.progress.load_state_dict(state["progress"], run.fabric.global_rank)
        states = checkpoint.part(f"generators/{run.fabric.global_rank}")
        if states:  # else there are more processes than before, and this one keeps its new generators
            restore_generators(states, run.fabric.device)
    except UNFIT as error:
        if isinstance(error, CheckpointError | torch.OutOfMemoryError):
            raise
        raise _damaged(paths[-1], f"does not fit this run ({first_line(error)})") from error
    _remove_old(paths[-1].parent)  # a run that was killed before it did so may have nothing more to save
    return True


def _write_once(run: Run, path: Path, checkpoint: Checkpoint) -> None:
    """Write in the first process; an error is raised in all."""
    failure = None
    if run.fabric.is_global_zero:
        try:
            write_checkpoint(path, checkpoint)
        except CheckpointError as error:
            failure = str(error)
    failure = run.fabric.broadcast(failure)
    if failure is not None:
        raise CheckpointError(failure)


def _remove_old(folder: Path) -> None:
    for path in checkpoints_in(folder)[:-KEPT] + sorted(folder.glob("best-epoch-*.safetensors"))[:-KEPT]:
        path.unlink(missing_ok=True)


def _checkpoint_of(run: Run) -> Checkpoint:
    parts: dict[str, Mapping[str, Any]] = {"model": run.network.state_dict()}
    if run.average is not None:
        parts["average"] = run.average.state_dict()
    if run.health is not None:
        parts["health"] = run.health.state_dict()
    parts["optimizer"] = optimizer_tensors(run.optimizer.state_dict())
    tensors = {f"{part}/{name}": torch.as_tensor(one) for part, named in parts.items() for name, one in named.items()}
    for name, state in generator_states(run.fabric.device).items():
        for rank, one in enumerate(gathered(state.to(run.fabric.device) if run.fabric.world_size > 1 else state)):
            tensors[f"generators/{rank}/{name}"] = one
    return Checkpoint(
        tensors,
        {
            "variant": run.variant,
            "data": run.splits.fingerprint["train"],
            "names": run.splits.fingerprint["names"],
            "val": run.splits.fingerprint.get("val"),
            "weights": run.weights,
            "torch": str(torch.__version__),
            "settings": run.settings.to_json(),
            "processes": run.fabric.world_size,
            "progress": run.progress.state_dict(),
            "tau": None if run.schedule is None else run.schedule.state_dict(),
            "precision": run.fabric.strategy.precision.state_dict(),
        },
    )


def optimizer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an optimiser's ``state_dict()``, by parameter and name; the groups come from the settings."""
    return {
        f"{number}/{name}": torch.as_tensor(value)
        for number, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }


def optimizer_state(tensors: Mapping[str, Tensor], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's ``state_dict()`` from its tensors and that of a new optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    return {**fresh, "state": state}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's, Python's and NumPy's generators, and of this process's CUDA device.

    Dropout draws from them, and so may a custom backbone. Each is a tensor of a fixed shape, which processes can
    exchange. The two "gauss" are (0, 0), or 1 and the second number of a pair whose first one is used already.
    """
    _, words, gauss = random.getstate()
    _, keys, position, has_cached, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "python gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*map(int, keys), int(position)]),
        "numpy gauss": torch.tensor([has_cached, cached if has_cached else 0.0], dtype=torch.float64),
    }
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`generator_states` returned; CUDA's stays as it is if the run began on the CPU."""
    there, gauss = states["python gauss"].tolist()
    has_cached, cached = states["numpy gauss"].tolist()
    *keys, position = states["numpy"].tolist()
    torch.set_rng_state(states["torch"])
    random.setstate((3, tuple(states["python"].tolist()), gauss if there else None))
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, int(has_cached), cached))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
