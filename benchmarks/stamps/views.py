"""What should a second look see? Fills, margins, sizes and a cascade, on the same trained first looks.

    python benchmarks/stamps/views.py                     # all cells, resuming; then the tables
    python benchmarks/stamps/views.py --seeds 0 --ties 1  # one cell: about ten minutes on one core
    python benchmarks/stamps/views.py --table             # the tables of results/views.jsonl alone

Of the 1,200 training images 200 are held out, to choose the cascade's threshold by; the others train one first look per
cell, AIM as in the headline, and for each view one linear layer on the frozen backbone's average features, at plain's
twenty settings. The results are in results/views.jsonl, one line per cell and view, and in results/views.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from look_again import FIRST
from records import append_result, results_of
from study import numbers
from torch import Tensor, nn
from variants import Config, Data, load_data, rows_of, train, train_plain

from aimwrap import AIM
from aimwrap.demo.backbone import load_pretrained_backbone
from aimwrap.metrics import worst_group_accuracy
from aimwrap.second_look import boxes_around, enlarge, kept_pixels

HELD_OUT = 200
BATCH = 8  # images of a pass: what one core's cache holds
EPOCHS, RATES = (1, 3, 6, 20, 60), (1e-4, 3e-4, 1e-3, 3e-3)
SETTINGS = tuple(itertools.product(EPOCHS, RATES))
DEFAULT = (20, 3e-4)  # of aimwrap train --second-look
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # looked at twice in a cascade
Fill = Callable[[Tensor, Tensor], Tensor]


def grey(images: Tensor, kept: Tensor) -> Tensor:
    """The mean colour, which is 0 here."""
    return torch.where(kept > 0, images, 0.0)


def nothing(images: Tensor, kept: Tensor) -> Tensor:
    """The box's own background stays."""
    return images


def own_mean(images: Tensor, kept: Tensor) -> Tensor:
    """Each image's mean colour of the pixels that are kept."""
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept > 0, images, mean)


class View(NamedTuple):
    fill: Fill = grey
    margin: int = 1
    size: int | None = None  # 160 by default


VIEWS = {
    "grey, margin 1, size 160": View(),
    "the box's own background": View(nothing),
    "size 112": View(size=112),
    "size 80": View(size=80),
    "size 224": View(size=224),
    "margin 2": View(margin=2),
    "margin 0": View(margin=0),
    "mean colour of the kept pixels": View(own_mean),
}
GREY, BOX, *_ = VIEWS
PLAIN, BOTH = "linear probe, one pass", "grey and box, logits averaged"
CASCADES = (GREY, "size 112", "size 80")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2])
    parser.add_argument("--ties", type=numbers(float), default=[1.0, 0.95])
    parser.add_argument("--views", type=int, default=len(VIEWS), help="only the first of them")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = results_of("views")
    backbone = load_pretrained_backbone()
    for seed, tie in itertools.product(arguments.seeds, [] if arguments.table else arguments.ties):
        done = [record["view"] for record in read() if (record["tie"], record["seed"]) == (tie, seed)]
        views = [*VIEWS][: arguments.views]
        if {PLAIN, BOTH, *views} - {*done}:
            for record in measured(tie, seed, backbone, views):
                if record["view"] not in done:
                    append_result(path, {"tie": tie, "seed": seed} | record)
                    print(tie, seed, record["view"], max(run["worst_group"] for run in record["runs"]), flush=True)
    note = "In brackets the number of seeds; ± is the standard deviation over them."
    tables = "\n".join([note, "", *views_table(read()), "", *cascade_table(read())])
    print(tables)
    path.with_suffix(".md").write_text(tables + "\n")


def measured(tie: float, seed: int, backbone: nn.Module, views: list[str]) -> Iterator[dict[str, Any]]:
    """The records of a cell, view by view."""
    tapping = AIM(backbone, [2, 3], num_classes=2).eval()
    whole, test = (with_maps(tapping, split) for split in load_data(tie, seed, None))
    order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(seed))
    held_out, train_set = rows_of(whole, order[:HELD_OUT]), rows_of(whole, order[HELD_OUT:])
    yield {"view": PLAIN, "runs": [run(test, logits, *setting) for setting, logits in searched(train_set, test, seed)]}
    first = train(Config("aim", tie, seed, **FIRST), (train_set, test), backbone).model.eval()
    assert isinstance(first, AIM)
    (train_masks, _), (_, calibration), (test_masks, test_logits) = (
        looked(first, split) for split in (train_set, held_out, test)
    )
    kept_logits: dict[str, dict[tuple[int, float], Tensor]] = {}
    for name in views:
        view = VIEWS[name]
        seen = [
            split._replace(maps={"final map": features_of(view, split.images, masks, backbone)})
            for split, masks in ((train_set, train_masks), (test, test_masks))
        ]
        kept_logits[name] = found = dict(searched(seen[0], seen[1], seed))
        record: dict[str, Any] = {
            "view": name,
            "first": run(test, test_logits, FIRST["epochs"], FIRST["learning_rate"]),
        }
        record["runs"] = [run(test, logits, *setting) for setting, logits in found.items()]
        if name in CASCADES:
            for one, logits in zip(record["runs"], found.values(), strict=True):
                one["cascades"] = [cascade(share, calibration, test_logits, logits, test) for share in SHARES]
        yield record
        if name == BOX:
            both = {setting: (kept_logits[GREY][setting] + found[setting]) / 2 for setting in found}
            yield {"view": BOTH, "runs": [run(test, logits, *setting) for setting, logits in both.items()]}


@torch.no_grad()
def with_maps(tapping: AIM, data: Data) -> Data:
    batches = [tapping.forward_backbone(images) for images in data.images.split(BATCH)]
    return data._replace(maps={name: torch.cat([maps[name] for maps in batches]) for name in batches[0]})


@torch.no_grad()
def looked(first: AIM, data: Data) -> tuple[Tensor, Tensor]:
    """The merged masks and the logits of the first look."""
    features = [first.forward_masks(rows_of(data, rows).maps) for rows in torch.arange(len(data.labels)).split(50)]
    return (
        torch.cat([each.merged_mask for each in features]),
        torch.cat([first.forward_head(each).logits for each in features]),
    )


@torch.no_grad()
def features_of(view: View, images: Tensor, masks: Tensor, backbone: nn.Module) -> Tensor:
    """The backbone's average features of what a view shows, as maps of one position."""
    found = []
    for some, of_them in zip(images.split(BATCH), masks.split(BATCH), strict=True):
        kept = kept_pixels(of_them, some, view.margin)
        shown = enlarge(view.fill(some, kept), boxes_around(kept), view.size)
        maps = backbone.forward_features(shown.contiguous(memory_format=torch.channels_last))
        found.append(maps.mean((2, 3), keepdim=True))
    return torch.cat(found)


def searched(train_set: Data, test: Data, seed: int) -> Iterator[tuple[tuple[int, float], Tensor]]:
    """Plain's search: each setting with the test images' logits. Fewer epochs are the beginning of more of them."""
    sets = [each._replace(maps={"final map": each.maps["final map"].mean((2, 3), True)}) for each in (train_set, test)]
    vectors = sets[1].maps["final map"].flatten(1)
    for rate in RATES:
        torch.manual_seed(seed)
        classifier = nn.Linear(vectors.shape[1], 2)
        seen: list[Tensor] = []
        config = Config("plain", 1.0, seed, epochs=max(EPOCHS), learning_rate=rate)
        holder = _Holder(classifier)
        train_plain(
            config,
            (sets[0], sets[1]),
            holder,
            watch=lambda model, _, seen=seen: seen.append(model(vectors).detach()),
            classifier=classifier,
        )
        yield from (((epochs, rate), seen[epochs - 1]) for epochs in EPOCHS)


class _Holder(nn.Module):
    """A backbone of which only the classifier is used."""

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier, self.num_features = classifier, classifier.in_features


def run(test: Data, logits: Tensor, epochs: int, rate: float) -> dict[str, Any]:
    return {"epochs": epochs, "learning_rate": rate} | scores(test, logits)


def scores(test: Data, logits: Tensor) -> dict[str, float]:
    predicted = logits.argmax(1)
    groups = 2 * test.labels + test.places
    return {
        "accuracy": (predicted == test.labels).float().mean().item(),
        "worst_group": worst_group_accuracy(predicted, test.labels, groups, 4).item(),
    }


def cascade(share: float, calibration: Tensor, first: Tensor, second: Tensor, test: Data) -> dict[str, float]:
    """The second look decides where the first is less sure than a threshold, and what that costs and gives.

    The threshold is the one below which this share of the held-out training images is; ``of_test`` has the scores at
    the threshold that reaches it on the test images, which in practice nobody knows.
    """
    sure = confidence(first)
    found: dict[str, Any] = {"asked": share}
    for name, by in (("", confidence(calibration)), ("of_test", sure)):
        again = sure < by.quantile(share)
        scored = scores(test, torch.where(again[:, None], second, first)) | {"share": again.float().mean().item()}
        found |= {f"{name}_{key}".strip("_"): value for key, value in scored.items()}
    return found


def confidence(logits: Tensor) -> Tensor:
    return logits.double().softmax(1).amax(1)  # in float32 many are 1


def read() -> list[dict[str, Any]]:
    path = results_of("views")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of(records: list[dict[str, Any]], view: str, tie: float) -> list[dict[str, Any]]:
    return [record for record in records if (record["view"], record["tie"]) == (view, tie)]


def at(record: dict[str, Any], setting: tuple[int, float] = DEFAULT) -> dict[str, Any]:
    return next(one for one in record["runs"] if (one["epochs"], one["learning_rate"]) == setting)


def mean(values: list[float]) -> str:
    """With the standard deviation over seeds."""
    found = torch.tensor(values)
    return f"{found.mean():.3f} ± {found.std():.3f}" if len(values) > 1 else f"{found.mean():.3f}"


def views_table(records: list[dict[str, Any]]) -> list[str]:
    """Worst group per view: at the best setting by its mean over seeds, in the median over settings, at the default."""
    lines = [
        "| tie | view | best setting | worst group there | median over settings | at the defaults | accuracy there |"
    ]
    lines.append("| --- " * 7 + "|")
    for tie, view in itertools.product((0.95, 1.0), (PLAIN, *VIEWS, BOTH)):
        if not (cells := of(records, view, tie)):
            continue
        best = max(SETTINGS, key=lambda setting: sum(at(cell, setting)["worst_group"] for cell in cells))
        medians = [torch.tensor([one["worst_group"] for one in cell["runs"]]).quantile(0.5).item() for cell in cells]
        columns = [
            f"{best[0]} epochs at {best[1]:g}",
            mean([at(cell, best)["worst_group"] for cell in cells]),
            mean(medians),
            mean([at(cell)["worst_group"] for cell in cells]),
            mean([at(cell)["accuracy"] for cell in cells]),
        ]
        lines.append(f"| {tie:.0%} | {view} ({len(cells)}) | {' | '.join(columns)} |")
    return lines


def cascade_table(records: list[dict[str, Any]]) -> list[str]:
    """At the defaults: the share looked at twice, passes of the backbone for each image, and worst group."""
    lines = [
        "| tie | second look | asked | looked at twice | passes | worst group | passes, exact share | worst group |"
    ]
    lines.append("| --- " * 8 + "|")
    for tie, view in itertools.product((0.95, 1.0), CASCADES):
        if not (cells := of(records, view, tie)):
            continue
        part = ((VIEWS[view].size or 160) / 160) ** 2  # of a pass
        first, second = (
            mean([cell["first"]["worst_group"] for cell in cells]),
            mean([at(c)["worst_group"] for c in cells]),
        )
        lines.append(f"| {tie:.0%} | none | 0 | 0 | 1.00 | {first} | | |")
        for share in SHARES:
            found = [one for cell in cells for one in at(cell)["cascades"] if one["asked"] == share]
            if not found:
                continue
            passes = 1 + part * torch.tensor([one["share"] for one in found]).mean().item()
            columns = [f"{share:.0%}", mean([one["share"] for one in found]), f"{passes:.2f}"]
            columns += [mean([one["worst_group"] for one in found]), f"{1 + part * share:.2f}"]
            columns += [mean([one["of_test_worst_group"] for one in found])]
            lines.append(f"| {tie:.0%} | {view} ({len(found)}) | {' | '.join(columns)} |")
        lines.append(f"| {tie:.0%} | {view} ({len(cells)}) | all | 1 | {1 + part:.2f} | {second} | | |")
    return lines


if __name__ == "__main__":
    main()
