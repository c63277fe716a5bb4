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

from .._files import replacing
from .distributed import gathered
from .evaluation import score_of
from .generators import generator_states, restore_generators
from .run import Run

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


class DivergedError(RuntimeError):
    """The training loss, or a weight, is no longer a number."""


def checkpoint_folder(folder: Path) -> Path:
    """Where a run's checkpoints lie."""
    return folder / "checkpoints"


def save_checkpoint(run: Run) -> None:
    """Write where the run stands; to be called in all processes, of which the first one writes.

    Raises:
        CheckpointError: in all processes, if it cannot be written.
        DivergedError: if a weight is not finite; then nothing is written.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in run.network.parameters()):
        raise DivergedError(
            f"the weights behind step {run.progress.step} are not finite: lower the learning rates, or clip the "
            "gradients, and begin anew in another folder. The last checkpoint is from before"
        )
    checkpoint = _checkpoint_of(run)
    path = checkpoint_path(checkpoint_folder(run.folder), run.progress.step)
    failure = None
    if run.fabric.is_global_zero:
        try:
            write_checkpoint(path, checkpoint)
        except CheckpointError as error:
            failure = str(error)
        else:
            remove_old_checkpoints(path.parent)
            _remove_old_bests(run)
    failure = run.fabric.broadcast(failure)
    if failure is not None:
        raise CheckpointError(failure)


def resume(run: Run) -> bool:
    """Go on from the newest checkpoint, if there is one.

    Returns:
        Whether there was one.

    Raises:
        CheckpointError: if it is damaged, or another run's.
    """
    paths = checkpoints_in(checkpoint_folder(run.folder))
    if not paths:
        return False
    checkpoint = read_checkpoint(paths[-1])
    state = checkpoint.state
    for what, here in (("variant", run.variant), ("data", run.splits.fingerprint)):
        if state[what] != here:
            named = {"variant": f"of {state[what]}, and this run trains {here}", "data": "of a run on other images"}
            raise CheckpointError(
                f"the checkpoint {paths[-1]} is {named[what]}. Give each run a folder of its own, or remove "
                "the checkpoint to begin anew"
            )
    run.network.load_state_dict(checkpoint.part("model"))
    if run.average is not None:
        run.average.load_state_dict(checkpoint.part("average"))
    run.optimizer.load_state_dict(optimizer_state(checkpoint.part("optimizer"), run.optimizer.state_dict()))
    if run.schedule is not None:
        run.schedule.load_state_dict(state["tau"])
    if run.health is not None:  # of the first process, which reports
        run.health.load_state_dict({n: x.to(run.fabric.device) for n, x in checkpoint.part("health").items()})
    run.fabric.strategy.precision.load_state_dict(state["precision"])
    run.progress.load_state_dict(state["progress"], run.fabric.global_rank)
    states = checkpoint.part(f"generators/{run.fabric.global_rank}")
    if states:  # else there are more processes than before, and this one's are fresh
        restore_generators(states, run.fabric.device)
    return True


def keep_if_best(run: Run, epoch: int, validation: dict[str, Any] | None) -> None:
    """Keep the evaluated weights if no epoch before did better by the run's rule.

    The file's name has the epoch: until a checkpoint says that it is the best, the one before stays.
    """
    score = score_of(run.rule, validation)
    best = run.progress.best
    if score > (float("-inf") if best is None else best["score"]):
        path = best_path(run, epoch)
        failure = None
        if run.fabric.is_global_zero:
            try:
                write_checkpoint(path, Checkpoint(dict(run.evaluated.state_dict()), {"epoch": epoch + 1}))
            except CheckpointError as error:
                failure = str(error)
        failure = run.fabric.broadcast(failure)
        if failure is not None:
            raise CheckpointError(failure)
        run.progress.best = {"epoch": epoch + 1, "score": score, "file": path.name}


def load_best(run: Run) -> int:
    """Load the selected weights into what is evaluated, and return their epoch.

    Raises:
        CheckpointError: if they are damaged.
    """
    best = run.progress.best
    if best is None:
        return run.progress.epoch
    path = checkpoint_folder(run.folder) / best["file"]
    run.evaluated.load_state_dict(read_checkpoint(path).tensors)
    return int(best["epoch"])


def best_path(run: Run, epoch: int) -> Path:
    """Where the best weights of an epoch lie."""
    return checkpoint_folder(run.folder) / f"best-epoch-{epoch + 1:04d}.safetensors"


def _remove_old_bests(run: Run) -> None:
    """All but the one that the newest checkpoint names, and the one before, which the older checkpoint may name."""
    for path in sorted(checkpoint_folder(run.folder).glob("best-epoch-*.safetensors"))[:-2]:
        path.unlink(missing_ok=True)


def _checkpoint_of(run: Run) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    tensors |= _named("model", run.network.state_dict())
    if run.average is not None:
        tensors |= _named("average", run.average.state_dict())
    if run.health is not None:
        tensors |= _named("health", run.health.state_dict())
    tensors |= _named("optimizer", optimizer_tensors(run.optimizer.state_dict()))
    for name, state in generator_states(run.fabric.device).items():
        for rank, one in enumerate(gathered(state.to(run.fabric.device))):
            tensors[f"generators/{rank}/{name}"] = one
    return Checkpoint(
        tensors,
        {
            "variant": run.variant,
            "data": run.splits.fingerprint,
            "settings": run.settings.to_json(),
            "processes": run.fabric.world_size,
            "progress": run.progress.state_dict(),
            "tau": None if run.schedule is None else run.schedule.state_dict(),
            "precision": run.fabric.strategy.precision.state_dict(),
        },
    )


def _named(part: str, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{part}/{name}": torch.as_tensor(tensor) for name, tensor in tensors.items()}
