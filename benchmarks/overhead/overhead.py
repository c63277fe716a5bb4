"""The cost of a wrapped model relative to its bare backbone, in time and in memory, and its lower limit.

    cd benchmarks/overhead
    python overhead.py                  # the table: five backbones, batches of 1, 8 and 32
    python overhead.py --models resnet50 --batches 8
    python overhead.py growth           # by resolution and by stages
    python overhead.py parts            # where the time goes, and the operations that take it
    python overhead.py widths           # mask_width=8 instead of 32
    python overhead.py --device cuda --bf16 --channels-last --compile

Every figure is a ratio. Bare and wrapped model, or two settings, run in turn within one process, in alternating order,
and each pair gives one ratio; shown are the median and, in brackets, its 95 % interval by bootstrap over pairs (batches
of 32 get a third of them). A training step is forward, loss, backward and SGD with momentum. The floor is the ratio of
multiply-accumulates. Memory is the peak of one run plus what is allocated all the time (weights, momentum, images), by
torch's profiler on CPUs and by its allocator on GPUs: it does not vary. Models have random weights and masks of about
half the positions; time does not depend on either.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from aimwrap import AIM, AIMLoss
from aimwrap.backbones.create import create_backbone

MODELS = "resnet50,convnext_tiny,efficientnet_b0,mobilenet_v3_large,regnet_y_400mf"
Run = Callable[[], object]


# ---- Measuring ------------------------------------------------------------------------------------------------------


def compare(first: Run, second: Run, pairs: int, device: str = "cpu", spread: float = 0.95) -> str:
    """The second's time over the first's."""
    first(), second()
    ratios = []
    for turn in range(pairs):
        if turn % 2:
            slow, fast = seconds(second, device), seconds(first, device)
        else:
            fast, slow = seconds(first, device), seconds(second, device)
        ratios.append(slow / fast)
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor(ratios)[torch.randint(pairs, (2000, pairs), generator=generator)].median(1).values
    low, high = draws.quantile(torch.tensor([(1 - spread) / 2, (1 + spread) / 2])).tolist()
    return f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def seconds(run: Run, device: str) -> float:
    synchronise(device)
    begun = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begun


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def peak_bytes(run: Run, device: str) -> int:
    """The most memory that a run holds at once, beyond what is there before it."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(changes), default=0)


# ---- What is measured -----------------------------------------------------------------------------------------------


class Subject:
    """A model with its loss and optimiser, ready to classify or to take a training step."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], size: tuple[int, ...], options: Options) -> None:
        memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model = model.to(options.device, memory_format=memory_format)
        self.images = torch.randn(size, device=options.device).to(memory_format=memory_format)
        self.labels = torch.randint(1000, size[:1], device=options.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-6, momentum=0.9)
        self.loss, self.options = loss, options
        self.called = torch.compile(self.model, fullgraph=True) if options.compile else self.model

    def classify(self) -> None:
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            self.called(self.images)

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.loss(self.called(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.options.device, torch.bfloat16, enabled=self.options.bf16)

    def resident_bytes(self, training: bool) -> int:
        weights = [*self.model.parameters(), *self.model.buffers(), self.images]
        momentum = list(self.model.parameters()) if training else []
        return sum(tensor.numel() * tensor.element_size() for tensor in (*weights, *momentum))


class Options(argparse.Namespace):
    device: str
    bf16: bool
    channels_last: bool
    compile: bool
    pairs: int
    head: str


def subjects(
    name: str,
    batch: int,
    options: Options,
    size: int = 224,
    stages: tuple[int, ...] = (2, 3),
    head: str | None = None,
    mask_width: int = 32,
) -> tuple[Subject, Subject, float]:
    """Bare, wrapped, and the floor."""
    torch.manual_seed(0)
    backbone = create_backbone(f"torchvision/{name}")
    model = AIM(backbone, stages, head=head or options.head, mask_width=mask_width, copy=True)
    floor = model.cost().macs / model.cost().backbone_macs
    shape = (batch, 3, size, size)
    return (
        Subject(backbone, F.cross_entropy, shape, options),
        Subject(model, AIMLoss(model.tau).to(options.device), shape, options),
        floor,
    )


def overhead(bare: Subject, wrapped: Subject, options: Options, pairs: int) -> list[str]:
    """Time of inference and of a training step, and both peaks of memory, wrapped over bare."""
    inference = compare(bare.classify, wrapped.classify, pairs, options.device)
    training = compare(bare.step, wrapped.step, pairs, options.device)
    memory = []
    for what, is_training in (("classify", False), ("step", True)):
        for subject in (bare, wrapped):  # gradients of an earlier step are no part of this one
            subject.optimizer.zero_grad(set_to_none=True)
        peaks = [
            subject.resident_bytes(is_training) + peak_bytes(getattr(subject, what), options.device)
            for subject in (bare, wrapped)
        ]
        memory.append(f"{peaks[1] / peaks[0]:.3f}")
    return [inference, training, *memory]


COLUMNS = ["floor", "inference", "training step", "memory, inference", "memory, training"]


def table(options: Options) -> Iterator[list[str]]:
    yield ["backbone", "batch", *COLUMNS]
    rows = [*itertools.product(options.models.split(","), options.batches)]
    for name, batch in tqdm(rows, unit="row"):
        bare, wrapped, floor = subjects(name, batch, options)
        pairs = options.pairs if batch < 32 else options.pairs // 3
        yield [name, str(batch), f"{floor:.3f}", *overhead(bare, wrapped, options, pairs)]


def growth(options: Options) -> Iterator[list[str]]:
    yield ["ResNet-50, batch 8", "head", *COLUMNS]
    by_size = [(f"{size} px", size, (2, 3)) for size in (160, 224, 320)]
    by_stages = [(f"224 px, stages {list(stages)}", 224, stages) for stages in ((3,), (1, 2, 3), (0, 1, 2, 3))]
    rows = [*itertools.product((*by_size, *by_stages), ("feature-preserving", "paper"))]
    for (label, size, stages), head in tqdm(rows, unit="row"):
        bare, wrapped, floor = subjects("resnet50", 8, options, size, stages, head)
        yield [label, head, f"{floor:.3f}", *overhead(bare, wrapped, options, options.pairs)]


def parts(options: Options) -> Iterator[list[str]]:
    """Each part of the wrapped forward over the bare model's."""
    yield ["backbone, batch 8", "backbone up to its taps", "masks", "classifiers", "slowest in the last two"]
    for name in tqdm(options.models.split(","), unit="row"):
        bare, wrapped, _ = subjects(name, 8, options)
        model = wrapped.model.eval()
        with torch.inference_mode():
            maps = model.forward_backbone(wrapped.images)
            features = model.forward_masks(maps)
            shares = [
                compare(bare.classify, run, options.pairs, options.device)
                for run in (
                    lambda model=model, images=wrapped.images: model.forward_backbone(images),
                    lambda model=model, maps=maps: model.forward_masks(maps),
                    lambda model=model, features=features: model.forward_head(features),
                )
            ]
            with torch.profiler.profile() as profile:
                for _ in range(5):
                    model.forward_head(model.forward_masks(maps))
        events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        slowest = ((event.key.removeprefix("aten::"), event.self_cpu_time_total / total) for event in events[:5])
        yield [name, *shares, ", ".join(f"{operation} {share:.0%}" for operation, share in slowest)]


def widths(options: Options) -> Iterator[list[str]]:
    """The time with narrow mask estimators over that with the default's."""
    yield ["backbone, batch 8", "inference", "training step"]
    for name in tqdm(options.models.split(","), unit="row"):
        _, wide, _ = subjects(name, 8, options)
        _, narrow, _ = subjects(name, 8, options, mask_width=8)
        times = [
            compare(getattr(wide, run), getattr(narrow, run), options.pairs, options.device)
            for run in ("classify", "step")
        ]
        yield [name, *times]


PARTS = {"table": table, "growth": growth, "parts": parts, "widths": widths}


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    lines: list[str] = []
    for row in PARTS[options.part](options):
        new = ["| " + " | ".join(row) + " |", *([] if lines else ["|" + "---|" * len(row)])]
        tqdm.write("\n".join(new))
        lines += new
    if options.save:
        Path(__file__).with_name(f"{options.part}.md").write_text("\n".join(lines) + "\n")


def parse_arguments() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="table")
    parser.add_argument("--models", default=MODELS, help="torchvision's names, comma-separated")
    parser.add_argument("--batches", default="1,8,32", help="batch sizes, comma-separated")
    parser.add_argument("--head", default="feature-preserving", choices=["feature-preserving", "paper"])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--save", action="store_true", help="write the table next to this file, for the documentation")
    parser.add_argument("--compile", action="store_true", help="both models")
    options = parser.parse_args(namespace=Options())
    options.batches = [int(batch) for batch in options.batches.split(",")]
    return options


if __name__ == "__main__":
    main()
