"""What several processes that train one model have to agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


def gathered(tensor: Tensor) -> list[Tensor]:
    """Every process's tensor, all of one shape, in the order of the processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor)
    return found
