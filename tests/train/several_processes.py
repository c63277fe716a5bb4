"""What two processes do in test_processes.py: a file of its own, so that they need not import the tests."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from aimwrap import AIM, AIMLoss
from aimwrap.train import Settings, launched_fabric, run_training


def work(rank: int, processes: int, port: int, runs: list[tuple[dict[str, Any], str]], folder: str) -> None:
    """Train each of the runs, in the environment that torchrun gives its processes, and shard a model."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    fabric = launched_fabric("32-true", accelerator="cpu")
    double = Fabric(accelerator="cpu", strategy="ddp", devices=processes, precision="64-true")
    double.launch()
    for values, out in runs:
        settings = Settings.from_json(values)
        own = double if settings.precision == "64-true" else fabric
        run_training(settings, Path(out), own, workers=0, loggers=["csv"])
    found = {"whole": one_step(sharded=False), "sharded": one_step(sharded=True)}
    torch.save({**found, "shards": found["sharded"].pop("shards")}, f"{folder}/sharded-{rank}.pt")
    with_an_unused_parameter(fabric, Path(folder) / "unused.txt")
    fabric.barrier()
    torch.distributed.destroy_process_group()


def one_step(sharded: bool) -> dict[str, Any]:
    """Masks and loss of one training step on the same images in every process, and the weights after it."""
    from tiny_nets import tiny

    torch.manual_seed(0)
    model = AIM(tiny(), [2, 3], 0.25, width=16, mask_width=8).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 1, 0])
    if sharded:
        # What is called as one module: a traced backbone calls its layers, and not the blocks around them.
        for part in (model.backbone, *model.mask_estimators.values()):
            fully_shard(part)
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    output = model(images, noise_seeds=torch.arange(4))
    loss = AIMLoss(tau=model.tau)(output, labels)
    loss.backward()
    optimizer.step()
    shards = sum(isinstance(parameter, DTensor) for parameter in model.parameters())
    weights = torch.cat([full(parameter).flatten() for parameter in model.parameters()])
    masks = {f"masks {stage}": mask.detach() for stage, mask in output.masks.items()}
    return {**masks, "loss": loss.detach(), "weights": weights, **({"shards": shards} if sharded else {})}


def full(parameter: Tensor) -> Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()


def with_an_unused_parameter(fabric: Fabric, report: Path) -> None:
    """What the runs' strategy says to a parameter that no loss reaches."""
    from tiny_nets import unused

    network = unused()
    model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), 0.1))
    try:
        for _ in range(2):
            optimizer.zero_grad()
            fabric.backward(model(torch.randn(2, 3, 64, 64)).sum())
            optimizer.step()
    except RuntimeError as error:
        if fabric.is_global_zero:
            report.write_text(str(error))
