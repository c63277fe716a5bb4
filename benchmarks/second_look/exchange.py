"""Exchanged backgrounds, in one pass: the linear probe and AIM's classifier with and without, and a second look.

    python benchmarks/stamps/fetch.py                       # once: the images
    python benchmarks/second_look/exchange.py               # seed 0: a quarter of an hour on one free core
    python benchmarks/second_look/exchange.py --seeds 0,1,2
    python benchmarks/second_look/exchange.py --tried       # what did not earn its place, into tried.md

The backbone is frozen, and runs in bfloat16, which halves the time. AIM is trained as in ``look_again.py``. Every
method trains one linear layer on averaged features, with the same search of sixteen settings (1 to 20 epochs, 1e-4 to
3e-3) and the same steps per epoch. With copies, an epoch takes an image as it is or one of its copies, at
random.

Prints the table, and writes it to exchange.md here, with each run as a line of exchange.jsonl. What the backbone makes
of a set is kept in ``--cache``; sets that are there are not computed again. The second look at Stamps is the study's
own (``study.py look-again``).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "stamps"))
from dataset import Stamps
from records import read_results, results_of
from study import numbers
from variants import Config, Data, train

from aimwrap import AIM, exchange_backgrounds
from aimwrap.data.sets.digits import DigitsOnPhotographs
from aimwrap.demo.backbone import load_pretrained_backbone
from aimwrap.metrics import worst_group_accuracy
from aimwrap.second_look import boxes_around, enlarge, kept_pixels
from aimwrap.top_down import pool

HERE = Path(__file__).parent
EPOCHS, RATES = (1, 3, 6, 20), (1e-4, 3e-4, 1e-3, 3e-3)  # the study's search for the linear probe, without 60 epochs
DEFAULT = (20, 3e-4)  # of `aimwrap train --exchange` and `--second-look`
NUM_COPIES = 2  # are made of each image
Batches = Callable[
    [torch.Generator], Iterator[tuple[Tensor, Tensor, Tensor]]
]  # an epoch: features, labels, differences
Maps = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=lambda text: text.split(","), default=["digits", "stamps"])
    parser.add_argument("--ties", type=numbers(float), default=[0.95, 1.0])
    parser.add_argument("--seeds", type=numbers(int), default=[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/exchange"))
    parser.add_argument("--tried", action="store_true", help="other ways to train on the same copies")
    parser.add_argument("--cached-only", action="store_true", help="only what is in the cache")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    cells = itertools.product(arguments.seeds, arguments.sets, arguments.ties)
    runs: list[dict[str, Any]] = []
    networks: list[nn.Module] = []
    for seed, kind, tie in tqdm(list(cells)):
        path = arguments.cache / f"{kind}-{tie}-{seed}.pt"
        if not path.exists() and arguments.cached_only:
            continue
        if not path.exists():
            networks = networks or [load_pretrained_backbone(), tapped_backbone()]
            torch.save(features_of(kind, tie, seed, *networks), path)
        runs += results(torch.load(path), kind, tie, seed, arguments.tried)
    name = "tried" if arguments.tried else "exchange"
    (HERE / f"{name}.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in runs))
    text = table(runs)
    (HERE / f"{name}.md").write_text(text + "\n")
    print(text)


def tapped_backbone() -> AIM:
    """The frozen network in bfloat16, for its maps alone."""
    backbone = load_pretrained_backbone().bfloat16()
    return AIM(backbone, [2, 3], num_classes=2, head="feature-preserving").eval().bfloat16()


@torch.no_grad()
def maps_of(network: AIM, images: Tensor) -> Maps:
    batches = [image.bfloat16().contiguous(memory_format=torch.channels_last) for image in images.split(50)]
    found = [network.forward_backbone(batch) for batch in batches]
    return {name: torch.cat([maps[name] for maps in found]).float() for name in found[0]}


def features_of(kind: str, tie: float, seed: int, backbone: nn.Module, network: AIM) -> dict[str, Any]:
    """All that classifiers are trained and tested on, for both splits: (N, D) by the method's name, and the copies'."""
    splits = {}
    for split in ("train", "test"):
        source = (Stamps if kind == "stamps" else DigitsOnPhotographs)(split, tie, seed)
        images, labels, places, objects = source.stacked()
        images = ((images * 255).round() / 255 - 0.5) / 0.5  # as a file would have them
        splits[split] = Data(images, labels, places, objects, labels, maps_of(network, images))
    slim = [data._replace(images=data.labels) for data in splits.values()]  # its batches copy all that is given
    model = train(Config("aim", tie, seed), (slim[0], slim[1]), backbone).model.eval()
    assert isinstance(model, AIM)
    found: dict[str, Any] = {}
    for split, data in splits.items():
        averages, masks = aim_inputs(model, data.maps)
        found[split] = {"labels": data.labels, "places": data.places, "aim": averages}
        found[split]["plain"] = data.maps["final map"].mean((2, 3))
        if kind != "stamps":
            kept = kept_pixels(masks, data.images, 1)
            closer = enlarge(data.images * kept, boxes_around(kept))
            found[split]["second"] = maps_of(network, closer)["final map"].mean((2, 3))
        if split == "train":
            found |= copies_of(model, network, data.images, masks, torch.Generator().manual_seed(seed))
    return found


@torch.no_grad()
def aim_inputs(model: AIM, maps: Maps) -> tuple[Tensor, Tensor]:
    """What AIM's classifier reads, (N, D), and its merged masks."""
    found = []
    for batch in torch.arange(len(maps["final map"])).split(50):
        features = model.forward_masks({name: values[batch] for name, values in maps.items()})
        found.append((pool(features.fused, features.merged_mask, model.pooling), features.merged_mask))
    averages, masks = zip(*found, strict=True)
    return torch.cat(averages), torch.cat(masks)


def copies_of(
    model: AIM, network: AIM, images: Tensor, masks: Tensor, generator: torch.Generator
) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {"plain copies": [], "aim copies": []}
    for _ in range(NUM_COPIES):
        maps = maps_of(network, exchange_backgrounds(images, masks, generator=generator))
        found["plain copies"].append(maps["final map"].mean((2, 3)))
        found["aim copies"].append(aim_inputs(model, maps)[0])
    return found


def results(cell: dict[str, Any], kind: str, tie: float, seed: int, tried: bool) -> list[dict[str, Any]]:
    """The accuracy and the worst group of each method at each setting."""
    found = []
    test = cell["test"]
    for name, features, batches, weight in (others if tried else methods)(cell):
        layers = searched(batches, test[features].shape[1], seed, weight)
        for (epochs, rate), layer in layers.items():
            predicted = layer(test[features].float()).argmax(1)
            worst = worst_group_accuracy(predicted, test["labels"], 2 * test["labels"] + test["places"], 4).item()
            scores = {"accuracy": (predicted == test["labels"]).float().mean().item(), "worst_group": worst}
            found.append(record(name, kind, tie, seed, epochs, rate, scores))
    if kind == "stamps" and not tried:
        for run in read_results(results_of("look-again")):
            config = run["config"]
            asked = config["epochs"] in EPOCHS and config["learning_rate"] in RATES
            if asked and (config["method"], config["tie"], config["seed"]) == ("AIM, second look", tie, seed):
                found.append(record("second look", kind, tie, seed, config["epochs"], config["learning_rate"], run))
    return found


Method = tuple[str, str, Batches, float]  # name, what it reads, its batches, the weight of the agreement


def methods(cell: dict[str, Any]) -> Iterator[Method]:
    labels = cell["train"]["labels"]
    for key, name in (("plain", "linear probe"), ("aim", "AIM's classifier")):
        own, copies = cell["train"][key].float(), [one.float() for one in cell[f"{key} copies"]]
        yield name, key, drawn([own], labels), 0.0
        yield f"{name}, exchanged", key, drawn([own, copies[0]], labels), 0.0
        yield f"{name}, exchanged, 2 copies", key, drawn([own, *copies[:2]], labels), 0.0
    if "second" in cell["train"]:
        yield "second look", "second", drawn([cell["train"]["second"].float()], labels), 0.0


def others(cell: dict[str, Any]) -> Iterator[Method]:
    """Copies alone; copies with the originals' mean and deviation; two copies that shall have the same logits."""
    labels = cell["train"]["labels"]
    for key, name in (("plain", "linear probe"), ("aim", "AIM's classifier")):
        own, copies = cell["train"][key].float(), [one.float() for one in cell[f"{key} copies"]]
        matched = [(one - one.mean(0)) / one.std(0).clamp(min=1e-4) * own.std(0) + own.mean(0) for one in copies]
        yield f"{name}, copies alone", key, drawn(copies, labels), 0.0
        yield f"{name}, one in four as it is", key, drawn([own, *copies, copies[0]], labels), 0.0
        yield f"{name}, matched copies alone", key, drawn(matched, labels), 0.0
        yield f"{name}, a matched copy", key, drawn([own, matched[0]], labels), 0.0
        for weight in (0.3, 3.0):
            yield f"{name}, matched, agreement {weight:g}", key, drawn(matched, labels, copies), weight
            yield f"{name}, originals, agreement {weight:g}", key, drawn([own], labels, copies), weight


def record(
    method: str, kind: str, tie: float, seed: int, epochs: int, rate: float, scores: dict[str, Any]
) -> dict[str, Any]:
    about = {"method": method, "set": kind, "tie": tie, "seed": seed, "epochs": epochs, "rate": rate}
    return about | {name: round(scores[name], 4) for name in ("accuracy", "worst_group")}


def drawn(versions: list[Tensor], labels: Tensor, pair: list[Tensor] | None = None) -> Batches:
    """Each image once per epoch, in one of its versions; with a pair of its versions, whose logits shall agree."""
    stacked = torch.stack(versions)
    differences = torch.zeros(len(labels), 0) if pair is None else pair[0] - pair[1]

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        which = torch.randint(len(stacked), (len(labels),), generator=generator)
        for batch in torch.randperm(len(labels), generator=generator).split(32):
            yield stacked[which[batch], batch], labels[batch], differences[batch]

    return batches


def searched(batches: Batches, width: int, seed: int, weight: float) -> dict[tuple[int, float], nn.Linear]:
    """A linear layer for each setting: the rates are trained side by side, and looked at after so many epochs."""
    torch.manual_seed(seed)
    first, generator = nn.Linear(width, 2), torch.Generator().manual_seed(seed)
    layers = [copy.deepcopy(first) for _ in RATES]
    groups = [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(layers, RATES, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    found = {}
    for epoch in range(1, max(EPOCHS) + 1):
        for features, labels, differences in batches(generator):
            optimizer.zero_grad()
            weights, biases = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            logits = nn.functional.linear(features, weights, biases).unflatten(1, (len(RATES), 2))
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, len(RATES)))
            loss = len(RATES) * losses  # the mean over images of each, summed
            if weight:
                moved = nn.functional.linear(differences, weights).unflatten(1, (len(RATES), 2))
                loss = loss + weight * (moved - moved.mean(2, keepdim=True)).square().sum((1, 2)).mean()
            loss.backward()
            optimizer.step()
        if epoch in EPOCHS:
            found |= {(epoch, rate): copy.deepcopy(layer) for layer, rate in zip(layers, RATES, strict=True)}
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and deviation over seeds of the worst group: at the default, at its best setting, and over all of them."""
    rows = ["| set | tie | method | worst group, default | its best setting | median | accuracy, default | seeds |"]
    rows.append("|" + " --- |" * 8)
    for kind, tie in dict.fromkeys((run["set"], run["tie"]) for run in runs):
        cell = [run for run in runs if (run["set"], run["tie"]) == (kind, tie)]
        for method in dict.fromkeys(run["method"] for run in cell):
            mine = [run for run in cell if run["method"] == method]
            by_setting = [
                [run for run in mine if (run["epochs"], run["rate"]) == setting]
                for setting in itertools.product(EPOCHS, RATES)
            ]
            default = next(group for group in by_setting if (group[0]["epochs"], group[0]["rate"]) == DEFAULT)
            best = max(by_setting, key=lambda group: statistics.fmean(run["worst_group"] for run in group))
            seeds = sorted({run["seed"] for run in mine})
            medians = [statistics.median(r["worst_group"] for r in mine if r["seed"] == seed) for seed in seeds]
            shown = [spread([run["worst_group"] for run in group]) for group in (default, best)]
            accuracy = spread([run["accuracy"] for run in default])
            rows.append(
                f"| {kind} | {100 * tie:g} % | {method} | {shown[0]} | {shown[1]} | {spread(medians)} | {accuracy} | "
                f"{', '.join(map(str, seeds))} |"
            )
    return "\n".join(rows)


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
