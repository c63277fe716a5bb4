"""What several processes that train one model have to agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes' values, with the gradient that this process's own have to it.

    For ``AIMLoss(area_per="batch", batch_mean=mean_over_processes)``, where processes share a batch: (r - tau)^2 is no
    mean over images there, so that the mean of the processes' losses would be another loss. Where each process's loss
    is weighted by its share of the images, the average of their gradients is that of the whole batch.

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

    In training each process's BatchNorm sees its own images; ``DistributedDataParallel`` hands the first one's
    statistics on before a step, and so after the last step they differ.
    """
    if dist.is_available() and dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def synchronise_batch_norms(model: nn.Module, fabric: Fabric) -> None:
    """Let every BatchNorm take its statistics of all processes' images, in place; checkpoints stay as they are.

    Args:
        model: not yet behind ``DistributedDataParallel``.
        fabric: launched.

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
    """Put torch's SyncBatchNorm in every BatchNorm's place, with its weights, activation and hooks.

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
