"""What wrapping costs: seconds, and memory in addition to that of one forward of the bare backbone.

    python benchmarks/wrapping.py                       # ResNet-50 and ConvNeXt-T, five processes each
    python benchmarks/wrapping.py --models timm/swin_tiny_patch4_window7_224,vit_b_16 --repeats 3

Each measurement runs in its own process: it wraps a tiny network, so that what torch imports on the way is not
counted, builds the backbone, notes the peak memory, and then wraps it, or runs one image through it without or with
gradients. Seconds are of the wrapping alone, with one thread. The head's own weights are in the wrapping's memory;
they are printed next to it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from aimwrap import AIM
from aimwrap.backbones.create import create_backbone


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments.models, arguments.measure)))
        return
    print("| backbone | s (min to max) | MiB | of that the head | a forward without gradients | with gradients |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models.split(","):
        wraps = [in_process(name, "wrap") for _ in range(arguments.repeats)]
        forwards = [[in_process(name, what) for _ in range(arguments.repeats)] for what in ("forward", "training")]
        seconds = [one["seconds"] for one in wraps]
        memory = statistics.median(one["mebibytes"] for one in wraps)
        without, with_gradients = (statistics.median(one["mebibytes"] for one in some) for some in forwards)
        span = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        head = wraps[0]["head"]
        print(f"| {name} | {span} | {memory:.0f} | {head:.0f} | {without:.0f} | {with_gradients:.0f} |", flush=True)


def in_process(name: str, what: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--models", name, "--measure", what]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def measure(name: str, what: str) -> dict[str, float]:
    torch.set_num_threads(1)
    tiny = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    AIM(tiny, stages=[0])
    with torch.no_grad():
        tiny(torch.zeros(1, 3, 32, 32))
    backbone = create_backbone(name).eval()
    before = peak()
    begun = time.perf_counter()
    head = 0
    if what == "wrap":
        model = AIM(backbone, stages=[5, 11] if "vit" in name else [2, 3])
        head = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if not n.startswith("backbone."))
    else:
        with torch.set_grad_enabled(what == "training"):
            kept = backbone(torch.zeros(1, 3, 224, 224))
            del kept
    return {"seconds": time.perf_counter() - begun, "mebibytes": peak() - before, "head": head / 2**20}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", default="torchvision/resnet50,torchvision/convnext_tiny", help="comma-separated names"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=["wrap", "forward", "training"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
