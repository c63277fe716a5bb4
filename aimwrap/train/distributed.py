"""Several processes that train one model: how they are started, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .settings import Precision


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes' values, with the gradient that this process's own have to it.

    For ``AIMLoss(area_per="batch", batch_mean=mean_over_processes)``, where processes share a batch: (r - tau)^2 is
    not a mean over images there, so the mean of the processes' losses would be another loss. Where each process's loss
    is weighted by its share of the images, the average of their gradients is that of the joint batch.

    Args:
        values: (N,), N may differ from process to process.

    Returns:
        A scalar, the same in every process.
    """
    own = values.mean()
    if not (dist.is_available() and dist.is_initialized()):
        return own
    total = torch.stack([values.detach().sum(), values.new_tensor(float(len(values)))])
    dist.all_reduce(total)
    return own + (total[0] / total[1] - own.detach())


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers, such as BatchNorm's statistics, before they evaluate or save.

    ``DistributedDataParallel`` copies the first one's statistics before a step, and so after the last step they differ.
    """
    if dist.is_available() and dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def synchronise_batch_norms(model: nn.Module, fabric: Fabric) -> None:
    """Let every BatchNorm use the statistics of all processes' images, in place; checkpoints stay as they are.

    Raises:
        ValueError: if there is one process, no GPU, or no BatchNorm.
    """
    device, processes = fabric.device.type, fabric.world_size
    if device != "cuda" or processes == 1:
        here = "is one process" if processes == 1 else f"are {processes} processes"
        raise ValueError(
            "sync_batchnorm needs several processes with a GPU each, since torch's SyncBatchNorm works on GPUs alone; "
            f"here {here} on {device}. Leave it out: a single process's BatchNorm sees all images anyway, and "
            "frozen='norm-statistics' keeps its statistics, wherever it is"
        )
    convert_batch_norms(model)


def convert_batch_norms(model: nn.Module) -> None:
    """Replace every BatchNorm by torch's SyncBatchNorm, with its weights, activation and hooks.

    Raises:
        ValueError: if there is no BatchNorm.
    """
    converted: dict[nn.Module, nn.Module] = {}
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            converted[norm] = convert_sync_batchnorm(norm)  # timm's, which keeps the activation of timm's own
            converted[norm].train(norm.training)
            converted[norm]._forward_hooks.update(norm._forward_hooks)  # where a stage is tapped by one
    if not converted:
        raise ValueError("sync_batchnorm needs a backbone with BatchNorm, and this one has none; leave it out")
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in converted:
            model.set_submodule(name, converted[module])


def gathered(tensor: Tensor) -> list[Tensor]:
    """Every process's tensor, all of one shape, in the order of the processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor)
    return found


class Launch(NamedTuple):
    """Processes to train in."""

    devices: int | None  # on each machine; None for what Fabric finds: every GPU, or one CPU
    nodes: int  # machines
    by: str  # "itself", "torchrun" or "SLURM"


def launch_of(environment: Mapping[str, str], devices: int | None = None, nodes: int = 1) -> Launch:
    """Read from the environment whether torchrun or SLURM has started the processes, and how many there are.

    Fabric finds both by itself, but needs the numbers. Read here, the same command works everywhere.

    Raises:
        ValueError: if another number of processes was asked for than was started.

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
                f"SLURM must know how many processes each machine has, and it has {tasks} for {machines} machines; ask "
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
    """Fabric with its processes started, each of which continues after this call.

    Args:
        precision: of the computation.
        devices: on each machine; None for every GPU, or one CPU process.
        nodes: machines.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: if there is no such accelerator, or not enough of them; if precision and accelerator do not fit
            together, or the numbers do not fit the launcher's.
    """
    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"accelerator must be auto, cpu or cuda, got {accelerator!r}")
    gpus = torch.cuda.device_count()
    if accelerator == "cuda" and not gpus:
        raise ValueError("accelerator='cuda' needs a GPU that this torch can use, and it finds none; use 'cpu' instead")
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision='16-mixed' needs a GPU; on a CPU there are '32-true' and 'bf16-mixed'")
    launch = launch_of(os.environ, devices, nodes)
    if accelerator != "cpu" and gpus and (launch.devices or 1) > gpus:
        raise ValueError(f"devices must be {gpus} at most, as many GPUs as torch finds here, got {launch.devices}")
    several = launch.nodes > 1 or (launch.devices or 1) > 1
    fabric = Fabric(
        accelerator=accelerator,
        strategy="ddp" if several or launch.by == "torchrun" else "auto",
        devices="auto" if launch.devices is None else launch.devices,
        num_nodes=launch.nodes,
        precision=precision,
    )
    fabric.launch()
    return fabric
