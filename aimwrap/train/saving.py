"""A run's state as a checkpoint, and back: everything that the next step depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    checkpoints_in,
    optimizer_state,
    optimizer_tensors,
    read_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from .generators import generator_states, restore_generators
from .processes import gathered
from .run import Run
from .selection import score_of


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
