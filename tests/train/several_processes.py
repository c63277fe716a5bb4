"""What two processes do in test_processes.py: a file of its own, so that they need not import the tests."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from aimwrap.train import Settings, launched_fabric, run_training

def work(rank: int, processes: int, port: int, runs: list[tuple[dict[str, Any], str]]) -> None:
    """Train each of the runs, in the environment that torchrun gives its processes."""
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
    for settings, folder in runs:
        run_training(Settings.from_json(settings), Path(folder), fabric, workers=0)
    fabric.barrier()
    torch.distributed.destroy_process_group()
