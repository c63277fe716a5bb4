"""Which processes a run has: started by the command itself, by torchrun or by SLURM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
from lightning.fabric import Fabric

from .settings import Precision


class Launch(NamedTuple):
    """Processes to train in.

    Attributes:
        devices: on each machine; None for what Fabric finds: every GPU, or one CPU.
        nodes: machines.
        by: ``"itself"``, ``"torchrun"`` or ``"SLURM"``.
    """

    devices: int | None
    nodes: int
    by: str


def launch_of(environment: Mapping[str, str], devices: int | None = None, nodes: int = 1) -> Launch:
    """Read off the environment whether the processes are there already, and how many they are.

    Fabric finds torchrun and SLURM by itself, and then has to be told numbers that the environment holds. So the same
    command serves everywhere.

    Args:
        environment: of the process.
        devices: asked for, or None.
        nodes: asked for.

    Returns:
        The launch.

    Raises:
        ValueError: if another number of processes was asked for than was started.

    >>> launch_of({}, devices=2)
    Launch(devices=2, nodes=1, by='itself')
    >>> launch_of({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"})
    Launch(devices=4, nodes=2, by='torchrun')
    >>> launch_of({"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2"})
    Launch(devices=8, nodes=2, by='SLURM')
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        processes, here, by = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"]), "torchrun"
        started = Launch(here, processes // here, by)
    elif "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        tasks, machines = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", "1"))
        each = int(environment.get("SLURM_NTASKS_PER_NODE", "1" if tasks == 1 else "0"))
        if each * machines != tasks:
            raise ValueError(
                f"SLURM must be told how many processes each machine is to have, and has {tasks} for {machines}; ask "
                "for them by #SBATCH --ntasks-per-node=8, not by --ntasks"
            )
        started = Launch(each, machines, "SLURM")
    else:
        return Launch(devices, nodes, "itself")
    if devices not in (None, started.devices) or nodes not in (1, started.nodes):
        raise ValueError(
            f"devices and nodes must be left out under {started.by}, which has started {started.devices} processes on "
            f"each of {started.nodes} machines; got devices={devices}, nodes={nodes}"
        )
    return started


def launched_fabric(
    precision: Precision, devices: int | None = None, nodes: int = 1, accelerator: str = "auto"
) -> Fabric:
    """Fabric with its processes started, each of which goes on behind this call.

    Args:
        precision: of the computation.
        devices: on each machine; None for every GPU, or one CPU process.
        nodes: machines.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: if there is no such accelerator, or not as many of it; if precision and accelerator do not go
            together, or numbers with the launcher's.
    """
    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"accelerator must be auto, cpu or cuda, got {accelerator!r}")
    gpus = torch.cuda.device_count()
    if accelerator == "cuda" and not gpus:
        raise ValueError("accelerator='cuda' needs a GPU that this torch can use, and it finds none; 'cpu' needs none")
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision='16-mixed' needs a GPU; on a CPU there are '32-true' and 'bf16-mixed'")
    launch = launch_of(os.environ, devices, nodes)
    if accelerator != "cpu" and gpus and (launch.devices or 1) > gpus:
        raise ValueError(f"devices must be {gpus} at most, as many GPUs as torch finds here, got {launch.devices}")
    several = launch.nodes > 1 or (launch.devices or 1) > 1
    chosen = "auto" if launch.devices is None else launch.devices
    fabric = Fabric(
        accelerator=accelerator,
        strategy="ddp" if several or launch.by == "torchrun" else "auto",
        devices=chosen,
        num_nodes=launch.nodes,
        precision=precision,
    )
    fabric.launch()
    return fabric
